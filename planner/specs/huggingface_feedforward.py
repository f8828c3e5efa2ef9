"""The feed-forward part of every layer: dense, mixture of experts, and which is where."""

from __future__ import annotations

from collections.abc import Sequence

from planner.specs.config_fields import Fields
from planner.specs.huggingface_families import Family
from planner.specs.model import DenseFeedForward, FeedForward, MixtureOfExperts

_GATED_ACTIVATIONS = ("silu", "swish", "swiglu", "swigluoai", "situ", "geglu", "reglu")
_EXPERTS = (
    "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_moe_experts",
)  # fmt: skip
_TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k",
    "moe_top_k", "top_k_experts",
)  # fmt: skip
_WIDTH = (
    "intermediate_size_mlp", "dense_intermediate_size", "intermediate_size", "ffn_hidden_size",
    "n_inner", "ffn_dim", "d_ff",
)  # fmt: skip
_SHARED_COUNT = (
    "n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts",
)  # fmt: skip
_SHARED_WIDTH = (
    "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim",
    "shared_intermediate_size",
)  # fmt: skip


def feedforwards(
    fields: Fields, known: Family, hidden: int, layers: int, dense: Sequence[bool] | None = None
) -> list[FeedForward | None]:
    """The feed-forward part of each of ``layers`` layers.

    ``dense`` overrides which layers have one feed-forward instead of experts.
    """
    gated = _gated(fields, known)
    experts = fields.optional(*_EXPERTS)
    sparse = _sparse_layers(fields, layers)
    if dense is not None:
        sparse = [not one for one in dense]
    width = _dense_width(fields, known, hidden, needed=experts is None or not all(sparse))
    bias = fields.flag("mlp_bias", "_bias_all")
    if known.mlp_bias is not None:
        bias = known.mlp_bias
    plain = DenseFeedForward(width or 1, gated, bias)
    if experts is None:
        fields.first(*_TOP_K)
        return [plain] * layers
    mixtures = _mixtures(fields, known, hidden, layers, gated, experts)
    return [mixture if here else plain for mixture, here in zip(mixtures, sparse, strict=True)]


def _gated(fields: Fields, known: Family) -> bool:
    """Whether a feed-forward has three matrices."""
    key, activation = fields.first(
        "hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"
    )
    matrices = fields.optional("_mlp_mats")
    if matrices is not None:
        return matrices == 3
    if fields.has("gated"):
        return fields.flag("gated")
    if known.gated is not None:
        return known.gated
    if activation is None or activation in _GATED_ACTIVATIONS:
        return True
    raise fields.wrong(
        key, activation, "silu, or a model_type whose feed-forward is known, or a field 'gated'"
    )


def _dense_width(fields: Fields, known: Family, hidden: int, *, needed: bool) -> int | None:
    width = fields.optional(*_WIDTH)
    if width is None and needed:
        if known.widening is None:
            raise fields.missing("intermediate_size")
        return known.widening * hidden
    return width


def _mixtures(
    fields: Fields, known: Family, hidden: int, layers: int, gated: bool, experts: int
) -> list[MixtureOfExperts]:
    """One mixture for each layer; lists in the configuration may make them differ."""
    top_k = fields.per_layer(layers, *_TOP_K, least=1)
    if max(top_k) > experts:
        raise fields.wrong(fields.first(*_TOP_K)[0], max(top_k), f"at most {experts} experts")
    names = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    widths = fields.per_layer(layers, *names, "ffn_hidden_size", least=1)
    counts = fields.per_layer(layers, *_SHARED_COUNT, default=known.shared_experts)
    shared = fields.optional(*_SHARED_WIDTH)
    latent = fields.optional("routed_expert_hidden_size", "moe_latent_size")
    fields.flag("latent_moe_use_norm")  # one vector: too small to count
    dense_width = _dense_branch(fields, hidden)
    groups = fields.optional("n_group", "num_expert_group")
    allowed = fields.optional("topk_group")
    limits = (allowed, groups) if groups and allowed and allowed < groups else None
    router_bias = fields.flag("use_routing_bias", "use_moe_router_bias", default=known.router_bias)
    return [
        MixtureOfExperts(
            experts=experts,
            top_k=k,
            width=width,
            gated=gated,
            shared_width=shared if shared is not None else count * width,
            shared_gate=known.shared_gate and shared is not None,
            dense_width=dense_width,
            expert_bias=known.expert_bias,
            router_bias=router_bias,
            latent=latent,
            route_groups=limits,
        )
        for k, width, count in zip(top_k, widths, counts, strict=True)
    ]


def _dense_branch(fields: Fields, hidden: int) -> int:
    """Width of Arctic's dense branch beside the experts: the hidden size."""
    stated = fields.optional("_dense_residual_ff")
    beside = fields.flag("parallel_attn_mlp_res")
    return (stated or hidden) if beside else 0


def _sparse_layers(fields: Fields, layers: int) -> list[bool]:
    """Which layers have experts, by all the rules that configurations use."""
    sparse = [True] * layers

    def keep(rule: Sequence[bool]) -> None:
        sparse[:] = [one and other for one, other in zip(sparse, rule, strict=True)]

    def every(key: str, offset: int) -> None:
        step = fields.optional(key)
        if step is not None:
            keep([(i + offset) % step == 0 for i in range(layers)])

    dense_first = fields.optional("first_k_dense_replace", "moe_layer_num_skipped") or 0
    keep([i >= dense_first for i in range(layers)])
    if isinstance(fields.first("moe_layer_freq")[1], list):
        keep([bool(one) for one in fields.per_layer(layers, "moe_layer_freq")])
    else:
        every("moe_layer_freq", 0)
    every("moe_layer_frequency", 1)
    every("decoder_sparse_step", 1)
    every("interleave_moe_layer_step", 1)
    period = fields.optional("expert_layer_period")
    offset = fields.count("expert_layer_offset", default=0, least=0)
    if period is not None:
        keep([i % period == offset for i in range(layers)])
    kinds = fields.kinds(layers, "mlp_layer_types", ("dense", "sparse"))
    keep([kind == "sparse" for kind in kinds or ["sparse"] * layers])
    only_dense = fields.layer_numbers("mlp_only_layers") or []
    keep([i not in only_dense for i in range(layers)])
    listed = fields.layer_numbers("moe_layers")
    keep([listed is None or i in listed for i in range(layers)])
    enumerated = fields.text("moe_layers_enum")  # Step-3: a text of numbers
    keep([not enumerated or str(i) in enumerated.split(",") for i in range(layers)])
    start = fields.count("moe_layer_start_index", default=0, least=0)
    end = fields.count("moe_layer_end_index", default=layers, least=0)
    keep([start <= i <= end for i in range(layers)])
    every("moe_layer_interval", 1)
    return sparse
