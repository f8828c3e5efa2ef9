"""From a Hugging Face ``config.json`` to a :class:`~planner.specs.model.ModelSpec`.

One reader serves all families: dimensions are looked up under the names that the public
configurations use, :mod:`planner.specs.huggingface_families` adds what a family leaves unsaid, and
whatever is left over is an error.  Parameters follow from the result and are never read.
Only the decoder is modelled: vision and audio towers are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.specs.config_fields import Fields
from planner.specs.huggingface_attention import mixers
from planner.specs.huggingface_families import COMMON, GPT_RECORD, Family, family
from planner.specs.huggingface_feedforward import feedforwards
from planner.specs.huggingface_quantization import quantization
from planner.specs.model import (
    Attention,
    DenseFeedForward,
    FeedForward,
    Layer,
    MixtureOfExperts,
    ModelSpec,
)

NESTED = ("text_config", "llm_config", "language_config")
"""Where multimodal models keep the decoder."""

MERGED = ("attn_config", "ffn_config")
"""Where DBRX keeps the two halves of a layer."""

MAX_LAYERS = 10_000
"""More layers than any model has, few enough to list."""

RECORD_POSITIONS = 2048
"""Rows of a learned position table where a benchmark record does not say; GPT-3's context
(arXiv 2005.14165, table 2.1).  It moves a total by less than 0.1 %."""


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    PlannerError
        If there is no such file or it does not hold a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PlannerError(f"{path}: cannot be read ({error}), expected a config.json") from error
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise PlannerError(
            f"{path}: not valid JSON ({error}), expected a whole config.json"
        ) from error
    if not isinstance(found, dict):
        raise PlannerError(f"{path}: found a {type(found).__name__}, expected a JSON object")
    return found


def spec_from_config(
    name: str, config: Mapping[str, Any], where: str | Path | None = None
) -> ModelSpec:
    """Turn a configuration into a model.

    Parameters
    ----------
    name
        The model's name.
    config
        The contents of ``config.json``.
    where
        The file, for messages; the name by default.

    Raises
    ------
    PlannerError
        If a field is missing, has a wrong value, or is not understood.
    """
    place = str(where or name)
    fields = Fields(place, _flat(place, config))
    model_type = fields.text("model_type")
    return _build(name, fields, family(model_type) if model_type else COMMON)


def spec_from_record(
    name: str, record: Mapping[str, Any], where: str | Path | None = None
) -> ModelSpec:
    """Turn a record of dimensions into a model; see ``models_db/benchmarks.yaml``.

    A record has the names of ``config.json``, and ``gated`` (three matrices or two),
    ``position_embedding`` (learned, rope, alibi or none), ``layer_kinds`` (a letter a block: M for
    Mamba, E for experts, - for dense, * for attention) and its provenance.
    Without ``model_type`` an ungated record is a GPT: biases everywhere and LayerNorms.

    Raises
    ------
    PlannerError
        If a field is missing, has a wrong value, or is not understood.
    """
    place = str(where or name)
    fields = Fields(place, _flat(place, record))
    model_type = fields.text("model_type")
    if model_type:
        chosen = family(model_type)
    else:
        chosen = COMMON if fields.flag("gated", default=True) else GPT_RECORD
    return _build(name, fields, chosen)


def _flat(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Lift the decoder of a multimodal model, and DBRX's halves, to the top."""
    if not isinstance(config, Mapping):
        raise PlannerError(
            f"{where}: found a {type(config).__name__}, expected a mapping of fields"
        )
    flat = dict(config)
    for key in NESTED + MERGED:
        inner = flat.pop(key, None)
        if inner is None:
            continue
        if not isinstance(inner, Mapping):
            raise PlannerError(f"{where}: field {key!r}: found {inner!r}, expected an object")
        flat |= {k: v for k, v in inner.items() if not (key in MERGED and k == "model_type")}
    return flat


