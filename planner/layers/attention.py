"""The token mixer of a layer: projections, the attention core, context parallelism.

Activation bytes follow arXiv 2205.05198 (section 4.1) tensor by tensor, so that grouped queries,
latent attention and linear attention come out of the same sum; fused attention keeps no scores.
"""

from __future__ import annotations

import numpy as np

from planner.costs import kernels
from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds, leaf, seq
from planner.layers.attention_core import FUSED_BACKWARD, Core, Heads, softmax_core
from planner.layers.linear import Projection, projection, tensor_parallel_edges
from planner.layers.part import NOTHING, Part, Setting, Sharding, moved
from planner.specs.model import (
    Attention,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
)


def attention_part(setting: Setting, spec: Attention, sharding: Sharding) -> Part:
    """Cost of one mixer for one micro-batch on one device."""
    if isinstance(spec, LinearAttention):
        return _linear(setting, spec, sharding)
    if isinstance(spec, LatentAttention):
        return _latent(setting, spec, sharding)
    return _grouped(setting, spec, sharding)


def _heads(sharding: Sharding, heads: int, kv_heads: int) -> tuple[Seconds, Seconds]:
    """Query and key-value heads of one rank; the latter are replicated when tp exceeds them."""
    return heads / sharding.tp, np.maximum(kv_heads / sharding.tp, 1.0)


def _block(
    setting: Setting,
    sharding: Sharding,
    first: list[Projection],
    core: Core,
    last: Projection,
    extra_traffic: Seconds,
    kept_core: Seconds,
    kept_between: Seconds,
    parameters: Seconds,
) -> Part:
    """Norm, projections, core, output projection and residual as one block.

    ``extra_traffic`` [B] is what rotary embedding, query-key norms and gates move, ``kept_core``
    [B] the operands and result of the core, ``kept_between`` [B] what selective recomputation
    repeats and need not keep.
    """
    job, hidden = setting.job, setting.hidden
    software = job.software
    tokens = sharding.tokens(job.seq_len)
    outside = tokens / sharding.norm_split
    edges = tensor_parallel_edges(setting, sharding, first[0], last)
    residual = (6.0 + 2.0 * software.dropout) * outside * hidden
    norm = moved(setting, "norm and rotary", 4.0 * outside * hidden + extra_traffic, 3.0)
    add = moved(setting, "residual", residual)
    both = 8.0 * outside * hidden + 2.0 * extra_traffic + residual
    norm_backward = moved(setting, "norm, rotary, residual, backward", both, 4.0)
    forward = seq(
        "attention",
        [
            norm,
            edges.enter,
            *(p.forward for p in first),
            core.forward,
            last.forward,
            edges.leave,
            add,
        ],
    )
    backward = seq(
        "attention, backward",
        [
            edges.enter_backward,
            last.backward,
            core.backward,
            *(p.backward for p in reversed(first)),
            edges.leave_backward,
            norm_backward,
        ],
    )
    weight = seq("attention, weight gradients", [last.weight, *(p.weight for p in first)])
    between = seq("projections again", [p.forward for p in first[1:]])
    norm_output = 2.0 * outside * hidden
    norm_input = 2.0 * outside * hidden
    mask = outside * hidden * (1.0 if software.dropout else 0.0)
    kept = norm_input + norm_output + mask + kept_core + kept_between + core.kept
    return Part(
        forward,
        backward,
        weight,
        seq("selective recomputation", [norm, core.again, between]),
        kept,
        kept - norm_output - kept_between - core.kept + core.kept_selective,
        parameters,
    )


