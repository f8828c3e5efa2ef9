"""How many domains (nodes, devices) hold at least one of a token's experts.

Counted in recorded routing, or expected from loads alone.  The expectation takes the experts of a
token as drawn without replacement, K at a time, with weights that reproduce the loads and no other
preference (conditional Bernoulli sampling), so it is exact for uniform routing and an upper limit
where experts of one domain accompany each other.
Source: HierMoE, arXiv 2508.09591, table II; Chen, Dempster and Liu 1994, Biometrika 81(3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.topology import Network

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROUNDS = 60
"""Corrections of the weights at most; ten are usual."""
CLOSE = 1e-9
"""Difference of a chance from the load where the corrections stop."""
CERTAIN = 1.0 - 1e-6
"""Largest chance of an expert that a token goes to it."""


def counted(routing: Ints, group: Ints, groups: int) -> Floats:
    """Part of the tokens that reach each group, shape (groups,).

    Parameters
    ----------
    routing : (T, K)
        Experts of every token in one layer.
    group : (E,)
        Group of every expert.
    """
    reached = np.sort(group[routing], axis=1)
    first = np.ones_like(reached, dtype=bool)
    first[:, 1:] = reached[:, 1:] != reached[:, :-1]
    return np.bincount(reached[first], minlength=groups) / len(routing)


@term(
    "1 - e_K(w outside the group) / e_K(w), with w such that an expert's chance is K load / sum",
    Ref("Chen, Dempster and Liu 1994, Biometrika 81(3)", "section 2, conditional Bernoulli"),
)
def expected(loads: Floats, group: Ints, groups: int, top_k: int) -> Floats:
    """Chance that a token reaches each group, from loads alone, shape (L, groups).

    Parameters
    ----------
    loads : (L, E)
        Use of every expert, on any scale; none can be used more than once a token.  A replica
        counts as an expert with its share.
    group : (L, E)
        Group of every expert.
    """
    return _chances(_weights(loads, top_k), group, groups, top_k)


def copies_of(reach: Floats) -> Floats:
    """Groups that a token reaches on average, from the chance of each in the last axis."""
    return np.asarray(reach.sum(axis=-1))


def busiest_copies(reach: Floats) -> Floats:
    """Groups that a token would reach if all were as busy as the busiest."""
    return np.asarray(reach.max(axis=-1) * reach.shape[-1])


def by_tier(net: Network, device: Ints) -> list[tuple[Ints, int]]:
    """For every tier, the domain inside it that holds each device, and their number."""
    return [(device // size, net.devices // size) for size in (1, *net.domains[:-1])]


def _weights(loads: Floats, top_k: int) -> Floats:
    """Weights of a draw of ``top_k`` whose chances are in proportion to the loads."""
    experts = loads.shape[-1]
    everyone = np.broadcast_to(np.arange(experts), loads.shape)
    wanted = _capped(loads * (top_k / loads.sum(axis=-1, keepdims=True)), top_k)
    odds = wanted / (1.0 - wanted)
    weights = odds.copy()
    for _ in range(ROUNDS):
        chance = np.clip(_chances(weights, everyone, experts, top_k), 1e-300, 1.0 - 1e-12)
        if np.abs(chance - wanted).max() < CLOSE:
            break
        weights = weights * odds * (1.0 - chance) / chance
    return weights


def _capped(chance: Floats, top_k: int) -> Floats:
    """Chances of at most one that keep their sum: what is cut off goes to the others."""
    for _ in range(top_k):
        over = chance >= CERTAIN
        if not np.any(over & (chance > CERTAIN)):
            break
        free = np.where(over, 0.0, chance).sum(axis=-1, keepdims=True)
        left = top_k - CERTAIN * over.sum(axis=-1, keepdims=True)
        chance = np.where(over, CERTAIN, chance * left / free)
    return chance


def _chances(weights: Floats, group: Ints, groups: int, top_k: int) -> Floats:
    """Chance of each group to hold one of ``top_k`` experts drawn with ``weights``."""
    layers = np.arange(len(weights))
    inside = np.zeros((len(weights), groups, top_k + 1))
    inside[:, :, 0] = 1.0
    for expert in range(weights.shape[1]):  # multiply the group's polynomial by 1 + w z
        own = inside[layers, group[:, expert]]
        own[:, 1:] += weights[:, expert, np.newaxis] * own[:, :-1]
        inside[layers, group[:, expert]] = own
    before = _running_products(inside)
    after = _running_products(inside[:, ::-1])[:, ::-1]
    outside = (before[:, :-1] * after[:, 1:, ::-1]).sum(axis=-1)
    return np.asarray(1.0 - outside / before[:, -1:, top_k])


def _running_products(factors: Floats) -> Floats:
    """Products of the first 0, 1, ... polynomials, cut off after the last power."""
    layers, count, powers = factors.shape
    products = np.zeros((layers, count + 1, powers))
    products[:, 0, 0] = 1.0
    for i in range(count):
        for power in range(powers):
            products[:, i + 1, power:] += (
                factors[:, i, power, np.newaxis] * products[:, i, : powers - power]
            )
    return products
