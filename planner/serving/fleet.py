"""Devices of one cluster that a deployment may use, and for what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.layers.inference import Runtime
from planner.serving.iteration import Replica
from planner.specs.hardware import Cluster, Tier

ROLES = ("any", "prefill", "decode", "attention", "ffn")


@dataclass(frozen=True)
class Fleet:
    """So many devices of a cluster; ``role`` is what they may do."""

    role: str
    cluster: Cluster
    devices: int
    run: Runtime

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.cluster.name

    @property
    def price(self) -> float | None:
        """US dollars per device-hour."""
        return self.cluster.price_per_hour

    def serves(self, role: str) -> bool:
        """Whether its devices may take that role."""
        return self.role in ("any", role)

    def grouped(self, found: Replica) -> Iterator[tuple[Runtime, NDArray[np.int64]]]:
        """Indices of replicas by the runtime whose nodes they fill.

        Where the tensor parallelism does not divide a node, the devices that are left over in the
        node stay idle, so the job sees a smaller one.
        """
        net = self.run.net
        domain, tp = net.domains[0], found.split.tp
        used = np.where((domain % tp == 0) | (tp > domain), domain, domain // tp * tp)
        for width in np.unique(used):
            run = self.run
            if width != domain:
                run = replace(run, net=replace(net, domains=(int(width), *net.domains[1:])))
            yield run, np.flatnonzero(used == width)


def outermost(fleet: Fleet) -> Tier:
    """The network that joins a fleet's nodes to others.

    Raises
    ------
    PlannerError
        If the cluster has none.
    """
    tier = fleet.cluster.tiers[-1]
    if len(fleet.cluster.tiers) == 1 or tier.devices <= fleet.cluster.devices_per_node:
        raise PlannerError(
            f"--pool: found {fleet.name} with no network beyond the node, expected one that links"
            " it to the other pools."
        )
    return tier
