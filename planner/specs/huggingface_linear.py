"""Linear mixers: gated delta net, Kimi delta attention, lightning attention, Mamba 1 and 2.

Each becomes a :class:`~planner.specs.model.LinearAttention`: columns and rows of its outer
projections, other parameters, FLOPs per token of what lies between, and elements of its state.
"""

from __future__ import annotations

import math

from planner.specs.config_fields import Fields
from planner.specs.model import LinearAttention

DELTA_FLOPS = 7
"""FLOPs per element of the state and token of a delta rule: decay 1, read, update and query 2 each
(arXiv 2412.06464, equation 10)."""

LIGHTNING_FLOPS = 5
"""Decay 1, update and query 2 each (arXiv 2501.08313, section 2.2)."""

MAMBA1_FLOPS = 9
"""Discretise, decay, update and query (mamba's own count, arXiv 2312.00752, section 3.3.2)."""

MAMBA2_FLOPS = 5
"""Decay 1, update and query 2 each (arXiv 2405.21060, section 5)."""


def linear_layers(fields: Fields, layers: int, kinds: list[str] | None) -> list[bool]:
    """Which layers have the linear mixer."""
    interval = fields.optional("full_attention_interval")
    if fields.has("attn_type_list"):
        return [kind == 0 for kind in fields.per_layer(layers, "attn_type_list")]
    if fields.has("linear_attn_config"):
        return _kimi_layers(fields, layers)
    if kinds is not None:
        return [kind == "linear_attention" for kind in kinds]
    if interval is not None:
        return [(i + 1) % interval != 0 for i in range(layers)]
    period = fields.optional("attn_layer_period")
    offset = fields.count("attn_layer_offset", default=0, least=0)
    if period is not None:
        return [i % period != offset for i in range(layers)]
    return [False] * layers


def linear_mixer(fields: Fields, hidden: int) -> LinearAttention:
    """The linear mixer that the configuration describes."""
    if fields.has("linear_num_value_heads"):
        return _delta_net(fields)
    if fields.has("linear_attn_config"):
        return _kimi_delta(fields)
    if fields.has("mamba_num_heads"):
        return _mamba2(fields)
    if fields.has("mamba_d_state"):
        return _mamba1(fields, hidden)
    return _lightning(fields)


def _delta_net(fields: Fields) -> LinearAttention:
    """Gated delta net (Qwen3-Next, Qwen3.5)."""
    key_heads = fields.count("linear_num_key_heads")
    heads = fields.count("linear_num_value_heads")
    key_dim, value_dim = fields.count("linear_key_head_dim"), fields.count("linear_value_head_dim")
    kernel = fields.count("linear_conv_kernel_dim")
    keys, values = key_heads * key_dim, heads * value_dim
    convolved = 2 * keys + values
    state = heads * key_dim * value_dim
    return LinearAttention(
        name="gated delta net",
        heads=heads,
        input_columns=2 * keys + 2 * values + 2 * heads,  # q, k, v, output gate, beta, decay
        output_rows=values,
        other_parameters=convolved * kernel + 2 * heads + value_dim,
        recurrence_flops=float(DELTA_FLOPS * state + 2 * kernel * convolved),
        state_elements=state + (kernel - 1) * convolved,
    )


def _kimi_layers(fields: Fields, layers: int) -> list[bool]:
    """Layer numbers count from 1 there; the two lists must cover all layers once."""
    inner = fields.inner("linear_attn_config")
    linear = inner.layer_numbers("kda_layers") or []
    full = inner.layer_numbers("full_attn_layers") or []
    if sorted(linear + full) != list(range(1, layers + 1)):
        raise inner.wrong(
            "kda_layers", linear, f"with full_attn_layers every number from 1 to {layers} once"
        )
    return [i in set(linear) for i in range(1, layers + 1)]


def _kimi_delta(fields: Fields) -> LinearAttention:
    """Kimi delta attention: a decay for each channel, from a low-rank projection."""
    inner = fields.inner("linear_attn_config")
    heads, dim = inner.count("num_heads"), inner.count("head_dim")
    kernel = inner.count("short_conv_kernel_size")
    width = heads * dim
    full_gate = inner.flag("use_full_rank_gate")
    state = heads * dim * dim
    low_rank = dim * width * (1 if full_gate else 2)  # second halves of decay and gate
    return LinearAttention(
        name="Kimi delta attention",
        heads=heads,
        # q, k, v, first half of the decay, output gate, beta
        input_columns=3 * width + dim + (width if full_gate else dim) + heads,
        output_rows=width,
        other_parameters=3 * width * kernel + low_rank + width + 2 * dim,
        recurrence_flops=float(DELTA_FLOPS * state + 2 * kernel * 3 * width + 2 * low_rank),
        state_elements=state + (kernel - 1) * 3 * width,
    )


def _lightning(fields: Fields) -> LinearAttention:
    """Lightning attention (MiniMax-01, M1): q, k, v and an output gate, all multi-head."""
    heads, dim = fields.count("num_attention_heads"), fields.count("head_dim")
    width, state = heads * dim, heads * dim * dim
    return LinearAttention(
        name="lightning attention",
        heads=heads,
        input_columns=4 * width,
        output_rows=width,
        other_parameters=width,
        recurrence_flops=float(LIGHTNING_FLOPS * state),
        state_elements=state,
    )


def _mamba1(fields: Fields, hidden: int) -> LinearAttention:
    """Mamba with Jamba's norms on step size, B and C; every channel is a head."""
    states, kernel = fields.count("mamba_d_state"), fields.count("mamba_d_conv")
    inner = fields.count("mamba_expand") * hidden
    key, rank = fields.first("mamba_dt_rank")
    rank = math.ceil(hidden / 16) if rank in (None, "auto") else fields.count(key)
    fields.flag("mamba_conv_bias", default=True)
    fields.flag("mamba_proj_bias")
    small = inner * (rank + 2 * states) + rank * inner
    return LinearAttention(
        name="Mamba",
        heads=inner,
        input_columns=2 * inner,
        output_rows=inner,
        other_parameters=small + inner * (kernel + states + 3) + rank + 2 * states,
        recurrence_flops=float(MAMBA1_FLOPS * inner * states + 2 * small + 2 * kernel * inner),
        state_elements=inner * (states + kernel - 1),
    )


def _mamba2(fields: Fields) -> LinearAttention:
    """Mamba 2 (Nemotron-H)."""
    heads, dim = fields.count("mamba_num_heads"), fields.count("mamba_head_dim")
    states, groups = fields.count("ssm_state_size"), fields.count("n_groups")
    kernel = fields.count("conv_kernel")
    fields.optional("expand")  # mamba_num_heads and mamba_head_dim say it
    fields.flag("use_conv_bias")
    inner = heads * dim
    convolved = inner + 2 * groups * states
    return LinearAttention(
        name="Mamba 2",
        heads=heads,
        input_columns=inner + convolved + heads,
        output_rows=inner,
        other_parameters=convolved * (kernel + 1) + 3 * heads + inner,
        recurrence_flops=float(MAMBA2_FLOPS * inner * states + 2 * kernel * convolved),
        state_elements=inner * states + (kernel - 1) * convolved,
    )
