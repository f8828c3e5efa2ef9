"""Packing is near its bound where the bound can be reached, and near the best where it cannot."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.costs.imbalance import balance
from planner.errors import PlannerError
from planner.placement.packing import device_loads_of, pack
from planner.placement.recount import place
from planner.placement.replicas import balance_bound, replica_counts
from planner.placement.unequal import loads_of, place_unequal

Floats = NDArray[np.float64]


def drawn(layers: int, experts: int, sigma: float, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).lognormal(0.0, sigma, (layers, experts))


def best_equal(load: Floats, devices: int) -> float:
    """The lightest busiest device over all ways to give each device as many experts."""

    def least(left: tuple[int, ...]) -> float:
        if not left:
            return 0.0
        rest = left[1:]
        size = len(load) // devices - 1
        found = np.inf
        for some in itertools.combinations(rest, size):
            own = load[left[0]] + load[list(some)].sum()
            if own < found:
                found = min(found, max(own, least(tuple(e for e in rest if e not in some))))
        return found

    return least(tuple(range(len(load)))) / (load.sum() / devices)


def best_unequal(load: Floats, devices: int) -> float:
    """The same with any numbers, at least one expert on each."""
    every = np.array(list(itertools.product(range(devices), repeat=len(load))))
    inside = every[:, :, np.newaxis] == np.arange(devices)
    total = np.einsum("neg,e->ng", inside, load)
    return float(total[inside.any(axis=1).all(axis=1)].max(axis=1).min() / total[0].mean())


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("seed", [0, 3])
def test_a_whole_model_is_within_the_promised_gap_in_time(sigma: float, seed: int) -> None:
    loads = drawn(58, 256, sigma, seed)
    start = time.perf_counter()
    slots, bound = place(loads, 320, 64)
    assert time.perf_counter() - start < 1.5
    gap = balance(device_loads_of(loads, slots, 64)) / bound - 1.0
    assert gap.mean() <= 0.003 and gap.max() <= 0.01
    assert all(set(row) == set(range(256)) for row in slots)


def test_no_device_has_an_expert_twice() -> None:
    slots, _ = place(drawn(20, 64, 1.5), 96, 16)
    assert all(len(set(part)) == 6 for row in slots for part in row.reshape(16, 6))


def test_where_slots_limit_the_bound_says_so() -> None:
    loads = drawn(58, 256, 1.5)
    slots, bound = place(loads, 288, 144)  # two a device
    found = balance(device_loads_of(loads, slots, 144))
    assert bound.mean() > 1.7
    assert (found / bound).max() - 1.0 < 0.01


@pytest.mark.parametrize("sigma", [0.3, 0.8])
def test_tiny_packings_against_exhaustive_search(sigma: float) -> None:
    loads = drawn(40, 8, sigma, 7)
    slots, bound = place(loads, 8, 4)
    found = balance(device_loads_of(loads, slots, 4))
    best = np.array([best_equal(load, 4) for load in loads])
    assert (bound <= best * (1 + 1e-12)).all() and (found >= best * (1 - 1e-12)).all()
    assert found / best == pytest.approx(1.0, abs=1e-9)  # pairs: exchanges find the best


def test_three_on_a_device_against_exhaustive_search() -> None:
    loads = drawn(20, 9, 0.8, 8)
    slots, _ = place(loads, 9, 3)
    best = np.array([best_equal(load, 3) for load in loads])
    ratio = balance(device_loads_of(loads, slots, 3)) / best
    assert ratio.mean() < 1.005 and ratio.max() < 1.03


def test_exchanges_are_what_longest_first_lacks() -> None:
    loads = drawn(20, 64, 1.0)
    counts = replica_counts(loads, 80, 16)
    bound = balance_bound(loads, counts, 16)
    far = balance(device_loads_of(loads, pack(loads, counts, 16, bound * 10.0), 16))
    near = balance(device_loads_of(loads, pack(loads, counts, 16, bound), 16))
    assert (near <= far).all() and (far - 1.0).mean() > 5.0 * (near - 1.0).mean()


def test_moetuners_lever_on_eight_experts_and_four_devices() -> None:
    for sigma, contiguous, equal, unequal in (
        (0.3, 1.247, 1.085, 1.076),
        (0.5, 1.416, 1.169, 1.087),
        (0.8, 1.668, 1.343, 1.237),
    ):
        loads = drawn(60, 8, sigma, 11)
        in_order = balance(loads.reshape(60, 4, 2).sum(axis=2))
        as_many = balance(device_loads_of(loads, place(loads, 8, 4)[0], 4))
        home, bound = place_unequal(loads, 4, room=10**6)
        any_number = balance(loads_of(loads, home, 4))
        assert any_number == pytest.approx(bound)
        for row in range(12):
            assert as_many[row] == pytest.approx(best_equal(loads[row], 4))
            assert any_number[row] == pytest.approx(best_unequal(loads[row], 4))
        assert in_order.mean() > as_many.mean() > any_number.mean()
        # the paper notes' draws of the same kind, a few per cent for other draws
        for found, known in ((in_order, contiguous), (as_many, equal), (any_number, unequal)):
            assert found.mean() == pytest.approx(known, rel=0.09)


def test_memory_is_the_constraint_over_all_layers() -> None:
    loads = drawn(32, 8, 0.8)
    home, _ = place_unequal(loads, 4, room=64)
    assert np.bincount(home.ravel(), minlength=4).tolist() == [64] * 4
    sizes = np.array([np.bincount(row, minlength=4) for row in home])
    assert sizes.max() > 2 > sizes.min()


def test_one_layer_with_no_room_to_spare_has_equal_counts() -> None:
    home, _ = place_unequal(np.array([[9.0, 1, 1, 1, 1, 1, 1, 1]]), 4, room=2)
    assert np.bincount(home[0]).tolist() == [2, 2, 2, 2]


def test_sixteen_experts_are_descended_to_near_the_bound() -> None:
    loads = drawn(20, 16, 0.8)
    home, bound = place_unequal(loads, 4, room=10**6)
    found = balance(loads_of(loads, home, 4))
    equal = balance(device_loads_of(loads, place(loads, 16, 4)[0], 4))
    assert (found >= bound).all() and found.mean() < equal.mean()


def test_experts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PlannerError, match="slots: found room for 12 experts"):
        place_unequal(np.ones((2, 8)), 4, room=3)
