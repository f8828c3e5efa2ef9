"""Other replica counts for the layers that the best counts cannot balance.

Apportionment makes the largest replica small, which is not all that a packing needs: with few
experts or few slots on a device the sizes have to fit together.  One expert gives a replica to
another, all promising pairs are packed at once, and the best of them is kept while it helps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.imbalance import balance
from planner.placement.packing import device_loads_of, pack
from planner.placement.rebalance import rebalanced
from planner.placement.replicas import balance_bound, replica_counts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FAR = 2e-3
"""Relative distance from the bound where other counts are tried."""
WORK = 4e6
"""Packings of one round, times slots and devices: about a quarter of a second."""
ROUNDS = 6
"""Rounds at most."""


def place(loads: Floats, slots: int, devices: int) -> tuple[Ints, Floats]:
    """Replicas and packing: expert of every slot, shape (L, S), and the bound, shape (L,).

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert.
    slots
        Slots of a layer, a multiple of ``devices``; a device has S / G neighbouring ones.
    """
    counts = replica_counts(loads, slots, devices)
    bound = balance_bound(loads, counts, devices)
    placed = pack(loads, counts, devices, bound)
    if slots == loads.shape[1]:
        return placed, bound
    for layer in _far(loads, placed, devices, bound):
        one, limit = slice(layer, layer + 1), float(bound[layer] * (1.0 + FAR))
        placed[one] = rebalanced(loads[one], placed[one], devices, limit)
    for _ in range(ROUNDS):
        far = _far(loads, placed, devices, bound)
        better = _recounted(loads[far], placed[far], devices, bound[far]) if len(far) else placed
        if not len(far) or np.array_equal(better, placed[far]):
            break
        placed[far] = better
    return placed, bound


def _far(loads: Floats, placed: Ints, devices: int, bound: Floats) -> Ints:
    found = balance(device_loads_of(loads, placed, devices))
    return np.flatnonzero(found > bound * (1.0 + FAR))


def _recounted(loads: Floats, placed: Ints, devices: int, bound: Floats) -> Ints:
    """Every layer after the best gift of one replica, or as it was."""
    layers, experts = loads.shape
    counts = np.array([np.bincount(row, minlength=experts) for row in placed])
    wide = int((WORK / (layers * placed.shape[1] * devices)) ** 0.5)
    wide = min(max(wide, 1), experts)
    can_take, can_give = counts < devices, counts > 1
    takes = np.argsort(np.where(can_take, -loads / counts, np.inf), axis=1, kind="stable")
    left = np.where(can_give, loads / np.maximum(counts - 1, 1), np.inf)
    gives = np.argsort(left, axis=1, kind="stable")
    layer, taker, giver = (
        part.ravel()
        for part in np.broadcast_arrays(
            np.arange(layers)[:, np.newaxis, np.newaxis],
            takes[:, :wide, np.newaxis],
            gives[:, np.newaxis, :wide],
        )
    )
    real = (taker != giver) & can_take[layer, taker] & can_give[layer, giver]
    layer, taker, giver = layer[real], taker[real], giver[real]
    tried = counts[layer]
    row = np.arange(len(layer))
    tried[row, taker] += 1
    tried[row, giver] -= 1
    packed = pack(loads[layer], tried, devices, bound[layer])
    found = balance(device_loads_of(loads[layer], packed, devices))
    before = balance(device_loads_of(loads, placed, devices))
    result = placed.copy()
    for one in range(layers):
        own = np.flatnonzero(layer == one)
        if len(own) and found[own].min() < before[one] * (1.0 - 1e-9):
            result[one] = packed[own[found[own].argmin()]]
    return result