def _build(name: str, fields: Fields, known: Family) -> ModelSpec:
    hidden = fields.count("hidden_size", "d_model", "n_embd", "n_embed")
    vocab = fields.count("vocab_size")
    attentions, parts = _blocks(fields, known, hidden)
    per_norm = 2 if known.layer_norm_bias else 1
    norms = fields.count("_norm_per_layer", default=known.norms)
    layers = tuple(
        Layer(mixer, part, per_norm * (norms if part is not None else norms // 2))
        for mixer, part in zip(attentions, parts, strict=True)
    )
    max_positions = fields.optional(
        "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length"
    )
    if fields.count("word_embed_proj_dim", default=hidden) != hidden:
        raise fields.wrong(
            "word_embed_proj_dim", fields.values["word_embed_proj_dim"], f"hidden_size ({hidden})"
        )
    spec = ModelSpec(
        name=name,
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        mtp_layers=_prediction_layers(fields, known, layers),
        tied_embeddings=_tied(fields, known),
        learned_positions=_position_rows(fields, known, max_positions),
        final_norms=per_norm + known.embedding_norms,
        other_parameters=_other(fields, known, hidden, vocab, len(layers)),
        max_positions=max_positions,
        quantization=quantization(fields),
    )
    unread = fields.unread()
    if unread:
        shown = ", ".join(f"{key} = {_short(value)}" for key, value in unread.items())
        raise PlannerError(
            f"{fields.where}: keys not understood: {shown}; expected only keys whose meaning "
            f"is known, because a guess could give another model"
        )
    return spec


def _tied(fields: Fields, known: Family) -> bool:
    """Whether input and output share one table; unsaid, only a known family tells."""
    if known.tied is None and not fields.has("tie_word_embeddings"):
        raise fields.missing(
            "tie_word_embeddings",
            expected=f"true or false, as model_type {fields.text('model_type')!r} is not known",
        )
    return fields.flag("tie_word_embeddings", default=bool(known.tied))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _blocks(
    fields: Fields, known: Family, hidden: int
) -> tuple[list[Attention], list[FeedForward | None]]:
    """The mixer and the feed-forward part of every layer."""
    key, kinds = fields.first("layer_kinds", "hybrid_override_pattern")
    blocks = fields.count("num_hidden_layers", "n_layer", "n_layers")
    if blocks > MAX_LAYERS:
        raise fields.wrong("num_hidden_layers", blocks, f"at most {MAX_LAYERS} layers")
    if kinds is None:
        return mixers(fields, known, hidden, blocks), feedforwards(fields, known, hidden, blocks)
    if not isinstance(kinds, str) or set(kinds) - set("ME*-"):
        raise fields.wrong(key, kinds, "a text of the letters M, E, * and -")
    if len(kinds) != blocks:
        raise fields.wrong(key, kinds, f"one letter for each of {blocks} blocks")
    pairs = _pairs(fields, key, kinds)
    linear = [mixer == "M" for mixer, _ in pairs]
    dense = [part == "-" for _, part in pairs]
    some = feedforwards(fields, known, hidden, len(pairs), dense=dense)
    parts = [part if kind else None for (_, kind), part in zip(pairs, some, strict=True)]
    return mixers(fields, known, hidden, len(pairs), linear=linear), parts


def _pairs(fields: Fields, key: str, kinds: str) -> list[tuple[str, str]]:
    """Mixers with the feed-forward block that follows each, or an empty text.

    >>> _pairs(None, "", "MEM*E")
    [('M', 'E'), ('M', ''), ('*', 'E')]
    """
    pairs: list[tuple[str, str]] = []
    for kind in kinds:
        if kind in "M*":
            pairs.append((kind, ""))
        elif not pairs or pairs[-1][1]:
            raise fields.wrong(key, kinds, "a feed-forward block only after a mixer (M or *)")
        else:
            pairs[-1] = (pairs[-1][0], kind)
    return pairs


def _prediction_layers(
    fields: Fields, known: Family, layers: tuple[Layer, ...]
) -> tuple[Layer, ...]:
    """Multi-token-prediction layers, each like the last whole layer, or the last dense one."""
    next_layers = fields.optional("num_nextn_predict_layers", "mtp_num_hidden_layers")
    modules = fields.optional("num_mtp_modules")
    depth = fields.optional("mtp_transformer_layers") or 1
    wanted = fields.flag("use_mtp", default=True)
    if next_layers is None:
        next_layers = modules * depth if modules and wanted else 0
    whole = (DenseFeedForward,) if known.dense_prediction else (DenseFeedForward, MixtureOfExperts)
    alike = (layer for layer in reversed(layers) if isinstance(layer.feedforward, whole))
    return (next(alike, layers[-1]),) * next_layers


def _position_rows(fields: Fields, known: Family, max_positions: int | None) -> int:
    """Rows of a learned position table."""
    stated = fields.optional("_learned_pos")
    if stated is not None:
        return stated
    kinds = {"learned": True, "rope": False, "alibi": False, "none": False}
    if fields.choice("position_embedding", kinds, False):
        return max_positions or RECORD_POSITIONS
    if known.position_rows is None:
        return 0
    if max_positions is None:
        raise fields.missing("max_position_embeddings", "n_positions")
    return max_positions + known.position_rows


def _other(fields: Fields, known: Family, hidden: int, vocab: int, layers: int) -> int:
    """Head bias, and the mixing weights of hyper-connections and attention residuals.

    Hyper-connections carry n streams and mix them before and after both halves of a layer
    (DeepSeek-V4); attention residuals score earlier blocks with one vector for each half (Kimi-K3).
    """
    count = vocab if fields.flag("lm_head_bias", default=known.head_bias) else 0
    streams = fields.optional("hc_mult")
    if streams:
        mixes = (2 + streams) * streams
        count += layers * 2 * (mixes * streams * hidden + mixes + 3)
        count += streams * streams * hidden + streams + 1
    if fields.optional("attn_res_block_size"):
        count += layers * 2 * 2 * hidden
    return count
