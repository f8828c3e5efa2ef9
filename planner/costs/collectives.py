"""Time of a collective on a tiered network: measured inside a fast domain, NCCL's model beyond.

A group inside one fast domain (a node, or a rack with one fast network) costs what the measured
line of that domain says.  A group over N domains costs what NCCL's own tuning model says (ring,
tree or in-switch reduction, whichever is fastest), but no less than one domain's measured time for
the same traffic.
Where g ranks share a domain, g rings each drive one of its links, so an oversubscribed tier counts
only as far as the group's own rings fill it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.costs.lines import nccl
from planner.costs.nccl_tuning import GENERATIONS, Generation, predict
from planner.costs.terms import Ref, term
from planner.costs.topology import Count, Network, members
from planner.costs.tree import Seconds
from planner.specs.fits import scale_line
from planner.specs.hardware import Tier
from planner.specs.kernel_sets import CollectiveSet

NCCL_MODEL = Ref("NVIDIA/nccl v2.30.7", "src/graph/tuning.cc, with measured lines for one node")

POST = 1.0e-6
"""Host time of one network message [s]: NCCL's netOverhead on an Intel host."""
NETWORK_LATENCY = 8e-6
"""Latency of a tier on which NCCL's constants are taken as they are [s]."""


def _log2(k: Count | Seconds) -> Seconds:
    return np.ceil(np.log2(np.maximum(k, 1)))


def _generation(net: Network) -> Generation:
    """NCCL's caps of the devices; other vendors' libraries are taken as Hopper without NVLS."""
    return GENERATIONS.get(net.generation.lower().split()[0], GENERATIONS["other"])


@term(
    "min(n - 1, L) / L on a mesh of L links, else 1",
    Ref("AMD CDNA 3 white paper", "MI300X platform: seven links, one to each other device"),
)
def links(tier: Tier, ranks: Count | Seconds) -> Seconds:
    """Share of a device's links that ``ranks`` peers use: all on a switch, one a peer on a mesh."""
    if tier.topology != "mesh":
        return 1.0
    whole = tier.bandwidth / tier.pair_bandwidth
    return np.clip(np.asarray(ranks) - 1.0, 1.0, whole) / whole


def _rate(tier: Tier, ranks: Count | Seconds) -> Seconds:
    """Bandwidth that one of ``ranks`` devices reaches on a tier [B/s]."""
    return tier.bandwidth / tier.oversubscription * tier.efficiency * links(tier, ranks)


def _measured(tier: Tier, operation: str) -> CollectiveSet:
    """The tier's line; on a mesh no faster than its links, and without reduction in a switch."""
    line = tier.collectives[operation]
    if tier.topology != "mesh":
        return line
    reach = tier.bandwidth * tier.efficiency
    narrow = scale_line(line, min(1.0, reach / line.bandwidth))
    return replace(narrow, nvls_bandwidth=0.0)


def _one_tier(net: Network, tier: Tier, operation: str, ranks: Seconds, nbytes: Seconds) -> Seconds:
    """A collective of ``ranks`` inside one domain of a fast tier [s]."""
    if operation in tier.collectives:
        line = _measured(tier, operation)
        return nccl(line, operation, ranks, nbytes, links(tier, ranks))
    rate = _rate(tier, ranks)
    if operation == "all_to_all":
        sent = (np.asarray(ranks) - 1.0) / ranks * nbytes
        return np.where(np.asarray(ranks) > 1, tier.latency * _log2(ranks) + sent / rate, 0.0)
    link = "pcie" if tier.topology == "host" else "nvlink"
    return predict(operation, ranks, 1.0, nbytes, _generation(net), rate, rate, link)


def _inside(
    net: Network, operation: str, counts: tuple[Count, ...], nbytes: Seconds
) -> tuple[Seconds, Seconds, NDArray[np.bool_]]:
    """Time [s] among the ranks of one fast domain, its ring bandwidth [B/s], and whether the ring
    passes through the host."""
    seconds: Seconds = np.zeros(np.broadcast(*counts, nbytes).shape)
    bus: Seconds = 1.0
    hosted = np.zeros(np.shape(counts[-1]), dtype=bool)
    inner: Count = 1
    for tier, outer in zip(net.tiers, counts, strict=False):  # the outermost tier that they span
        here = np.asarray(outer) > inner
        if not np.any(here):
            continue
        ranks = np.asarray(outer, dtype=float)
        seconds = np.where(here, _one_tier(net, tier, operation, ranks, nbytes), seconds)
        bus = np.where(here, _rate(tier, outer), bus)
        hosted = hosted | (here & (tier.topology == "host"))
        inner = np.maximum(outer, inner)
    return seconds, bus, hosted


