"""The token mixer of a layer: projections, the attention core, context parallelism.

Activation bytes follow arXiv 2205.05198 (section 4.1) tensor by tensor, so that grouped queries,
latent attention and linear attention come out of the same sum; fused attention keeps no scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.costs import collectives, kernels
from planner.costs.terms import Ref, term
from planner.costs.tree import Cost, Seconds, leaf, overlap, seq
from planner.layers.linear import Projection, projection, tensor_parallel_edges
from planner.layers.part import Part, Setting, Sharding
from planner.specs.model import (
    Attention,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
)

FUSED_BACKWARD = 2.5 / 0.8
"""The fused backward pass over the forward: five matrix products against two, at about 0.8 of the
rate (0.86 in FlashAttention-2 on A100, arXiv 2307.08691 section 4.1; 0.74 in FlashAttention-3 on
H100, arXiv 2407.08608 section 4.1)."""

SCORE_BYTES = 5.0
"""Bytes kept for each unfused score: softmax output 2, dropout mask 1, dropout output 2
(arXiv 2205.05198, section 4.1); 2 without dropout."""

SCORE_TRAFFIC_FORWARD = 9.0
SCORE_TRAFFIC_BACKWARD = 11.0
"""Bytes moved for each score between the two GEMMs: softmax reads and writes, dropout too, and the
mask; the backward pass reads the saved outputs as well."""


def attention_part(setting: Setting, spec: Attention, sharding: Sharding) -> Part:
    """Cost of one mixer for one micro-batch on one device."""
    if isinstance(spec, LinearAttention):
        return _linear(setting, spec, sharding)
    if isinstance(spec, LatentAttention):
        return _latent(setting, spec, sharding)
    return _grouped(setting, spec, sharding)


@dataclass(frozen=True)
class _Core:
    """The attention core: forward, backward, recomputed parts and bytes kept."""

    forward: Cost
    backward: Cost
    again: Cost
    kept: Seconds
    kept_selective: Seconds


def _heads(sharding: Sharding, heads: int, kv_heads: int) -> tuple[Seconds, Seconds]:
    """Query and key-value heads of one rank; key-value heads are replicated when tp exceeds them."""
    return heads / sharding.tp, np.maximum(kv_heads / sharding.tp, 1.0)


@term(
    "ring: (c-1) hops of KV behind the core; Ulysses: all-to-all of Q, K, V and back of the output",
    Ref("Ring Attention arXiv 2310.01889; DeepSpeed-Ulysses arXiv 2309.14509", "section 3"),
)
def context_exchange(
    setting: Setting, sharding: Sharding, query_bytes: Seconds, kv_bytes: Seconds
) -> Seconds:
    """Time to bring queries or keys to where they meet under context parallelism [s].

    ``query_bytes`` and ``kv_bytes`` are what one rank holds of queries (or outputs) and of keys
    and values together [B].
    """
    cp, tp, net = sharding.cp, sharding.tp, setting.net
    if setting.context_parallel == "ring":
        hop = collectives.point_to_point(net, tp * np.ones_like(cp), kv_bytes)
        return (cp - 1.0) * hop
    there = collectives.all_to_all(net, cp, tp, query_bytes + kv_bytes)
    back = collectives.all_to_all(net, cp, tp, query_bytes)
    moved = np.where(cp > 1.0, 2.0 * query_bytes + kv_bytes, 0.0)  # packed and unpacked
    copies = kernels.elementwise(setting.device, 4.0 * moved, 4.0)
    return np.where(cp > 1.0, there + back + copies, 0.0)


@term(
    "(c-1) (launch + 6 output bytes / (b W))",
    Ref("Ring Attention arXiv 2310.01889", "section 3, blockwise accumulation"),
)
def _merge_time(setting: Setting, sharding: Sharding, output_bytes: Seconds) -> Seconds:
    """Time that a ring's extra steps cost: a launch each, and rescaling the fp32 output [s].

    ``output_bytes`` is one rank's attention output in 16 bits; a step reads and writes it in fp32
    and reads the step's own.
    """
    kernel = kernels.parameters(setting.device, "attention", "bf16")
    step = kernel.launch + kernels.elementwise(setting.device, 6.0 * output_bytes)
    return (sharding.cp - 1.0) * step


def _softmax_core(
    setting: Setting,
    sharding: Sharding,
    heads: Seconds,
    kv_heads: Seconds,
    key_dim: int,
    value_dim: int,
    window: int | None,
) -> _Core:
    job, device = setting.job, setting.device
    queries = job.seq_len / sharding.cp
    batch = sharding.micro_batch
    tokens = batch * queries
    if job.software.fused_attention:
        attended = kernels.attended_keys(float(job.seq_len), window, job.causal)

        def core(passes: float) -> Seconds:
            return job.software.attention_slowdown * kernels.attention(
                device, batch, heads, kv_heads, queries, attended, key_dim, value_dim, passes
            )

        forward = leaf("attention core", core(1.0), "compute")
        backward = leaf("attention core, backward", core(FUSED_BACKWARD), "compute")
        again = leaf("nothing to repeat", 0.0)
        kept = kept_selective = 4.0 * tokens * heads  # log-sum-exp, fp32
    else:
        scores = batch * heads * queries * job.seq_len

        def product(depth: int) -> Seconds:
            rows, columns = batch * heads * queries, float(job.seq_len)
            nbytes = 2.0 * scores + 2.0 * depth * batch * heads * (queries + columns)
            kernel = kernels.parameters(device, "gemm", "bf16")
            flops = 2.0 * rows * columns * depth
            return kernels.smooth_roofline(device, kernel, "bf16", flops, nbytes)

        def softmax(per_score: float) -> Seconds:
            return kernels.elementwise(device, job.software.traffic * per_score * scores, 3.0)

        products = product(key_dim) + product(value_dim)
        forward = seq(
            "attention core, unfused",
            [
                leaf("score and value products", products, "compute"),
                leaf("softmax and dropout", softmax(SCORE_TRAFFIC_FORWARD), "memory"),
            ],
        )
        backward = seq(
            "attention core, unfused, backward",
            [
                leaf("score and value products", 2.0 * products, "compute"),
                leaf("softmax and dropout", softmax(SCORE_TRAFFIC_BACKWARD), "memory"),
            ],
        )
        again = forward
        kept = (SCORE_BYTES if job.software.dropout else 2.0) * scores
        kept_selective = 0.0 * kept
    cp_query = 2.0 * tokens * heads * value_dim
    cp_kv = 2.0 * tokens * kv_heads * (key_dim + value_dim)
    exchange = leaf(
        "context-parallel exchange", context_exchange(setting, sharding, cp_query, cp_kv), "link"
    )
    if setting.context_parallel == "ring":
        merge = leaf("merging ring steps", _merge_time(setting, sharding, cp_query), "memory")
        forward = overlap("ring attention", [seq("steps", [forward, merge]), exchange])
        backward = overlap(
            "ring attention, backward", [seq("steps, backward", [backward, merge]), exchange, exchange]
        )
    else:
        forward = seq("Ulysses attention", [forward, exchange])
        backward = seq("Ulysses attention, backward", [backward, exchange])
    return _Core(forward, backward, again, kept, kept_selective)


def _block(
    setting: Setting,
    sharding: Sharding,
    first: list[Projection],
    core: _Core,
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
    job, device, hidden = setting.job, setting.device, setting.hidden
    software = job.software
    tokens = sharding.tokens(job.seq_len)
    outside = tokens / sharding.norm_split
    edges = tensor_parallel_edges(setting, sharding, first[0], last)
    residual = (6.0 + 2.0 * software.dropout) * outside * hidden
    norm_traffic = software.traffic * (4.0 * outside * hidden + extra_traffic)
    norm = leaf("norm and rotary", kernels.elementwise(device, norm_traffic, 3.0), "memory")
    add = leaf(
        "residual", kernels.elementwise(device, software.traffic * residual), "memory"
    )
    both = software.traffic * (8.0 * outside * hidden + 2.0 * extra_traffic + residual)
    norm_backward = leaf(
        "norm, rotary, residual, backward", kernels.elementwise(device, both, 4.0), "memory"
    )
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
    qkv = projection(setting, "QKV projection", tokens, heads * spec.head_dim + gate + key_value, hidden)
    out = projection(setting, "output projection", tokens, hidden, heads * value_dim)
    core = _softmax_core(
        setting, sharding, heads, kv_heads, spec.head_dim, value_dim, spec.window
    )
    rotary = 4.0 * tokens * (heads + kv_heads) * spec.head_dim + 6.0 * tokens * gate
    kept_core = 2.0 * tokens * (heads * spec.head_dim + gate + key_value + heads * value_dim)
    parameters = spec.parameters(hidden) / sharding.tp
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
        setting, "key-value up-projection", tokens, heads * (spec.nope_dim + spec.value_dim), spec.kv_rank
    )
    up_query = projection(
        setting, "query up-projection", tokens, heads * key_dim, float(query_rank or hidden)
    )
    out = projection(setting, "output projection", tokens, hidden, heads * spec.value_dim)
    core = _softmax_core(
        setting, sharding, heads, heads, key_dim, spec.value_dim, None
    )
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
    kernel = kernels.parameters(device, "attention", "bf16")
    flops = tokens * spec.recurrence_flops / sharding.tp
    nbytes = 2.0 * tokens * (columns + rows)
    scan = kernels.smooth_roofline(device, kernel, "bf16", flops, nbytes)
    kept = 2.0 * tokens * (columns + rows)
    core = _Core(
        leaf(f"{spec.name} scan", scan, "compute"),
        leaf(f"{spec.name} scan, backward", FUSED_BACKWARD * scan, "compute"),
        leaf("nothing to repeat", 0.0),
        0.0 * tokens,
        0.0 * tokens,
    )
    parameters = spec.parameters(hidden) / sharding.tp
    return _block(setting, sharding, [enter], core, leave, nbytes, kept, 0.0 * tokens, parameters)
