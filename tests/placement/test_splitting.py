"""Token splits between replicas: the linear program, the fast way, and what equal parts lose."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.placement.splitting import (
    best_shares,
    copies_on,
    device_loads,
    equal_shares,
    water_filled,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def scattered(layers: int, experts: int, devices: int, seed: int) -> tuple[Floats, Bools]:
    """Log-normal loads, and one to three replicas of every expert anywhere."""
    random = np.random.default_rng(seed)
    loads = random.lognormal(0.0, 1.0, (layers, experts))
    order = random.random((layers, experts, devices)).argsort(axis=2)
    return loads, order < random.integers(1, 4, (layers, experts, 1))


def least_largest(loads: Floats, hosted: Bools) -> float:
    """By the theorem of maximum flow: the densest set of devices and the experts bound to it."""
    devices = range(hosted.shape[1])
    densest = 0.0
    for size in range(1, hosted.shape[1] + 1):
        for some in combinations(devices, size):
            outside = np.delete(hosted, some, axis=1)
            densest = max(densest, float(loads[~outside.any(axis=1)].sum()) / size)
    return densest


def largest(loads: Floats, shares: Floats) -> Floats:
    return np.asarray(device_loads(loads, shares).max(axis=1))


def test_a_map_of_slots_as_replicas() -> None:
    """Two devices of three slots; the second has two replicas of expert 0."""
    copies = copies_on(np.array([[0, 1, 2, 0, 2, 0]]), 3, 2)
    assert copies.tolist() == [[[1, 2], [1, 0], [1, 1]]]


def test_equal_shares_count_two_replicas_on_one_device() -> None:
    assert equal_shares(np.array([[[2, 1, 0]]])).tolist() == [[[2 / 3, 1 / 3, 0.0]]]


@pytest.mark.parametrize("seed", range(6))
def test_the_program_reaches_the_densest_set_of_devices(seed: int) -> None:
    loads, hosted = scattered(3, 8, 5, seed)
    exact = [least_largest(*layer) for layer in zip(loads, hosted, strict=True)]
    assert largest(loads, best_shares(loads, hosted)) == pytest.approx(exact)


@pytest.mark.parametrize("seed", range(6))
def test_filling_converges_to_the_program(seed: int) -> None:
    loads, hosted = scattered(20, 16, 6, seed)
    best = largest(loads, best_shares(loads, hosted))
    assert largest(loads, water_filled(loads, hosted, 400)) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("split", [best_shares, water_filled])
class TestShares:
    def test_all_tokens_are_served_where_the_expert_is(self, split: type) -> None:
        loads, hosted = scattered(4, 16, 6, 0)
        shares = split(loads, hosted)
        assert shares.sum(axis=2) == pytest.approx(np.ones((4, 16)))
        assert np.all(shares >= -1e-12)
        assert np.all(shares[~hosted] == 0.0)

    def test_one_replica_leaves_no_choice(self, split: type) -> None:
        hosted = np.eye(4, dtype=bool)[np.newaxis]
        assert np.array_equal(split(np.arange(4.0)[np.newaxis], hosted), hosted)

    def test_replicas_everywhere_balance_exactly(self, split: type) -> None:
        loads = np.array([[9.0, 1.0, 0.0, 2.0]])
        shares = split(loads, np.ones((1, 4, 3), dtype=bool))
        assert device_loads(loads, shares) == pytest.approx(np.full((1, 3), 4.0))

    def test_an_expert_without_tokens_stays_ready_on_all_its_devices(self, split: type) -> None:
        shares = split(np.array([[0.0, 3.0]]), np.ones((1, 2, 2), dtype=bool))
        assert shares[0, 0].tolist() == [0.5, 0.5]

    def test_by_hand(self, split: type) -> None:
        """Expert 0 has 10 tokens on devices 0 and 1; device 0 has 4 others, so it takes 3."""
        hosted = np.array([[[True, True], [True, False]]])
        shares = split(np.array([[10.0, 4.0]]), hosted)
        assert shares[0, 0] == pytest.approx([0.3, 0.7])

    def test_the_scale_of_loads_does_not_matter(self, split: type) -> None:
        loads, hosted = scattered(2, 12, 5, 0)
        small, large = (largest(loads * x, split(loads * x, hosted)) for x in (1.0, 1e6))
        assert large == pytest.approx(small * 1e6, rel=1e-6)


@pytest.mark.parametrize("rounds", [1, 2, 8])
def test_filling_is_never_worse_than_equal_parts(rounds: int) -> None:
    loads, hosted = scattered(50, 24, 8, 0)
    equal = largest(loads, equal_shares(hosted.astype(np.int64)))
    filled = largest(loads, water_filled(loads, hosted, rounds))
    assert np.all(filled <= equal * (1 + 1e-12))
    assert np.all(filled <= largest(loads, water_filled(loads, hosted, rounds - 1)) * (1 + 1e-12))


def test_a_whole_model_is_split_in_a_fraction_of_a_second() -> None:
    """58 layers, 256 experts and 64 replicas on 64 devices: within 1 % of the program."""
    random = np.random.default_rng(0)
    loads = random.lognormal(0.0, 1.0, (58, 256))
    heavy = np.argsort(-loads, axis=1)[:, :64]
    slots = np.concatenate([np.tile(np.arange(256), (58, 1)), heavy], axis=1)
    device = np.argsort(random.random((58, 320)), axis=1) % 64
    hosted = np.zeros((58, 256, 64), dtype=bool)
    hosted[np.arange(58)[:, np.newaxis], slots, device] = True
    begin = time.process_time()
    filled = largest(loads, water_filled(loads, hosted))
    assert time.process_time() - begin < 0.5
    best = largest(loads, best_shares(loads, hosted))
    assert np.all(filled <= 1.01 * best)
    assert filled.mean() < 1.001 * best.mean()


@pytest.mark.parametrize("split", [best_shares, water_filled])
def test_an_expert_on_no_device_is_an_error(split: type) -> None:
    hosted = np.ones((2, 3, 2), dtype=bool)
    hosted[1, 2] = False
    with pytest.raises(PlannerError, match="token split: found expert 2 of layer 1 on no device"):
        split(np.ones((2, 3)), hosted)
