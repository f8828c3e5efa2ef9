"""The named methods: loads in, a map of slots out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.imbalance import balance
from planner.costs.topology import Network
from planner.placement.affinity import distances
from planner.placement.affinity_slots import near
from planner.placement.certificate import PROVED, Certificate, certify
from planner.placement.coactivation import company, gather
from planner.placement.eplb import eplb
from planner.placement.packing import device_loads_of
from planner.placement.recount import place
from planner.placement.replicas import balance_bound, replica_counts
from planner.placement.unequal import place_unequal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

METHODS = ("auto", "eplb", "lpt", "milp", "affinity")
OBJECTIVES = ("balance", "time", "hops", "bytes")
FEW_EXPERTS = 16
"""Experts up to which unequal counts are worth it; above, equal counts balance as well."""
AFFINITY_LIMIT = 1.02
"""Busiest device over the mean that affinity may cost."""


@dataclass(frozen=True)
class Placed:
    """A map of slots and what is known of it."""

    method: str
    slots: Ints
    """Expert of every slot, those of a device together, shape (L, S)."""
    device: Ints
    """Device of every slot, ascending, shape (L, S)."""
    bound: Floats
    certificate: Certificate | None = None

    def copies(self, experts: int, devices: int) -> Ints:
        """Replicas of every expert on every device, shape (L, E, G)."""
        found = np.zeros((len(self.slots), experts, devices), dtype=np.int64)
        np.add.at(found, (np.arange(len(found))[:, np.newaxis], self.slots, self.device), 1)
        return found


def even(slots: Ints, devices: int) -> Ints:
    """Device of every slot when each has as many, shape (L, S)."""
    one = np.arange(slots.shape[1]) * devices // slots.shape[1]
    return np.broadcast_to(one, slots.shape)


def contiguous(layers: int, experts: int) -> Ints:
    """Every expert once, in order: what runs where nobody placed anything."""
    return np.tile(np.arange(experts), (layers, 1))


def by_eplb(loads: Floats, slots: int, groups: int, nodes: int, devices: int) -> Placed:
    """EPLB's policies."""
    bound = balance_bound(loads, replica_counts(loads, slots, devices), devices)
    found = eplb(loads, slots, groups, nodes, devices)
    return Placed("eplb", found, even(found, devices), bound)


def by_lpt(loads: Floats, slots: int, devices: int) -> Placed:
    """Apportionment, longest first, exchanges."""
    found, bound = place(loads, slots, devices)
    return Placed("lpt", found, even(found, devices), bound)


def by_milp(loads: Floats, slots: int, devices: int, time_limit: float) -> Placed:
    """The same, and what a solver adds to it within the time."""
    start, bound = place(loads, slots, devices)
    found = balance(device_loads_of(loads, start, devices))
    better, bound, certificate = certify(loads, start, devices, found, bound, time_limit)
    return Placed("milp", better, even(better, devices), bound, certificate)


def by_unequal(loads: Floats, devices: int, room: int) -> Placed:
    """Each expert once, in unequal numbers, within ``room`` for all layers."""
    home, bound = place_unequal(loads, devices, room)
    slots = np.argsort(home, axis=1, kind="stable")
    device = np.take_along_axis(home, slots, axis=1)
    return Placed("unequal", slots, device, bound)


def by_affinity(
    loads: Floats, transitions: Floats, start: Placed, net: Network, objective: str
) -> Placed:
    """The balanced placement brought near its neighbours, for hops or for bytes."""
    distance = distances(net, "bytes" if objective == "bytes" else "hops")
    found = near(transitions, loads, start.slots, distance, AFFINITY_LIMIT)
    return Placed("affinity", found, even(found, net.devices), start.bound)


def by_company(loads: Floats, routing: Ints, start: Placed, net: Network) -> Placed:
    """Experts that accompany each other to one node, then the devices of each node balanced.

    Every expert has one replica; ``start`` is packed for balance.
    """
    layers, experts = loads.shape
    size = net.domains[net.scale_up]
    nodes = net.devices // size
    together = np.array([company(one, experts) for one in routing])
    home = np.empty((layers, experts), dtype=np.int64)
    np.put_along_axis(home, start.slots, start.device // size, axis=1)
    group = gather(together, loads, home, AFFINITY_LIMIT)
    members = np.argsort(group, axis=1, kind="stable").reshape(layers, nodes, -1)
    parts = []
    for node in range(nodes):
        own = members[:, node]
        inside, _ = place(np.take_along_axis(loads, own, axis=1), own.shape[1], size)
        parts.append(np.take_along_axis(own, inside, axis=1))
    found = np.concatenate(parts, axis=1)
    return Placed("coactivation", found, even(found, net.devices), start.bound)


def told(certificate: Certificate | None, layers: int) -> tuple[str, ...]:
    """A sentence on what the solver added."""
    if certificate is None:
        return ()
    if certificate.open and not certificate.tried:
        return (f"solver: none of the {certificate.open} layers with a gap fits into the limit",)
    if not certificate.tried:
        return (f"solver: every one of {layers} layers is within {PROVED:g} of its bound",)
    beaten = (
        f"beat the heuristic in {certificate.improved}"
        if certificate.improved
        else ("did not beat the heuristic")
    )
    return (
        f"solver: {beaten} and proved {certificate.proved} of the {certificate.tried} layers with"
        f" a gap in {certificate.seconds:.1f} s",
    )
