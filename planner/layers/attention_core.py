"""The attention core: scores and values, fused or not, and context parallelism around it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planner.costs import collectives, kernels
from planner.costs.terms import Ref, term
from planner.costs.tree import Cost, Seconds, leaf, overlap, repeat, seq
from planner.layers.part import NOTHING, Setting, Sharding, moved

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


@dataclass(frozen=True)
class Core:
    """The attention core: forward, backward, recomputed parts and bytes kept."""

    forward: Cost
    backward: Cost
    again: Cost
    kept: Seconds
    kept_selective: Seconds


@term(
    "ring: (c-1) hops of KV behind the core; Ulysses: all-to-all of Q, K, V and back of the output",
    Ref("Ring Attention arXiv 2310.01889; DeepSpeed-Ulysses arXiv 2309.14509", "section 3"),
)
def context_exchange(
    setting: Setting,
    sharding: Sharding,
    query_bytes: Seconds,
    kv_bytes: Seconds,
    output_bytes: Seconds,
) -> Seconds:
    """Time to bring queries or keys to where they meet under context parallelism [s].

    The bytes are what one rank holds of queries, of keys and values together, and of outputs [B].
    """
    cp, tp, net = sharding.cp, sharding.tp, setting.net
    if setting.context_parallel == "ring":
        hop = collectives.point_to_point(net, (cp - 1.0) * tp, kv_bytes)  # the farthest hop
        return (cp - 1.0) * hop
    there = collectives.all_to_all(net, cp, tp, query_bytes + kv_bytes)
    back = collectives.all_to_all(net, cp, tp, output_bytes)
    moved = query_bytes + kv_bytes + output_bytes
    copies = kernels.elementwise(setting.device, 4.0 * moved, 4.0)  # packed and unpacked
    return np.where(cp > 1.0, there + back + copies, 0.0)


@term(
    "(c-1) (launch + 6 output bytes / (b W))",
    Ref("Ring Attention arXiv 2310.01889", "section 3, blockwise accumulation"),
)
def merge_time(setting: Setting, sharding: Sharding, output_bytes: Seconds) -> Seconds:
    """Time that a ring's extra steps cost: a launch each, and rescaling the fp32 output [s].

    ``output_bytes`` is one rank's attention output in 16 bits; a step reads and writes it in fp32
    and reads the step's own.
    """
    kernel = kernels.parameters(setting.device, "attention_prefill", "bf16")
    step: Seconds = kernel.launch + kernels.elementwise(setting.device, 6.0 * output_bytes)
    return (sharding.cp - 1.0) * step


@dataclass(frozen=True)
class Heads:
    """Query and key-value heads of one rank, and the widths of their keys and values."""

    query: Seconds
    kv: Seconds
    key_dim: int
    value_dim: int
    window: int | None = None


def softmax_core(setting: Setting, sharding: Sharding, heads: Heads) -> Core:
    """Softmax attention for one micro-batch on one device, context parallelism included."""
    build = _fused if setting.job.software.fused_attention else _unfused
    core = build(setting, sharding, heads)
    tokens = sharding.tokens(setting.job.seq_len)
    output_bytes = 2.0 * tokens * heads.query * heads.value_dim
    query_bytes = 2.0 * tokens * heads.query * heads.key_dim
    kv_bytes = 2.0 * tokens * heads.kv * (heads.key_dim + heads.value_dim)
    seconds = context_exchange(setting, sharding, query_bytes, kv_bytes, output_bytes)
    exchange = leaf("context-parallel exchange", seconds, "link")
    if setting.context_parallel == "ring":
        merge = leaf("merging ring steps", merge_time(setting, sharding, output_bytes), "memory")
        steps = seq("steps", [core.forward, merge])
        steps_backward = seq("steps, backward", [core.backward, merge])
        forward = overlap("ring attention", [steps, exchange])
        gradients = repeat("keys, values and their gradients", exchange, 2.0)
        backward = overlap("ring attention, backward", [steps_backward, gradients])
    else:
        forward = seq("Ulysses attention", [core.forward, exchange])
        backward = seq("Ulysses attention, backward", [core.backward, exchange])
    return replace(core, forward=forward, backward=backward)


def _fused(setting: Setting, sharding: Sharding, heads: Heads) -> Core:
    """One kernel that keeps no scores."""
    job, queries = setting.job, setting.job.seq_len / sharding.cp
    others = (job.seq_len - queries) * (
        0.5 if job.causal else 1.0
    )  # keys of other ranks, on average

    def core(passes: float) -> Seconds:
        return job.software.attention_slowdown * kernels.prefill_attention(
            setting.device,
            "bf16",
            sharding.micro_batch,
            queries,
            heads.query,
            heads.kv,
            heads.key_dim,
            heads.value_dim,
            cached=others,
            window=heads.window or np.inf,
            causal=job.causal,
            passes=passes,
        )

    log_sums = 4.0 * sharding.tokens(job.seq_len) * heads.query  # log-sum-exp in fp32
    return Core(
        leaf("attention core", core(1.0), "compute"),
        leaf("attention core, backward", core(FUSED_BACKWARD), "compute"),
        NOTHING,
        log_sums,
        log_sums,
    )


def _unfused(setting: Setting, sharding: Sharding, heads: Heads) -> Core:
    """Batched products with the scores in memory between them; the causal half is not skipped."""
    job, device = setting.job, setting.device
    rows = sharding.micro_batch * heads.query * job.seq_len / sharding.cp
    columns = float(job.seq_len)
    scores = rows * columns

    def product(depth: int) -> Seconds:
        return kernels.gemm(device, "bf16", rows, columns, float(depth))

    def both(name: str, times: float, per_score: float) -> Cost:
        products = times * (product(heads.key_dim) + product(heads.value_dim))
        softmax = moved(setting, "softmax and dropout", per_score * scores, 3.0)
        return seq(name, [leaf("score and value products", products, "compute"), softmax])

    forward = both("attention core, unfused", 1.0, SCORE_TRAFFIC_FORWARD)
    backward = both("attention core, unfused, backward", 2.0, SCORE_TRAFFIC_BACKWARD)
    kept = (SCORE_BYTES if job.software.dropout else 2.0) * scores
    return Core(forward, backward, forward, kept, 0.0 * kept)
