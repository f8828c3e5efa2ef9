"""From the current placement to a new one with the fewest bytes moved.

What a placement is worth does not depend on which device plays which part, as long as devices of
one node stay together.  So the parts of the new placement are dealt to the devices by an exact
assignment that keeps the most experts where they are (ElasticMoE moves the least the same way).
With more devices than before the new ones take what is left, with fewer some give up everything.
Source: ElasticMoE, arXiv 2510.02613 (least movement when the devices of a service change).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.topology import Network
from planner.errors import PlannerError
from planner.placement.traffic import seconds_per_byte, tiers_between

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Movement:
    """What has to be copied to get from one placement to the next."""

    received: Floats
    """Bytes that each device receives from another one [B], shape (G,)."""
    by_tier: Floats
    """Bytes that cross each tier [B], shape (tiers,)."""
    seconds: float
    """Time of the busiest device, sending or receiving, with nothing else on the links [s]."""

    @property
    def total(self) -> float:
        return float(self.received.sum())


def relabelled(current: Bools, new: Bools, node: int = 1) -> Ints:
    """Part of the new placement that each device plays to keep the most, shape (L, G).

    Parameters
    ----------
    current : (L, E, G or fewer or more)
        Whether a device holds an expert now.
    new : (L, E, G)
        Whether a part of the new placement holds an expert.
    node : int
        Devices that stay together, in their node of the new placement: 1 where all are alike.

    Returns
    -------
    ``parts``; ``new[l][:, parts[l]]`` is the placement by device.
    """
    devices = new.shape[2]
    held = _fitted(current, devices).astype(float)
    kept = held.transpose(0, 2, 1) @ new.astype(float)  # by device and part
    return np.array([_dealt(one, node) for one in kept])


def relabelled_together(current: Bools, new: Bools, node: int = 1) -> Ints:
    """The same with one order of the devices for all layers, which keeps affinity, shape (G,)."""
    devices = new.shape[2]
    held = _fitted(current, devices).astype(float)
    return _dealt((held.transpose(0, 2, 1) @ new.astype(float)).sum(axis=0), node)


def _fitted(current: Bools, devices: int) -> Bools:
    """The current placement on ``devices``: new ones hold nothing, the last ones go."""
    layers, experts, before = current.shape
    fitted = np.zeros((layers, experts, devices), dtype=bool)
    fitted[:, :, : min(before, devices)] = current[:, :, :devices]
    return fitted


def _dealt(kept: Floats, node: int) -> Ints:
    """Column of every row for the largest sum, blocks of ``node`` kept together."""
    from scipy.optimize import linear_sum_assignment

    nodes = len(kept) // node
    inside = np.empty((nodes, nodes, node), dtype=np.int64)
    worth = np.empty((nodes, nodes))
    blocks = kept.reshape(nodes, node, nodes, node).transpose(0, 2, 1, 3)
    for here, there in np.ndindex(nodes, nodes):
        block = blocks[here, there]
        rows, inside[here, there] = linear_sum_assignment(block, maximize=True)
        worth[here, there] = block[rows, inside[here, there]].sum()
    rows, column = linear_sum_assignment(worth, maximize=True)
    return np.asarray((column[:, np.newaxis] * node + inside[rows, column]).ravel())


def kept_slots(current: Ints, new: Ints, devices: int) -> Ints:
    """The new experts of every slot, with those that a device keeps left in their slots.

    Parameters
    ----------
    current, new : (L, S)
        Expert of every slot; a device has S / G neighbouring slots.

    Returns
    -------
    (L, S): the same experts on every device as in ``new``.
    """
    shape = (-1, current.shape[1] // devices)
    result = np.empty_like(new).reshape(shape)
    pairs = zip(current.reshape(shape), new.reshape(shape), strict=True)
    for row, (old, wanted) in enumerate(pairs):
        open_slots, left = [], list(wanted)
        for slot, expert in enumerate(old):
            if expert in left:
                left.remove(expert)
                result[row, slot] = expert
            else:
                open_slots.append(slot)
        result[row, open_slots] = left
    return result.reshape(new.shape)


@term(
    "sum of experts that a device has to fetch, each from the nearest that holds it",
    Ref("ElasticMoE, arXiv 2510.02613", "section on scaling; bytes over point-to-point bandwidth"),
)
def movement(current: Bools, new: Bools, net: Network, expert_bytes: float) -> Movement:
    """Bytes and time to copy what the devices lack.

    Parameters
    ----------
    current, new : (L, E, G)
        Whether a device holds an expert, before and after.
    net
        Network of the G devices; where their number changes, the larger one, with the placements
        padded by devices that hold nothing.
    expert_bytes
        Weights of one expert of one layer [B].

    Raises
    ------
    PlannerError
        If a device needs an expert that none holds.
    """
    between = tiers_between(net)
    slowness = seconds_per_byte(net)
    tiers, devices = len(net.tiers), net.devices
    layer, expert, target = np.nonzero(new & ~current)
    distance = np.where(current[layer, expert], between[target], tiers)
    near = distance.min(axis=1, initial=tiers)
    for missing in np.flatnonzero(near == tiers)[:1]:
        raise PlannerError(
            f"current placement: found expert {expert[missing]} of layer {layer[missing]} "
            "on no device, expected one."
        )
    nearest = distance == near[:, np.newaxis]
    # copies of one expert that several devices lack come from its holders in turn
    turn = target % np.maximum(nearest.sum(axis=1), 1)
    source = (np.cumsum(nearest, axis=1) == turn[:, np.newaxis] + 1).argmax(axis=1)
    received = np.zeros((tiers, devices))
    sent = np.zeros((tiers, devices))
    np.add.at(received, (near, target), expert_bytes)
    np.add.at(sent, (near, source), expert_bytes)
    busiest = np.maximum(received, sent)
    latency = sum(t.latency for t, n in zip(net.tiers, received.sum(axis=1), strict=True) if n)
    return Movement(
        received.sum(axis=0),
        received.sum(axis=1),
        float((slowness @ busiest).max() + latency),
    )
