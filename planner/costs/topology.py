"""Which tier of the network a group of ranks spans.

Ranks are numbered so that tensor parallelism is innermost, then context, then data parallelism,
with pipeline stages outermost (experts: expert-tensor, expert, expert-data, pipeline), as in
Megatron-Core's default order.  A group is then ``size`` ranks at a constant ``stride``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.specs.hardware import Cluster, Tier

Count = int | NDArray[np.int64] | NDArray[np.float64]
"""Whole numbers, kept as integers or as floats."""


@dataclass(frozen=True)
class Network:
    """The tiers as one job sees them: how many of its devices sit in each domain."""

    tiers: tuple[Tier, ...]
    domains: tuple[int, ...]
    devices: int
    slowdown: float = 1.0
    """Transfer time inside a job over that of an isolated benchmark."""
    nodes: float = 1.0
    """Servers that the job runs on."""
    generation: str = "other"
    """Of the devices, whose links NCCL's model knows."""

    @property
    def scale_up(self) -> int:
        """Index of the outermost tier inside the fabric: a node, or a rack of one fast network."""
        fabric = [i for i, tier in enumerate(self.tiers) if tier.topology == "fat-tree"]
        outer = fabric[0] if fabric else len(self.tiers) - 1
        return max(0, outer - 1)


def network(cluster: Cluster, devices: int, slowdown: float = 1.0) -> Network:
    """Lay ``devices`` out on the cluster, the same number in every domain of a tier.

    A job of 256 devices on racks of 72 uses 64 of each rack; the rest stays idle.
    """
    domains: list[int] = []
    inner = 1
    for tier in cluster.tiers[:-1]:
        fitting = [
            d for d in range(inner, min(tier.devices, devices) + 1, inner) if devices % d == 0
        ]
        inner = fitting[-1] if fitting else inner
        domains.append(inner)
    nodes = max(1.0, devices / cluster.devices_per_node)
    generation = cluster.accelerator.generation
    return Network(cluster.tiers, (*domains, devices), devices, slowdown, nodes, generation)


@term(
    "members(D) = gcd(D, stride * size) / stride",
    Ref("arXiv 2504.14960 (MoE Parallel Folding)", "section 3.2, rank order"),
)
def members(net: Network, size: Count, stride: Count) -> Sequence[Count]:
    """Ranks of one group that share a domain, for every tier from the inside out.

    Parameters
    ----------
    size, stride : int or (n,) arrays
        The group's ranks are ``first + i * stride`` for ``i < size``.

    Returns
    -------
    One value or ``(n,)`` array a tier; non-decreasing, the last equals ``size``.
    """
    ranks = np.asarray(size).astype(np.int64)
    step = np.asarray(stride).astype(np.int64)
    counts = [np.gcd(domain, ranks * step) // step for domain in net.domains[:-1]]
    return (*(np.clip(count, 1, ranks) for count in counts), ranks)
