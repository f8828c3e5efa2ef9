"""Measured collectives inside one fast domain: NCCL, and the one-kernel all-reduces of servers.

NCCL: t = base + step h + min(u / low_bandwidth, low_step h + switch)
+ w / bandwidth + fill (1 - exp(-w / (fill bandwidth))), where h = n-1 hops (all-reduce: at most
7/3 log2 n, a tree), w = x + own_copy S/n counts the traffic x = 2 (n-1)/n S (all-reduce) or
(n-1)/n S and the rank's own share, copied locally; u = w for rings and S/n, the message to one
peer, for all-to-all.  The first two terms are the LL protocols, the last the filling pipeline of
Simple.  From 8 ranks on an all-reduce may be done in the switch (NVLS): x / nvls_bandwidth +
nvls_switch replaces all after ``step`` when it is faster.

Fitted to aiconfigurator-core 0.12.0 tables (Apache-2.0) at 2, 4 and 8 ranks, 512 B to 512 MiB;
large buffers approach x / bandwidth, small ones base + step h.  Limits: 8 ranks and more are
extrapolated; other jobs' traffic and ranks that arrive late are not in it.
"""

from __future__ import annotations

import numpy as np

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.specs.kernel_sets import CollectiveSet, OneKernelSet

NVLS_RANKS = 8


@term(
    "base + step h + min(u / low, low_step h + switch) + w / B + fill (1 - exp(-w / (fill B)))",
    Ref("NVIDIA/nccl, protocols LL, LL128 and Simple", "fitted to aiconfigurator-core 0.12.0"),
)
def nccl(
    line: CollectiveSet, operation: str, ranks: Seconds, nbytes: Seconds, links: Seconds = 1.0
) -> Seconds:
    """Time of a collective of ``ranks`` with a buffer of ``nbytes`` [B] [s].

    ``links`` is the share of the line's bandwidth that so few ranks reach on a mesh; arguments
    broadcast to ``(n,)``.
    """
    others = hops = np.maximum(ranks - 1.0, 0.0)
    passes = 1.0
    if operation == "all_reduce":
        passes = 2.0
        hops = np.minimum(others, 7.0 / 3.0 * np.log2(np.maximum(ranks, 1.0)))
    own = nbytes / np.maximum(ranks, 1.0)
    sent = passes * others * own / links
    moved = sent + line.own_copy * own
    first = own / links if operation == "all_to_all" else moved
    start = np.minimum(first / line.low_bandwidth, line.low_step * hops + line.switch)
    wire = moved / line.bandwidth
    time = start + wire + line.fill * -np.expm1(-wire / line.fill)
    if operation == "all_reduce" and line.nvls_bandwidth > 0.0:
        switch = np.where(ranks >= NVLS_RANKS, line.nvls_switch, np.inf)
        time = np.minimum(time, switch + sent / line.nvls_bandwidth)
    return np.where(ranks > 1, line.base + line.step * hops + time, 0.0)


@term(
    "launch + step (n-1) + min((n-1) S / one_shot, barrier + 2 (n-1)/n S / two_shot); else NCCL",
    Ref("NVIDIA/TensorRT-LLM, custom all-reduce", "one-shot and two-shot; fitted as NCCL's lines"),
)
def one_kernel(
    kernel: OneKernelSet,
    line: CollectiveSet,
    ranks: Seconds,
    nbytes: Seconds,
    eager: Seconds = False,
    memory_bandwidth: float = 1e30,
) -> Seconds:
    """Time of an all-reduce of ``nbytes`` [B] in one kernel of an inference library [s].

    One-shot: every rank reads all buffers, (n-1) S / one_shot.  Two-shot: reduce-scatter and
    all-gather behind a barrier, 2 (n-1)/n S / two_shot.  Up to ``limit`` the fastest of both and of
    NCCL runs, above it NCCL.  Without CUDA graphs (``eager``) the host takes ``host`` at least and
    the result is copied once, at ``copy`` of the memory bandwidth.
    """
    others = np.maximum(ranks - 1.0, 0.0)
    read = others * nbytes
    entry = np.minimum(read / kernel.low_bandwidth, kernel.low_step * others)
    two = kernel.low_step * others + kernel.barrier + 2.0 * read / ranks / kernel.two_shot
    own = kernel.launch + kernel.step * others + np.minimum(entry + read / kernel.one_shot, two)
    fallback = nccl(line, "all_reduce", ranks, nbytes)
    time = np.where(nbytes <= kernel.limit, np.minimum(own, fallback), fallback)
    copied = time + 2.0 * nbytes / (kernel.copy * memory_bandwidth)
    time = np.where(eager, np.maximum(kernel.host, copied), time)
    return np.where(ranks > 1, time, 0.0)
