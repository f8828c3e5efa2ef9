"""NCCL's own tuning model: time of a collective over any number of nodes, in closed form.

NCCL predicts ``latency + bytes / bandwidth`` for every pair of algorithm (ring, tree, NVLS tree,
PAT) and protocol (LL, LL128, Simple) and takes the smallest.  This is the model of v2.30.7, with
the graph search replaced by the two numbers it finds: the bus bandwidth inside a node and what a
GPU gets of the network.  Source: NVIDIA/nccl at 5067397c, src/graph/tuning.cc (the constants).
Limits: no SHARP; Intel hosts; the table that derates trees by size is replaced by three dips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

Triple = tuple[float, float, float]
"""One value a protocol (LL, LL128, Simple), or for 1 node, 2 nodes and more nodes."""


@dataclass(frozen=True)
class Generation:
    """Bandwidth caps of one GPU generation [B/s]."""

    channel: float
    """Speed of a ring or tree channel that the graph search settles on."""
    low_latency: Triple
    """Protocol LL, all channels, by nodes."""
    ring_ll128: float
    tree_ll128: Triple
    tree: Triple
    nvls_tree: Triple
    nvls: float
    """In-switch bus bandwidth of a node of 8 over that of its rings; 0 without."""


_NVIDIA: Mapping[str, Generation] = {
    "ampere": Generation(
        channel=20e9,
        low_latency=(87.7e9, 39e9, 20.4e9),
        ring_ll128=20e9,
        tree_ll128=(20e9, 20e9, 20e9),
        tree=(24e9, 23.6e9, 17.8e9),
        nvls_tree=(0.0, 0.0, 0.0),
        nvls=0.0,
    ),
    "hopper": Generation(
        channel=30e9,
        low_latency=(141e9, 39e9, 20.4e9),
        ring_ll128=36.7e9,
        tree_ll128=(36.7e9, 36.7e9, 29e9),
        tree=(38.7e9, 41.4e9, 36e9),
        nvls_tree=(0.0, 57.7e9, 45.5e9),
        nvls=476.0 / 360.0,  # 8 channels x 40 GB/s x 0.85 x 7/8 x 2; rings 12 x 30 (nccl #1197)
    ),
    "blackwell": Generation(
        channel=30e9,
        low_latency=(282e9, 39e9, 20.4e9),
        ring_ll128=40e9,
        tree_ll128=(55.6e9, 31.67e9, 20e9),
        tree=(70e9, 42.8e9, 24e9),
        nvls_tree=(0.0, 96e9, 80e9),
        nvls=932.0 / 720.0,  # 8 x 90 x 0.74 x 7/8 x 2; rings 24 x 30
    ),
}
GENERATIONS: Mapping[str, Generation] = {**_NVIDIA, "other": replace(_NVIDIA["hopper"], nvls=0.0)}
"""RCCL keeps NCCL's model; HCCL is assumed alike.  Rates come from the mesh of links."""

NVLS_RANKS = 8.0
"""Fewest GPUs of a node that reduce in the switch: measured at 8, not at 4 (H100, H200)."""
RING_BASE: Triple = (6.6e-6, 14e-6, 8.4e-6)
TREE_BASE: Triple = (6.8e-6, 14e-6, 8.4e-6)
RING_HOP: Mapping[str, Triple] = {
    "nvlink": (0.6e-6, 1.9e-6, 3.4e-6),
    "pcie": (1e-6, 2.5e-6, 5.7e-6),
}
TREE_HOP: Mapping[str, Triple] = {"nvlink": (0.6e-6, 1.25e-6, 4e-6), "pcie": (1e-6, 1.9e-6, 4e-6)}
RING_NET: Triple = (2.7e-6, 4e-6, 14e-6)
TREE_NET: Triple = (5e-6, 8.5e-6, 14e-6)
HOST_POST: Triple = (1e-6, 1e-6, 3e-6)
"""A proxy's cost of one step while messages also cross the network."""
NVLS_HOP, NVLS_TREE_NET, PAT_BASE, PAT_HOP, PAT_RANK = 25e-6, 20.9e-6, 8e-6, 4e-6, 2.8e-6
DIPS = ((0.55, 11.8, 5.4), (0.43, 12.0, 5.3), (0.47, 12.7, 7.1))
"""Trees lose ``depth exp(-((log2(bytes / 64) - centre) / width)^2)``; fitted to NCCL's factors."""


