"""The token mixer of every layer: grouped-query or latent attention, windows, linear mixers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.specs.config_fields import Fields
from planner.specs.huggingface_families import Family
from planner.specs.huggingface_linear import linear_layers, linear_mixer
from planner.specs.model import (
    Attention,
    GroupedQueryAttention,
    LatentAttention,
    SparseIndexer,
)

_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "num_attention_groups")
_LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")


def mixers(
    fields: Fields, known: Family, hidden: int, layers: int, linear: Sequence[bool] | None = None
) -> list[Attention]:
    """The mixer of each of ``layers`` layers.

    ``linear`` overrides which layers have the linear mixer.
    """
    kinds = fields.kinds(layers, "layer_types", _LAYER_TYPES)
    where = linear if linear is not None else linear_layers(fields, layers, kinds)
    if fields.optional("kv_lora_rank") is not None:
        found: list[Attention] = list(_latent(fields, layers))
    else:
        found = list(_grouped(fields, known, hidden, layers, kinds))
    if not any(where):
        return found
    mixer = linear_mixer(fields, hidden)
    return [mixer if here else other for other, here in zip(found, where, strict=True)]


def _latent(fields: Fields, layers: int) -> list[LatentAttention]:
    """Multi-head latent attention; ``head_dim`` says different things there and is ignored."""
    fields.first("head_dim", *_KV_HEADS)
    fields.flag("use_mla", default=True)
    base = LatentAttention(
        heads=fields.count(*_HEADS),
        kv_rank=fields.count("kv_lora_rank"),
        nope_dim=fields.count("qk_nope_head_dim"),
        rope_dim=fields.count("qk_rope_head_dim"),
        value_dim=fields.count("v_head_dim"),
        query_rank=fields.optional("q_lora_rank"),
        bias=fields.flag("attention_bias"),
        output_gate=fields.flag("mla_use_output_gate"),
    )
    indexer = _indexer(fields)
    if indexer is None:
        return [base] * layers
    kinds = fields.kinds(layers, "indexer_types", ("full", "shared"))
    if kinds is None:
        return [replace(base, indexer=indexer)] * layers
    # The rule behind the list; without the list it stays unread and is refused.
    fields.read.update(("index_topk_freq", "index_skip_topk_offset", "index_topk_pattern"))
    own = replace(base, indexer=indexer)
    borrowed = replace(base, indexer=replace(indexer, shared=True))
    return [borrowed if kind == "shared" else own for kind in kinds]


def _indexer(fields: Fields) -> SparseIndexer | None:
    heads = fields.optional("index_n_heads")
    if heads is None:
        return None
    return SparseIndexer(heads, fields.count("index_head_dim"), fields.count("index_topk"))


def _grouped(
    fields: Fields, known: Family, hidden: int, layers: int, kinds: list[str] | None
) -> list[GroupedQueryAttention]:
    """Softmax attention with its window and the variations between layers."""
    base = _base(fields, known, hidden)
    windows = _windows(fields, known, layers, kinds)
    found = [replace(base, window=window) for window in windows]
    if fields.has("swa_num_key_value_heads"):
        found = _other_heads_in_windows(fields, found)
    share = fields.optional("cla_share_factor") or 1
    if fields.flag("use_cla"):
        found = [replace(a, borrows_kv=i % share > 0) for i, a in enumerate(found)]
    if fields.has("compress_ratios"):
        return _compressed(fields, found)
    if fields.has("sparse_attention_config"):
        return _block_sparse(fields, found)
    return found


def _base(fields: Fields, known: Family, hidden: int) -> GroupedQueryAttention:
    """What all softmax layers have in common."""
    heads = fields.count(*_HEADS)
    head_dim = fields.optional("head_dim", "attention_head_dim", "kv_channels")
    if head_dim is None:
        if hidden % heads:
            raise fields.wrong(
                _HEADS[0], heads, f"a divisor of hidden_size ({hidden}), or a field 'head_dim'"
            )
        head_dim = hidden // heads
    everywhere = fields.flag("_bias_all")
    stated = fields.flag("attention_bias", "qkv_bias", "use_qkv_bias", "bias") or everywhere
    fields.flag("use_mla")
    norm_type = fields.text("qk_norm_type")
    fields.flag("_mfa")  # marks Step-3's attention, which q_lora_rank describes
    return GroupedQueryAttention(
        heads=heads,
        kv_heads=_kv_heads(fields, heads),
        head_dim=head_dim,
        qkv_bias=stated if known.qkv_bias is None else known.qkv_bias,
        output_bias=stated if known.output_bias is None else known.output_bias,
        qk_norm=fields.flag("use_qk_norm", "qk_layernorm", default=known.qk_norm),
        qk_norm_full=known.qk_norm_full or norm_type == "per_layer",
        output_gate=fields.flag(
            "attn_output_gate", "attention_output_gate", default=known.output_gate
        ),
        sinks=known.sinks,
        value_dim=fields.optional("v_head_dim"),
        query_rank=fields.optional("q_lora_rank", "share_q_dim"),
    )


def _kv_heads(fields: Fields, heads: int) -> int:
    if fields.flag("multi_query") and not fields.flag("new_decoder_architecture"):
        return 1
    kv_heads = fields.count(*_KV_HEADS, default=heads)
    if heads % kv_heads:
        raise fields.wrong(
            fields.first(*_KV_HEADS)[0], kv_heads, f"a divisor of the {heads} query heads"
        )
    return kv_heads


def _windows(
    fields: Fields, known: Family, layers: int, kinds: list[str] | None
) -> list[int | None]:
    """The window of each layer, None for full attention.

    A chunk (Llama-4) counts as a window of its size, which is what it may keep; a query sees half
    of it on average.
    """
    size = fields.optional("sliding_window", "sliding_window_size")
    fields.optional("sliding_window_size")
    chunk = fields.optional("attention_chunk_size")
    pattern = fields.optional("sliding_window_pattern", "_sliding_window_pattern")
    wanted = fields.flag("use_sliding_window", default=True)
    late = fields.optional("max_window_layers") or 0
    if fields.has("hybrid_layer_pattern"):
        marks = fields.per_layer(layers, "hybrid_layer_pattern")
        return [size if mark else None for mark in marks]
    if kinds is not None:
        by_kind = {"sliding_attention": size, "chunked_attention": chunk}
        return [by_kind.get(kind) for kind in kinds]
    if known.windows == "chunks":
        step = fields.count("no_rope_layer_interval", default=4)
        if fields.first("no_rope_layers")[1]:
            return [chunk if mark else None for mark in fields.per_layer(layers, "no_rope_layers")]
        return [chunk if (i + 1) % step else None for i in range(layers)]
    if size is None or not wanted:
        return [None] * layers
    if known.windows == "even":
        return [size if i % 2 == 0 else None for i in range(layers)]
    if known.windows == "late":
        return [size if i >= late else None for i in range(layers)]
    return [size if pattern is None or (i + 1) % pattern else None for i in range(layers)]


def _other_heads_in_windows(
    fields: Fields, found: list[GroupedQueryAttention]
) -> list[GroupedQueryAttention]:
    """MiMo-V2: the layers with a window have heads of their own."""
    heads = fields.count("swa_num_attention_heads")
    kv_heads = fields.count("swa_num_key_value_heads")
    head_dim, value_dim = fields.count("swa_head_dim"), fields.count("swa_v_head_dim")
    sinks = fields.flag("add_swa_attention_sink_bias")
    full_sinks = fields.flag("add_full_attention_sink_bias")

    def one(attention: GroupedQueryAttention) -> GroupedQueryAttention:
        if attention.window is None:
            return replace(attention, sinks=full_sinks)
        return replace(
            attention,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            sinks=sinks,
        )

    return [one(attention) for attention in found]


def _compressed(fields: Fields, found: list[GroupedQueryAttention]) -> list[GroupedQueryAttention]:
    """DeepSeek-V4: one shared key-value head, a window, and merged keys beyond it."""
    ratios = fields.per_layer(len(found), "compress_ratios")
    window = fields.count("sliding_window")
    fields.count("num_hash_layers", default=0, least=0)  # routed by a table of tokens: no weights
    fields.count("qk_rope_head_dim")  # part of head_dim
    output_rank, groups = fields.count("o_lora_rank"), fields.count("o_groups")
    indexer = _indexer(fields)
    sparse = min((ratio for ratio in ratios if ratio), default=0)
    return [
        replace(
            attention,
            window=window,
            key_is_value=True,
            qk_norm=True,
            sinks=True,
            output_rank=output_rank,
            output_groups=groups,
            compression=ratio,
            indexer=indexer if ratio and ratio == sparse else None,
        )
        for attention, ratio in zip(found, ratios, strict=True)
    ]


def _block_sparse(
    fields: Fields, found: list[GroupedQueryAttention]
) -> list[GroupedQueryAttention]:
    """MiniMax-M3: an indexer picks blocks of keys in the layers that are marked."""
    inner = fields.inner("sparse_attention_config")
    if not inner.flag("use_sparse_attention", default=True):
        inner.read.update(inner.values)
        return found
    # Blocks that are always kept are among the top_k, and how blocks are scored costs the same.
    inner.read.update(("sparse_init_block", "sparse_local_block", "sparse_score_type"))
    indexer = SparseIndexer(
        inner.count("sparse_num_index_heads"),
        inner.count("sparse_index_dim"),
        inner.count("sparse_topk_blocks") * inner.count("sparse_block_size"),
    )
    marks = inner.per_layer(len(found), "sparse_attention_freq", default=1)
    without_value = inner.per_layer(len(found), "sparse_disable_index_value")
    if any(mark and not off for mark, off in zip(marks, without_value, strict=True)):
        raise inner.wrong("sparse_disable_index_value", 0, "1, an indexer without values")
    return [
        replace(a, indexer=indexer if mark else None) for a, mark in zip(found, marks, strict=True)
    ]