def _reduction(
    net: Network, operation: str, size: Count, stride: Count, nbytes: Seconds
) -> Seconds:
    """All-reduce, all-gather or reduce-scatter."""
    nbytes = np.asarray(nbytes, dtype=float) * net.slowdown
    counts = tuple(members(net, size, stride))
    fast = net.scale_up + 1
    local = np.asarray(counts[fast - 1], dtype=float)
    own_share = np.where(local > 1, 1.0 / local, 1.0 / np.asarray(size))
    sent = (1.0 - 1.0 / np.asarray(size)) / np.maximum(1.0 - own_share, 1e-9)  # over one domain's
    inside, bus, hosted = _inside(net, operation, counts[:fast], nbytes * sent)
    if fast == len(net.tiers) or np.all(local == size):
        return inside
    total: Seconds = np.inf
    network: Seconds = 0.0
    inner: Count = counts[fast - 1]
    for tier, outer in zip(net.tiers[fast:], counts[fast:], strict=True):
        spanned = np.asarray(outer) > inner
        total = np.minimum(total, np.where(spanned, inner * _rate(tier, outer), np.inf))
        network = np.maximum(network, np.where(spanned, tier.latency / NETWORK_LATENCY, 0.0))
        inner = outer
    nic = np.where(np.isfinite(total), total, 1.0) / local
    ranks = np.asarray(size, dtype=float)
    nodes = ranks / local
    kind = _generation(net)
    many = predict(operation, ranks, nodes, nbytes, kind, bus, nic, "nvlink", network)
    if np.any(hosted):
        through = predict(operation, ranks, nodes, nbytes, kind, bus, nic, "pcie", network)
        many = np.where(hosted, through, many)
    return np.where(nodes > 1, np.maximum(inside, many), inside)


@term("max(line(g), NCCL's model(n, N))", NCCL_MODEL)
def all_reduce(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Sum a buffer over a group and leave the result everywhere [s].

    Parameters
    ----------
    size, stride : int or (n,)
        Ranks of the group and the distance between neighbours.
    nbytes : float or (n,)
        The buffer on every rank [B].
    """
    return _reduction(net, "all_reduce", size, stride, nbytes)


@term("max(line(g), NCCL's model(n, N))", NCCL_MODEL)
def all_gather(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Collect a buffer of ``nbytes`` in total [B] from the shards of a group on every rank [s]."""
    return _reduction(net, "all_gather", size, stride, nbytes)


@term("max(line(g), NCCL's model(n, N))", NCCL_MODEL)
def reduce_scatter(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Sum a buffer of ``nbytes`` on every rank [B] and leave one shard on each [s]."""
    return _reduction(net, "reduce_scatter", size, stride, nbytes)


@term(
    "max(line(g, S g/n), max over outer tiers of S (m_i - m_(i-1)) / n / B_i) + posts",
    Ref("Tutel, arXiv 2206.03382", "section 4.3 and appendix A"),
)
def all_to_all(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Every rank sends an equal part of its ``nbytes`` [B] to every rank, itself included [s]."""
    nbytes = np.asarray(nbytes, dtype=float) * net.slowdown
    counts = tuple(members(net, size, stride))
    fast = net.scale_up + 1
    local = np.asarray(counts[fast - 1], dtype=float)
    seconds, _, _ = _inside(net, "all_to_all", counts[:fast], nbytes * local / size)
    latency: Seconds = 0.0
    inner: Count = counts[fast - 1]
    for tier, outer in zip(net.tiers[fast:], counts[fast:], strict=True):
        peers = np.asarray(outer, dtype=float) - inner
        transfer = peers / size * nbytes / _rate(tier, outer)
        seconds = np.maximum(seconds, transfer)
        latency = latency + np.where(peers > 0, tier.latency, 0.0) + POST * peers
        inner = outer
    return latency + seconds


@term("ceil(log2 n) alpha + S / B", Ref("Thakur et al. 2005, IJHPCA 19(1)", "section 4, broadcast"))
def broadcast(net: Network, size: Count, stride: Count, nbytes: Seconds) -> Seconds:
    """Send a buffer of one rank [B] to all others of the group, pipelined [s]."""
    latency: Seconds = 0.0
    transfer: Seconds = 0.0
    inner: Count = 1
    for tier, outer in zip(net.tiers, members(net, size, stride), strict=True):
        ranks = np.asarray(outer) // inner
        spanned = ranks > 1
        latency = latency + np.where(spanned, tier.latency * _log2(ranks), 0.0)
        rate = _rate(tier, ranks)
        transfer = np.maximum(transfer, np.where(spanned, nbytes / rate, 0.0))
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