def _by_nodes(caps: Triple, nodes: Seconds) -> Seconds:
    return np.where(nodes <= 1, caps[0], np.where(nodes <= 2, caps[1], caps[2]))


@term(
    "min over algorithms and protocols of latency + S / bandwidth",
    Ref("NVIDIA/nccl v2.30.7 at 5067397c", "src/graph/tuning.cc"),
)
def predict(
    operation: str,
    size: Seconds,
    nodes: Seconds,
    nbytes: Seconds,
    generation: Generation,
    bus: Seconds,
    nic: Seconds,
    link: str = "nvlink",
    network: Seconds = 1.0,
) -> Seconds:
    """Time of the fastest algorithm and protocol [s]; all arguments but names broadcast.

    Parameters
    ----------
    operation : str
        all_reduce, all_gather or reduce_scatter.
    size, nodes : float or (n,)
        Ranks of the group and nodes they lie on, the same number on each.
    nbytes : float or (n,)
        Buffer of an all-reduce, whole output of an all-gather, input of a reduce-scatter [B].
    bus, nic : float or (n,)
        Bus bandwidth of a ring inside one node; network bandwidth a rank has [B/s].
    network : float or (n,)
        Network latency over NCCL's constants.
    """
    local = size / nodes
    apart, alone = nodes > 1, local <= 1
    passes = 2.0 if operation == "all_reduce" else 1.0
    steps = passes * (size - 1.0)
    across = passes * (nodes - 1.0)
    net = local * nic
    ring = np.where(apart, np.where(alone, net, np.minimum(bus, net)), bus)
    channels = np.maximum(ring / generation.channel, 1.0)
    low = _by_nodes(generation.low_latency, nodes)
    rings = (
        np.minimum(low, 0.5 * ring),
        np.minimum(0.92 * ring, channels * generation.ring_ll128),
        ring,
    )
    share = size / np.maximum(steps, 1.0)
    times = []
    for protocol in (0, 1, 2) if link == "nvlink" else (0, 2):
        hop = np.maximum(RING_HOP[link][protocol], np.where(apart, HOST_POST[protocol], 0.0))
        far = network * np.where(alone, TREE_NET[protocol], RING_NET[protocol])
        latency = (steps - across) * hop + across * far + RING_BASE[protocol]
        transfer = nbytes / (rings[protocol] * share)
        if protocol == 2 and passes == 2.0:  # the ring's plateau
            plateau = apart & (nbytes >= 64.0 * channels * size)
            latency = np.where(plateau, 1.4, 1.0) * latency
        times.append(latency + transfer)
    if operation == "all_reduce":
        depth = np.log2(nodes)
        both = np.where(nodes == 2, 2.0, 1.0) * net  # two nodes: the buffer crosses once each way
        wide = np.where(apart, np.where(alone, both, np.minimum(bus, both)), bus)
        lanes = np.maximum(wide / generation.channel, 1.0)
        tree = np.minimum(0.92 * wide, lanes * _by_nodes(generation.tree, nodes))
        ll128 = np.minimum(
            tree * np.where(apart, 120.0 / 128.0, 7.0 / 9.0),
            lanes * _by_nodes(generation.tree_ll128, nodes),
        )
        trees = (np.minimum(tree / 3.8, low), ll128, tree)
        order = np.log2(np.maximum(nbytes, 64.0) / 64.0)
        for protocol in (0, 1, 2) if link == "nvlink" else (0, 2):
            loss, centre, width = DIPS[protocol]
            rate = trees[protocol] * (1.0 - loss * np.exp(-(((order - centre) / width) ** 2)))
            hops = (local - 1.0) * TREE_HOP[link][protocol] + depth * network * TREE_NET[protocol]
            times.append(TREE_BASE[protocol] + 2.0 * hops + 2.0 * nbytes / rate)
        if generation.nvls and link == "nvlink":
            cap = NVLS_RANKS * _by_nodes(generation.nvls_tree, nodes)
            inside = generation.nvls * bus
            reduced = np.where(apart, np.minimum(np.minimum(inside, both), cap), inside)
            latency = NVLS_HOP + 2.0 * depth * network * NVLS_TREE_NET
            switch = latency + nbytes / (reduced * share)
            times.append(np.where(local >= NVLS_RANKS, switch, np.inf))
    else:
        pat = PAT_BASE + np.log2(nodes) * network * PAT_HOP + PAT_RANK * size
        times.append(np.where(alone & apart, pat + nbytes / (0.75 * net), np.inf))
    return np.where(size <= 1, 0.0, reduce(np.minimum, times))
