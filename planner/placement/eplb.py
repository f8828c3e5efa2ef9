"""DeepSeek's EPLB as a method of its own: the hierarchical and the global policy.

Hierarchical, where the groups of experts divide over the nodes: (1) groups to nodes, longest first
and equally many on each; (2) inside a node, one slot after the other to the expert with the largest
load per replica; (3) the node's replicas to its devices as in (1).  Global: the same with a single
group and node.  Ties are broken as its reference does, so that the map is the same bit for bit.
Source: deepseek-ai/EPLB at d52c72d (MIT), README and its example.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def eplb(loads: Floats, slots: int, groups: int, nodes: int, devices: int) -> Ints:
    """Expert of every slot, shape (L, S); a device has S / G neighbouring slots.

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert.
    groups
        Groups that routing is limited to; where they do not divide over the nodes, the policy is
        global.

    Raises
    ------
    PlannerError
        If the experts cannot be divided over the groups, or the slots over the devices.
    """
    experts = loads.shape[1]
    if groups % nodes:
        groups = nodes = 1
    for what, whole, parts, of in (
        ("groups", experts, groups, "experts"),
        ("slots", slots, devices, "slots over devices"),
        ("nodes", devices, nodes, "devices over nodes"),
    ):
        if whole % parts:
            raise PlannerError(
                f"{what}: found {whole} {of} in {parts} parts, expected a multiple of {parts}."
            )
    node_order = _node_order(loads, groups, nodes)
    by_node = np.take_along_axis(loads, node_order, axis=1).reshape(-1, experts // nodes)
    chosen, counts = _replicated(by_node, slots // nodes)
    weight = np.take_along_axis(by_node / counts, chosen, axis=1)
    place = _packed(weight, devices // nodes)
    local = np.empty_like(chosen)
    np.put_along_axis(local, place, chosen, axis=1)
    first = np.arange(nodes)[:, np.newaxis] * (experts // nodes)
    ordered = (local.reshape(len(loads), nodes, -1) + first).reshape(len(loads), slots)
    return np.take_along_axis(node_order, ordered, axis=1)


def _node_order(loads: Floats, groups: int, nodes: int) -> Ints:
    """Experts in the order of the nodes that their groups go to, shape (L, E)."""
    layers, experts = loads.shape
    size = experts // groups
    place = _packed(loads.reshape(layers, groups, size).sum(axis=2), nodes)
    order = np.empty_like(place)
    np.put_along_axis(order, place, np.broadcast_to(np.arange(groups), place.shape), axis=1)
    members = order[:, :, np.newaxis] * size + np.arange(size)
    return np.asarray(members.reshape(layers, experts))


def _packed(weight: Floats, packs: int) -> Ints:
    """Place of every item, pack by pack, longest first with equal numbers, shape (n, items)."""
    rows, items = weight.shape
    room = items // packs
    if room == 1:
        return np.broadcast_to(np.arange(items), weight.shape).copy()
    row = np.arange(rows)
    total = np.zeros((rows, packs))
    filled = np.zeros((rows, packs), dtype=np.int64)
    place = np.empty((rows, items), dtype=np.int64)
    for item in np.argsort(-weight, axis=1, kind="stable").T:
        pack = np.where(filled < room, total, np.inf).argmin(axis=1)
        place[row, item] = pack * room + filled[row, pack]
        filled[row, pack] += 1
        total[row, pack] += weight[row, item]
    return place


def _replicated(weight: Floats, slots: int) -> tuple[Ints, Ints]:
    """Expert of every replica, in the order in which they are made, and the counts."""
    rows, experts = weight.shape
    row = np.arange(rows)
    counts = np.ones((rows, experts), dtype=np.int64)
    chosen = np.broadcast_to(np.arange(experts), (rows, experts))
    more = []
    for _ in range(slots - experts):
        expert = (weight / counts).argmax(axis=1)
        counts[row, expert] += 1
        more.append(expert)
    return np.hstack([chosen, *(expert[:, np.newaxis] for expert in more)]), counts
