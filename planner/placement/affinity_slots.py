"""Affinity for maps of slots: packed for balance first, then brought near their neighbours.

Mapping the contents of whole devices changes no load, but packing by load alone has scattered what
belongs together.  So replicas of a layer also change devices, among those of similar load: each
device gets one of the G heaviest, one of the G next, and so on.  Each such stratum is an exact
linear assignment of prices, plus a penalty on load where load is already; the smallest penalty
that keeps the layer within the limit is taken, if the price falls.

Sources: MoETuner, arXiv 2502.06643, section 5 (clusters to devices); ExFlow, arXiv 2401.08383,
section IV (experts to devices).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.placement.affinity import cluster_flows
from planner.placement.affinity_search import place_by_affinity
from planner.placement.splitting import copies_on, device_loads, equal_shares

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PENALTIES = (1.0, 10.0, 100.0)
"""Weights of load against price, tried from the first, when the mean device has a load of 1."""
SWEEPS = 3
"""Passes over the layers, forth and back; more gain a thousandth of the price."""
TWICE = 1e6
"""Price of a second replica on one device: never, where it can be avoided."""
LESS = 1e-9
"""Least relative fall of a price, above rounding."""


def steps_price(transitions: Floats, slots: Ints, distance: Floats) -> Floats:
    """Price of all steps between two layers whose replicas share equally, shape (L - 1,).

    Parameters
    ----------
    transitions : (L - 1, E, E)
        Tokens that go from an expert of layer l to one of layer l + 1.
    slots : (L, S)
        Expert of every slot; a device has S / G neighbouring slots.
    distance : (G, G)
        Price of a step, see `affinity.distances`.
    """
    copies = copies_on(slots, transitions.shape[-1], len(distance))
    flows = cluster_flows(transitions, equal_shares(copies))
    return np.asarray((flows * distance).sum(axis=(1, 2)))


def near(
    transitions: Floats, loads: Floats, slots: Ints, distance: Floats, limit: float, seed: int = 0
) -> Ints:
    """Expert of every slot after moving replicas near their neighbours, shape (L, S).

    Parameters
    ----------
    transitions : (L - 1, E, E)
        Tokens that go from an expert of layer l to one of layer l + 1.
    loads : (L, E)
        Tokens of every expert.
    slots : (L, S)
        A placement packed for balance.
    distance : (G, G)
        Symmetric price of a step, see `affinity.distances`.
    limit
        Largest load of a device over the mean; a layer that begins above it gets no worse.
    """
    experts, devices = transitions.shape[-1], len(distance)
    shares = equal_shares(copies_on(slots, experts, devices))
    device = place_by_affinity(cluster_flows(transitions, shares), distance, seed).device
    contents = slots.reshape(len(slots), devices, -1)
    order = np.argsort(device, axis=1)  # the cluster of every device
    mapped = np.take_along_axis(contents, order[:, :, np.newaxis], axis=1).reshape(slots.shape)
    return _refined(transitions, loads, mapped, distance, limit)


def _refined(
    transitions: Floats, loads: Floats, slots: Ints, distance: Floats, limit: float
) -> Ints:
    """One layer after the other for both its neighbours, until nothing changes."""
    slots = slots.copy()
    experts, devices = loads.shape[1], len(distance)
    device = np.arange(slots.shape[1]) // (slots.shape[1] // devices)
    copies = copies_on(slots, experts, devices)
    shares, count = equal_shares(copies), copies.sum(axis=2)
    loads = loads * (devices / loads.sum(axis=1, keepdims=True))
    allowed = np.maximum(limit, device_loads(loads, shares).max(axis=1)) * (1.0 + LESS)
    for _ in range(SWEEPS):
        before = slots.copy()
        for layer in (*range(len(slots)), *range(len(slots) - 2, -1, -1)):
            price = _prices(transitions, shares, distance, layer) / count[layer, :, np.newaxis]
            weight = loads[layer] / count[layer]
            new = _dealt(price, weight, slots[layer], float(allowed[layer]))
            now, then = (float(price[one, device].sum()) for one in (slots[layer], new))
            if then < now - LESS * abs(now):
                slots[layer] = new
                shares[layer] = equal_shares(copies_on(new[np.newaxis], experts, devices))[0]
        if np.array_equal(slots, before):
            break
    return slots


def _prices(transitions: Floats, shares: Floats, distance: Floats, layer: int) -> Floats:
    """Price of an expert's steps on each device, over the mean device's furthest, shape (E, G)."""
    price = np.zeros(shares.shape[1:])
    tokens = 0.0
    if layer > 0:
        price += transitions[layer - 1].T @ (shares[layer - 1] @ distance)
        tokens += float(transitions[layer - 1].sum())
    if layer < len(transitions):
        price += transitions[layer] @ (shares[layer + 1] @ distance)
        tokens += float(transitions[layer].sum())
    furthest = tokens * float(distance.max())
    return price * (len(distance) / furthest if furthest > 0 else 1.0)


def _dealt(price: Floats, weight: Floats, slots: Ints, allowed: float) -> Ints:
    """One replica of every stratum to each device within the load that is allowed, shape (S,)."""
    from scipy.optimize import linear_sum_assignment

    experts, devices = price.shape
    strata = slots[np.argsort(-weight[slots], kind="stable")].reshape(-1, devices)
    for penalty in PENALTIES:
        total = np.zeros(devices)
        held = np.zeros((experts, devices), dtype=bool)
        new = np.empty((devices, len(strata)), dtype=np.int64)
        for rank, expert in enumerate(strata):
            cost = price[expert] + penalty * weight[expert, np.newaxis] * total
            cost[held[expert]] = TWICE
            device = linear_sum_assignment(cost)[1]
            new[device, rank] = expert
            held[expert, device] = True
            total[device] += weight[expert]
        if total.max() <= allowed:
            return new.ravel()
    return slots
