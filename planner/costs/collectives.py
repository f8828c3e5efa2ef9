"""Time of a collective on a tiered network: latency that grows with the group, then bandwidth.

A group that spans several tiers runs as NCCL's rings do: a tier carries the traffic of a ring of
the ranks that share its domain, and where ``g`` of them share an inner domain, ``g`` rings each
drive one link.  The tiers' transfers are pipelined, so the slowest counts; latencies add up.  On a
tier with measured lines (one NVLink node) the fitted two-protocol line is used instead of nominal
figures.
"""

from __future__ import annotations

import numpy as np

from planner.costs.terms import Ref, term
from planner.costs.topology import Count, Network, members
from planner.costs.tree import Seconds
from planner.specs.hardware import CollectiveLine, Tier

NCCL_TESTS = Ref("nccl-tests doc/PERFORMANCE.md", "bus bandwidth factors")


def _log2(k: Count) -> Seconds:
    return np.ceil(np.log2(np.maximum(k, 1)))


def _line(line: CollectiveLine, ranks: Count, traffic: Seconds) -> tuple[Seconds, Seconds]:
    """Latency and transfer time of the faster protocol of a measured line [s]."""
    latency = line.base + line.step * (np.asarray(ranks) - 1.0)
    low = traffic / line.low_bandwidth
    high = line.switch + traffic / line.bandwidth
    return latency, np.minimum(low, high)


def _stage(
    tier: Tier, operation: str, ranks: Count, steps: Seconds, traffic: Seconds
) -> tuple[Seconds, Seconds]:
    """Latency and transfer time [s] of ``ranks`` peers on one tier; zero for a single rank.

    ``steps`` is the number of sequential messages, ``traffic`` the bytes a device sends.
    """
    alone = np.asarray(ranks) <= 1
    if operation in tier.collectives:
        latency, transfer = _line(tier.collectives[operation], ranks, traffic)
    else:
        rate: Seconds = tier.bandwidth / tier.oversubscription * tier.efficiency
        if tier.topology == "mesh":  # each peer has its own link: k-1 links are in use
            link = tier.pair_bandwidth * tier.efficiency
            rate = np.clip((np.asarray(ranks) - 1.0) * link, link, np.maximum(rate, link))
        latency, transfer = tier.latency * steps, traffic / rate
    return np.where(alone, 0.0, latency), np.where(alone, 0.0, transfer)


def _hierarchical(
    net: Network, operation: str, size: Count, stride: Count, nbytes: Seconds, passes: int
) -> Seconds:
    """Ring or tree of a reduction-like collective; ``passes`` is 2 for all-reduce, else 1."""
    latency: Seconds = 0.0
    transfer: Seconds = 0.0
    inner: Count = 1
    for tier, outer in zip(net.tiers, members(net, size, stride), strict=True):
        ranks = np.asarray(outer) // inner
        traffic = passes * (outer - 1.0) / outer * nbytes / inner
        ring = passes * (ranks - 1.0)
        steps = np.minimum(ring, 2 * _log2(ranks)) if operation == "all_reduce" else ring
        stage_latency, stage_transfer = _stage(tier, operation, ranks, steps, traffic)
        latency = latency + stage_latency
        transfer = np.maximum(transfer, stage_transfer)
        inner = outer
    return latency + net.slowdown * transfer


@term("sum of latencies + max over tiers of 2 (m-1)/m S / (g B)", NCCL_TESTS)
def all_reduce(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Sum a buffer over a group and leave the result everywhere [s].

    Parameters
    ----------
    size, stride : int or (n,)
        Ranks of the group and the distance between neighbours.
    nbytes : float or (n,)
        The buffer on every rank [B].
    """
    return _hierarchical(net, "all_reduce", size, stride, nbytes, passes=2)


@term("sum of latencies + max over tiers of (m-1)/m S / (g B)", NCCL_TESTS)
def all_gather(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Collect a buffer of ``nbytes`` in total [B] from the shards of a group on every rank [s]."""
    return _hierarchical(net, "all_gather", size, stride, nbytes, passes=1)


@term("sum of latencies + max over tiers of (m-1)/m S / (g B)", NCCL_TESTS)
def reduce_scatter(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Sum a buffer of ``nbytes`` on every rank [B] and leave one shard on each [s]."""
    return _hierarchical(net, "reduce_scatter", size, stride, nbytes, passes=1)


@term(
    "max over tiers of S (m_i - m_(i-1)) / n / B_i + latencies",
    Ref("Tutel, arXiv 2206.03382", "section 4.3 and appendix A"),
)
def all_to_all(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Every rank sends an equal part of its ``nbytes`` [B] to every rank, itself included [s]."""
    latency: Seconds = 0.0
    transfer: Seconds = 0.0
    inner: Count = 1
    for tier, outer in zip(net.tiers, members(net, size, stride), strict=True):
        peers = np.asarray(outer) - inner
        traffic = peers / np.asarray(size, dtype=float) * nbytes
        stage_latency, stage_transfer = _stage(
            tier, "all_to_all", peers + 1, _log2(peers + 1), traffic
        )
        latency = latency + stage_latency
        transfer = np.maximum(transfer, stage_transfer)
        inner = outer
    return latency + net.slowdown * transfer


@term("ceil(log2 n) alpha + S / B", Ref("Thakur et al. 2005, IJHPCA 19(1)", "section 4, broadcast"))
def broadcast(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Send a buffer of one rank [B] to all others of the group, pipelined [s]."""
    latency: Seconds = 0.0
    transfer: Seconds = 0.0
    inner: Count = 1
    for tier, outer in zip(net.tiers, members(net, size, stride), strict=True):
        ranks = np.asarray(outer) // inner
        stage_latency, stage_transfer = _stage(tier, "broadcast", ranks, _log2(ranks), nbytes)
        latency = latency + stage_latency
        transfer = np.maximum(transfer, stage_transfer)
        inner = outer
    return latency + net.slowdown * transfer


@term("alpha + S / B", Ref("Hockney 1994, Parallel Computing 20(3)", "equation 1"))
def point_to_point(net: Network, stride: Count, nbytes: Seconds) -> Seconds:
    """One rank sends ``nbytes`` [B] to the rank ``stride`` away [s]."""
    seconds: Seconds = np.zeros(np.broadcast(stride, nbytes).shape)
    reached = np.zeros(np.shape(stride), dtype=bool)
    for tier, domain in zip(net.tiers, net.domains, strict=True):
        here = ~reached & (np.asarray(stride) < domain)
        rate = min(tier.pair_bandwidth, tier.bandwidth / tier.oversubscription) * tier.efficiency
        seconds = np.where(here, tier.latency + net.slowdown * nbytes / rate, seconds)
        reached = reached | here
    return seconds
