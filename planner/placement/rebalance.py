"""Few changes to the current placement, instead of a new one that moves almost everything.

A placement made anew for drifted loads shares little with the old one, whichever way its devices
are named.  Here the busiest device of every layer gets rid of load, one change at a time, until
all are within a limit: two experts change devices (two copies move), or a replica of its heaviest
expert takes the slot of an expert that has others (one copy moves).  Each step takes the change
after which the devices that it touches are the least loaded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHANGES = 4
"""Changes of one layer at most, over its slots."""
GAIN = 1e-9
"""Least relative gain of a change, above rounding."""


def rebalanced(loads: Floats, current: Ints, devices: int, limit: float) -> Ints:
    """Expert of every slot after the changes, shape (L, S).

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert now.
    current : (L, S)
        Expert of every slot; a device has S / G neighbouring slots.
    limit
        Load of the busiest device over the mean that is good enough; a layer that cannot get
        there ends where no single change helps.
    """
    pairs = zip(loads, current, strict=True)
    return np.array([_layer(load, slots.copy(), devices, limit) for load, slots in pairs])


def resized(loads: Floats, current: Ints, before: int, after: int) -> Ints:
    """Expert of every slot on more or fewer devices, with the fewest copies moved, shape (L, S).

    As many slots as now, evenly on the devices; those that stay keep what they have room for, of
    heavy and light experts alike.  `rebalanced` mends the balance.

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert now.
    current : (L, S)
        Expert of every slot.
    before, after
        Devices now and then: new ones come last, and the last ones go.

    Raises
    ------
    PlannerError
        If the slots cannot be divided evenly.
    """
    layers, slots = current.shape
    if slots % after:
        raise PlannerError(
            f"new placement: found {slots} slots, expected a multiple of the {after} devices."
        )
    room, stay = slots // after, min(before, after)
    keep = min(room, slots // before)
    new = np.empty((layers, after, room), dtype=np.int64)
    for layer, (load, expert) in enumerate(zip(loads, current, strict=True)):
        weight = load / np.maximum(np.bincount(expert, minlength=len(load)), 1)
        held = expert.reshape(before, -1)
        held = np.take_along_axis(held, np.argsort(-weight[held], axis=1, kind="stable"), axis=1)
        kept = np.linspace(0, held.shape[1] - 1, keep).round().astype(np.int64)
        new[layer, :stay, :keep] = held[:stay, kept]
        left = np.concatenate([np.delete(held[:stay], kept, axis=1).ravel(), held[stay:].ravel()])
        left = left[np.argsort(-weight[left], kind="stable")]
        open_slots = np.ones((after, room), dtype=bool)
        open_slots[:stay, :keep] = False
        new[layer].T[open_slots.T] = left  # one slot of every device after the other
    return new.reshape(layers, slots)


def _layer(loads: Floats, slots: Ints, devices: int, limit: float) -> Ints:
    device = np.arange(len(slots)) // (len(slots) // devices)
    enough = limit * loads.sum() / devices
    for _ in range(CHANGES * len(slots)):
        copies = np.zeros((len(loads), devices))
        np.add.at(copies, (slots, device), 1.0)
        weight = loads / np.maximum(copies.sum(axis=1), 1.0)
        total = weight @ copies
        top = float(total.max())
        if top <= enough:
            break
        swap, first, second = _best_swap(weight, slots, device, copies, total)
        replacement, slot, expert = _best_replacement(loads, slots, device, copies, total)
        if min(swap, replacement) >= top * (1.0 - GAIN):
            break
        if replacement <= swap:
            slots[slot] = expert
        else:
            slots[[first, second]] = slots[[second, first]]
    return slots


def _best_swap(
    weight: Floats, slots: Ints, device: Ints, copies: Floats, total: Floats
) -> tuple[float, int, int]:
    """The busier of two devices after the best exchange with the busiest, and its two slots."""
    busiest = int(total.argmax())
    own = np.flatnonzero(device == busiest)
    less = weight[slots[own], np.newaxis] - weight[slots]
    busier = np.maximum(total[busiest] - less, total[device] + less)
    twice = (copies[slots, busiest] > 0) | (copies[slots[own]][:, device] > 0)
    busier[twice] = np.inf  # a second copy on one device; its own slots are among these
    row, slot = divmod(int(busier.argmin()), len(slots))
    return float(busier[row, slot]), int(own[row]), slot


def _best_replacement(
    loads: Floats, slots: Ints, device: Ints, copies: Floats, total: Floats
) -> tuple[float, int, int]:
    """The busiest device touched by the best new replica, its slot, and the expert in it."""
    busiest = int(total.argmax())
    count = copies.sum(axis=1)
    here = np.flatnonzero(copies[:, busiest])
    expert = int(here[(loads[here] / count[here]).argmax()])
    slot = np.flatnonzero((count[slots] > 1) & (copies[expert, device] == 0))
    if not len(slot):
        return np.inf, 0, expert
    old = slots[slot]
    rows = np.arange(len(slot)), device[slot]
    after = copies[old]
    after[rows] -= 1.0
    share = after * (loads[old] / (count[old] - 1.0))[:, np.newaxis]
    share -= copies[old] * (loads[old] / count[old])[:, np.newaxis]
    wider = copies[expert] / (count[expert] + 1.0) - copies[expert] / count[expert]
    changed = total + loads[expert] * wider + share
    changed[rows] += loads[expert] / (count[expert] + 1.0)
    touched = (copies[old] > 0) | (copies[expert] > 0)
    busier = np.where(touched, changed, 0.0).max(axis=1)
    best = int(busier.argmin())
    return float(busier[best]), int(slot[best]), expert
