"""Experts to devices across layers, so that tokens move little from one layer to the next.

The layers are a chain, so where one layer has few possible placements (six clusters on six devices)
dynamic programming over them is exact, however many layers there are.  Otherwise: with all other
layers fixed the price of one layer's placement is linear in it, so the best one is an exact linear
assignment, and coordinate descent over the layers does the rest, from several beginnings.  On a
network of one tier the first pass alone is the optimum, for only the order of neighbours counts.

Sources: ExFlow, arXiv 2401.08383; MoETuner, arXiv 2502.06643, section 5.  Both solve an integer
program, which is out of reach beyond four layers of four devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.placement.affinity import least_travelled, travelled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEW = 720
"""Placements of one layer up to which all are tried: six clusters on six devices."""
SWEEPS = 50
"""Passes over the layers, forth and back, of one descent; about five are needed."""
WORK = 1e9
"""Effort of all descents together, half a second; one is L E^2 (E + 400), as measured."""
MOST_TRIES = 64
"""Descents at most; the first half have beginnings of their own, the others disturb the best."""
DISTURBED = 4
"""Layers that are shuffled before the best placement is descended from again."""


@dataclass(frozen=True)
class AffinityPlacement:
    """Devices of experts, what their steps cost, and what they cost at least."""

    device: Ints
    """Device of each expert, shape (L, E)."""
    price: float
    bound: float
    """No placement costs less; equal to the price where that is proved to be the least."""


def place_by_affinity(
    flows: Floats, distance: Floats, seed: int = 0, tries: int | None = None
) -> AffinityPlacement:
    """Experts, or clusters of them, to devices for the least price of all steps.

    Every device gets E / G of each layer.

    Parameters
    ----------
    flows : (L - 1, E, E)
        Tokens from an expert, or a cluster, to one of the next layer.
    distance : (G, G)
        Symmetric price of a step, see `affinity.distances`.
    tries
        Descents where not all placements are tried; as many as `WORK` allows if not given.

    Raises
    ------
    PlannerError
        If the devices cannot have equal numbers.
    """
    experts, devices = flows.shape[-1], len(distance)
    if experts % devices:
        raise PlannerError(
            f"affinity: found {experts} experts or clusters in a layer, "
            f"expected a multiple of the {devices} devices."
        )
    if _placements(experts, devices) <= FEW:
        device = _exact(flows, distance)
        price = _total(flows, device, distance)
        return AffinityPlacement(device, price, price)
    work = len(flows) * experts**2 * (experts + 400.0)
    tries = tries or int(np.clip(WORK / work, 1, MOST_TRIES))
    device = _searched(flows, distance, tries, np.random.default_rng(seed))
    price = _total(flows, device, distance)
    return AffinityPlacement(device, price, min(price, least_travelled(flows, distance)))


def _placements(experts: int, devices: int) -> int:
    orders: int = factorial(experts // devices) ** devices
    return factorial(experts) // orders


def _total(flows: Floats, device: Ints, distance: Floats) -> float:
    return float(travelled(flows, device, distance).sum())


def _exact(flows: Floats, distance: Floats) -> Ints:
    """The shortest path through all placements of every layer."""
    experts, devices = flows.shape[-1], len(distance)
    contents = np.repeat(np.arange(devices), experts // devices)
    every = np.array(sorted(set(permutations(contents.tolist()))))
    chosen = np.equal(every[:, :, np.newaxis], np.arange(devices)).reshape(len(every), -1)
    columns = chosen.astype(float)
    price = np.zeros(len(every))
    back = []
    for flow in flows:
        step = columns @ np.kron(flow, distance) @ columns.T + price[:, np.newaxis]
        back.append(step.argmin(axis=0))
        price = step.min(axis=0)
    path = [int(price.argmin())]
    for before in reversed(back):
        path.append(int(before[path[-1]]))
    return every[path[::-1]]


def _searched(flows: Floats, distance: Floats, tries: int, random: np.random.Generator) -> Ints:
    """The best of several descents."""
    best = _descend(flows, distance, _begun(flows, distance, random, first=True))
    price = _total(flows, best, distance)
    for attempt in range(1, tries):
        if 2 * attempt < tries:
            start = _begun(flows, distance, random)
        else:
            start = best.copy()
            some = random.permutation(len(best))[:DISTURBED]
            start[some] = random.permuted(start[some], axis=1)
        other = _descend(flows, distance, start)
        new = _total(flows, other, distance)
        if new < price:
            best, price = other, new
    return best


def _begun(
    flows: Floats, distance: Floats, random: np.random.Generator, first: bool = False
) -> Ints:
    """One layer placed contiguously (the first) or at random, the others for their neighbour."""
    contents = np.repeat(np.arange(len(distance)), flows.shape[-1] // len(distance))
    layer = 0 if first else int(random.integers(len(flows) + 1))
    placed = contents if first else random.permutation(contents)
    onwards, backwards = [placed], [placed]
    for flow in flows[layer:]:
        onwards.append(_assigned(flow.T @ distance[onwards[-1]]))
    for flow in flows[:layer][::-1]:
        backwards.append(_assigned(flow @ distance[backwards[-1]]))
    return np.array(backwards[:0:-1] + onwards)


def _descend(flows: Floats, distance: Floats, start: Ints) -> Ints:
    """One layer after the other placed for both its neighbours, until nothing changes."""
    device = start.copy()
    layers = len(device)
    everyone = np.arange(flows.shape[-1])
    for _ in range(SWEEPS):
        before = device.copy()
        for layer in (*range(layers), *range(layers - 2, -1, -1)):
            price = np.zeros((len(everyone), len(distance)))
            if layer > 0:
                price += flows[layer - 1].T @ distance[device[layer - 1]]
            if layer < layers - 1:
                price += flows[layer] @ distance[device[layer + 1]]
            new = _assigned(price)
            now, then = price[everyone, device[layer]].sum(), price[everyone, new].sum()
            if then < now - 1e-9 * abs(now):
                device[layer] = new
        if np.array_equal(device, before):
            break
    return device


def _assigned(price: Floats) -> Ints:
    """Columns of the cheapest assignment of all rows, each column taken equally often."""
    from scipy.optimize import linear_sum_assignment

    slots = len(price) // price.shape[1]
    columns = linear_sum_assignment(np.repeat(price, slots, axis=1))[1]
    return np.asarray(columns // slots)
