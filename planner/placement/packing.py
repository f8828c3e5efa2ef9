"""Replicas to devices, equally many on each: longest first, then exchanges of two.

The heaviest replica goes to the lightest device with room (LPT, Graham 1969), all layers at once.
Then the busiest device of every layer exchanges a replica with another device, the pair after which
the busier of the two is lightest, until a layer is close to its bound or no exchange helps.  With
64 experts or more this beats what an integer program finds in half a minute.
No device gets two replicas of an expert where that can be avoided: the second would be wasted.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLOSE = 2e-4
"""Relative distance from the bound where exchanges stop."""
GAIN = 1e-9
"""Least relative gain of an exchange, above rounding."""
PAIRED = 1e-3
"""Relative distance from there where exchanges of two for two stop: few layers get stuck above."""
MANY = 200_000
"""Exchanges of two for two that are worth looking through for one layer."""
EXCHANGES = 4
"""Exchanges of a layer at most, over its slots."""


def device_loads_of(loads: Floats, slots: Ints, devices: int) -> Floats:
    """Tokens of every device when replicas share equally, shape (L, G)."""
    layers = len(slots)
    offset = np.arange(layers)[:, np.newaxis] * loads.shape[1]
    counts = np.bincount((slots + offset).ravel(), minlength=loads.size).reshape(loads.shape)
    each = np.take_along_axis(loads / np.maximum(counts, 1), slots, axis=1)
    return np.asarray(each.reshape(layers, devices, -1).sum(axis=2))


def pack(loads: Floats, counts: Ints, devices: int, bound: Floats) -> Ints:
    """Expert of every slot, shape (L, S); a device has S / G neighbouring slots.

    Parameters
    ----------
    loads, counts : (L, E)
        Tokens and replicas of every expert; the replicas of a layer fill S slots.
    devices
        A divisor of S.
    bound : (L,)
        Device load over the mean that is as good as it gets.
    """
    experts, weights = _replicas(loads, counts)
    slots = _longest_first(experts, weights, loads.shape[1], devices)
    limit = bound * (1.0 + CLOSE) * loads.sum(axis=1) / devices
    return exchanged(loads / counts, slots, devices, limit)


def _replicas(loads: Floats, counts: Ints) -> tuple[Ints, Floats]:
    """Expert and load of every replica, the heaviest first, shape (L, S)."""
    weight = loads / counts
    order = np.argsort(-weight, axis=1, kind="stable")
    repeats = np.take_along_axis(counts, order, axis=1)
    expert = np.repeat(order.ravel(), repeats.ravel()).reshape(len(loads), -1)
    return expert, np.take_along_axis(weight, expert, axis=1)


def _longest_first(expert: Ints, weight: Floats, experts: int, devices: int) -> Ints:
    layers, slots = expert.shape
    room = slots // devices
    layer = np.arange(layers)
    total = np.zeros((layers, devices))
    filled = np.zeros((layers, devices), dtype=np.int64)
    holds = np.zeros((layers, experts, devices), dtype=bool)
    placed = np.empty((layers, devices, room), dtype=np.int64)
    for rank in range(slots):
        one = expert[:, rank]
        free = np.where(filled < room, total, np.inf)
        apart = np.where(holds[layer, one], np.inf, free)
        stuck = np.isinf(apart.min(axis=1))  # every device with room has the expert already
        device = np.where(stuck, free.argmin(axis=1), apart.argmin(axis=1))
        placed[layer, device, filled[layer, device]] = one
        filled[layer, device] += 1
        total[layer, device] += weight[:, rank]
        holds[layer, one, device] = True
    return placed.reshape(layers, slots)


def exchanged(weight: Floats, slots: Ints, devices: int, limit: Floats) -> Ints:
    """The same slots after exchanges between the busiest device and others, shape (L, S).

    Parameters
    ----------
    weight : (L, E)
        Load of one replica of every expert.
    slots : (L, S)
        Expert of every slot.
    limit : (L,)
        Load of the busiest device that is good enough.
    """
    slots = slots.copy()
    layers, count = slots.shape
    room = count // devices
    holds = np.zeros((layers, weight.shape[1], devices), dtype=np.int16)
    np.add.at(holds, (np.arange(layers)[:, np.newaxis], slots, np.arange(count) // room), 1)
    going = np.arange(layers)
    for _ in range(EXCHANGES * count):
        load = np.take_along_axis(weight[going], slots[going], axis=1)
        top = load.reshape(len(going), devices, room).sum(axis=2).max(axis=1)
        near, far = (top > limit[going] * (1.0 + more) for more in (0.0, PAIRED))
        helped = _exchange(weight, slots, holds, going[near], 1)
        stuck = np.setdiff1d(going[far], helped, assume_unique=True)
        if comb(room, 2) ** 2 * devices <= MANY:
            helped = np.union1d(helped, _exchange(weight, slots, holds, stuck, 2))
        going = helped
        if not len(going):
            break
    return slots


def _exchange(
    weight: Floats, slots: Ints, holds: NDArray[np.int16], layers: Ints, size: int
) -> Ints:
    """Make the best exchange of ``size`` slots with as many; the layers where one helps."""
    devices = holds.shape[2]
    room = slots.shape[1] // devices
    if not len(layers) or room < size:
        return layers[:0]
    some = np.array(list(combinations(range(room), size)))  # (n, size)
    row = np.arange(len(layers))
    expert = slots[layers].reshape(len(layers), devices, room)
    load = weight[layers[:, np.newaxis, np.newaxis], expert]
    total = load.sum(axis=2)
    busiest = total.argmax(axis=1)
    sums = load[:, :, some].sum(axis=3)  # (A, G, n)
    less = sums[row, busiest][:, :, np.newaxis, np.newaxis] - sums[:, np.newaxis]
    top = total[row, busiest]
    busier = np.maximum(
        top[:, np.newaxis, np.newaxis, np.newaxis] - less,
        total[:, np.newaxis, :, np.newaxis] + less,
    )
    # a second replica on a device; the slots of the busiest itself are among these
    layer = layers[:, np.newaxis, np.newaxis]
    twice = holds[layer, expert, busiest[:, np.newaxis, np.newaxis]] > 0  # (A, G, R)
    again = holds[layers[:, np.newaxis], expert[row, busiest]] > 0  # (A, R, G)
    barred = twice[:, :, some].any(axis=3)[:, np.newaxis]
    busier[barred | again[:, some].any(axis=2)[:, :, :, np.newaxis]] = np.inf
    flat = busier.reshape(len(layers), -1)
    best = flat.argmin(axis=1)
    helps = np.flatnonzero(flat[row, best] < top * (1.0 - GAIN))
    own, device, other = np.unravel_index(best[helps], busier.shape[1:])
    changed = layers[helps]
    first = busiest[helps, np.newaxis] * room + some[own]
    second = device[:, np.newaxis] * room + some[other]
    layer = changed[:, np.newaxis]
    a, b = slots[layer, first], slots[layer, second]
    for place, old, new in ((first, a, b), (second, b, a)):
        holds[layer, old, place // room] -= 1
        holds[layer, new, place // room] += 1
        slots[layer, place] = new
    return changed
