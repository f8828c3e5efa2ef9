"""The integer program finds the best of tiny cases, proves the heuristic elsewhere, keeps time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from planner.costs.imbalance import balance
from planner.placement.certificate import certify, certify_layer
from planner.placement.packing import device_loads_of
from planner.placement.recount import place


def best(loads: list[float], slots: int, devices: int) -> float:
    """The best over all counts and packings, replicas sharing equally."""
    room = slots // devices
    found = np.inf
    for extra in itertools.product(range(devices), repeat=len(loads)):
        counts = [1 + n for n in extra]
        if sum(counts) != slots:
            continue
        parts = [load / n for load, n in zip(loads, counts, strict=True) for _ in range(n)]
        owner = [e for e, n in enumerate(counts) for _ in range(n)]
        for first in itertools.combinations(range(slots), room):
            rest = [i for i in range(slots) if i not in first]
            apart = all(len({owner[i] for i in some}) == room for some in (first, rest))
            if apart:
                total = sum(parts[i] for i in first)
                found = min(found, max(total, sum(parts) - total))
    return found / (sum(loads) / devices)


@pytest.mark.parametrize("seed", range(4))
def test_counts_and_packing_together_against_exhaustive_search(seed: int) -> None:
    loads = np.random.default_rng(seed).lognormal(0.0, 1.0, (1, 4))
    known = best(loads[0].tolist(), 6, 2)
    slots, bound = place(loads, 6, 2)
    found = balance(device_loads_of(loads, slots, 2))
    assert bound[0] <= known * (1 + 1e-9) <= found[0] * (1 + 2e-9)
    slots, bound, _ = certify(loads, slots, 2, found, bound, 10.0)
    assert balance(device_loads_of(loads, slots, 2))[0] == pytest.approx(known, rel=2e-4)
    assert bound[0] == pytest.approx(known, rel=2e-4) and bound[0] <= known * (1 + 1e-6)


def test_a_layer_that_the_heuristic_solved_is_proved_and_kept() -> None:
    loads = np.random.default_rng(3).lognormal(0.0, 0.8, (10, 8))
    slots, bound = place(loads, 8, 4)
    found = balance(device_loads_of(loads, slots, 4))
    same, proved, done = certify(loads, slots, 4, found, bound, 10.0)
    assert done.improved == 0 and done.proved == done.tried == done.open
    assert (same == slots).all()
    assert proved == pytest.approx(found, rel=2e-4)


def test_a_limit_is_kept_and_what_was_not_proved_is_told() -> None:
    loads = np.random.default_rng(0).lognormal(0.0, 0.5, (20, 256))
    slots, bound = place(loads, 288, 144)
    found = balance(device_loads_of(loads, slots, 144))
    same, still, done = certify(loads, slots, 144, found, bound, 0.3)
    assert done.seconds <= 0.05  # too large to begin with
    assert (done.tried, done.proved, done.open) == (0, 0, 20)
    assert (same == slots).all() and (still == bound).all()


def test_a_limit_is_shared_by_the_layers_the_worst_first() -> None:
    loads = np.random.default_rng(0).lognormal(0.0, 1.0, (6, 32))
    slots, bound = place(loads, 40, 8)
    found = balance(device_loads_of(loads, slots, 8))
    better, _, done = certify(loads, slots, 8, found, bound * 0.99, 0.8)
    assert 0 < done.tried <= done.open == 6
    assert done.seconds <= 0.8
    assert (balance(device_loads_of(loads, better, 8)) <= found * (1 + 1e-9)).all()


def test_a_better_map_holds_every_expert() -> None:
    loads = np.random.default_rng(3).lognormal(0.0, 1.0, 8)
    solved, slots = certify_layer(loads, 12, 4, 10.0, 1.0, 10.0)
    assert solved.status == "optimal" and slots is not None
    assert sorted(set(slots.tolist())) == list(range(8)) and len(slots) == 12
    measured = balance(device_loads_of(loads[np.newaxis], slots[np.newaxis], 4))[0]
    assert measured == pytest.approx(solved.objective, rel=1e-6)