def _grouped(setting: Setting, spec: GroupedQueryAttention, sharding: Sharding) -> Part:
    hidden, tokens = setting.hidden, sharding.tokens(setting.job.seq_len)
    heads, kv_heads = _heads(sharding, spec.heads, spec.kv_heads)
    value_dim = spec.value_dim or spec.head_dim
    gate = heads * spec.head_dim if spec.output_gate else 0.0
    key_value = kv_heads * (spec.head_dim + value_dim)
    qkv = projection(
        setting, "QKV projection", tokens, heads * spec.head_dim + gate + key_value, hidden
    )
    out = projection(setting, "output projection", tokens, hidden, heads * value_dim)
    widths = Heads(heads, kv_heads, spec.head_dim, value_dim, spec.window)
    core = softmax_core(setting, sharding, widths)
    rotary = 4.0 * tokens * (heads + kv_heads) * spec.head_dim + 6.0 * tokens * gate
    kept_core = 2.0 * tokens * (heads * spec.head_dim + gate + key_value + heads * value_dim)
    copied = kv_heads - spec.kv_heads / sharding.tp  # key-value heads held more than once
    parameters = spec.parameters(hidden) / sharding.tp
    parameters = parameters + copied * (spec.head_dim + value_dim) * hidden
    return _block(setting, sharding, [qkv], core, out, rotary, kept_core, 0.0 * tokens, parameters)


@term(
    "down-projections replicated, up-projections split over heads; core with d_nope + d_rope",
    Ref("DeepSeek-V2, arXiv 2405.04434", "section 2.1"),
)
def _latent(setting: Setting, spec: LatentAttention, sharding: Sharding) -> Part:
    """Multi-head latent attention in its training form: keys and values are expanded."""
    hidden, tokens = setting.hidden, sharding.tokens(setting.job.seq_len)
    local = tokens / sharding.norm_split
    heads = spec.heads / sharding.tp
    key_dim = spec.nope_dim + spec.rope_dim
    query_rank = spec.query_rank or 0
    latent = query_rank + spec.kv_rank + spec.rope_dim
    down = projection(setting, "latent down-projection", local, float(latent), hidden)
    up_kv = projection(
        setting,
        "key-value up-projection",
        tokens,
        heads * (spec.nope_dim + spec.value_dim),
        spec.kv_rank,
    )
    up_query = projection(
        setting, "query up-projection", tokens, heads * key_dim, float(query_rank or hidden)
    )
    out = projection(setting, "output projection", tokens, hidden, heads * spec.value_dim)
    core = softmax_core(setting, sharding, Heads(heads, heads, key_dim, spec.value_dim))
    expanded = heads * (2.0 * key_dim + spec.value_dim)
    traffic = 4.0 * tokens * expanded + 4.0 * local * latent
    kept_core = 2.0 * tokens * heads * spec.value_dim + 2.0 * local * latent * 2.0
    split = heads / spec.heads
    up_parameters = (
        (query_rank or hidden) * spec.heads * key_dim
        + spec.kv_rank * spec.heads * (spec.nope_dim + spec.value_dim)
        + spec.heads * spec.value_dim * hidden
    )
    parameters = up_parameters * split + (spec.parameters(hidden) - up_parameters)
    return _block(
        setting,
        sharding,
        [down, up_query, up_kv],
        core,
        out,
        traffic,
        kept_core,
        2.0 * tokens * expanded,
        parameters,
    )


def _linear(setting: Setting, spec: LinearAttention, sharding: Sharding) -> Part:
    """A recurrent mixer: projections, a chunked scan, no dependence on the context length."""
    hidden, tokens = setting.hidden, sharding.tokens(setting.job.seq_len)
    columns, rows = spec.input_columns / sharding.tp, spec.output_rows / sharding.tp
    enter = projection(setting, "input projection", tokens, columns, hidden)
    leave = projection(setting, "output projection", tokens, hidden, rows)
    device = setting.device
    kernel = kernels.parameters(device, "attention_prefill", "bf16")
    flops = tokens * spec.recurrence_flops / sharding.tp
    nbytes = 2.0 * tokens * (columns + rows)
    scan = kernels.roofline(device, kernel, "bf16", flops, nbytes)
    kept = 2.0 * tokens * (columns + rows)
    core = Core(
        leaf(f"{spec.name} scan", scan, "compute"),
        leaf(f"{spec.name} scan, backward", FUSED_BACKWARD * scan, "compute"),
        NOTHING,
        0.0 * tokens,
        0.0 * tokens,
    )
    parameters = spec.parameters(hidden) / sharding.tp
    return _block(setting, sharding, [enter], core, leave, nbytes, kept, 0.0 * tokens, parameters)
