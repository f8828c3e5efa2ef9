"""Replicas chosen by activated experts: Janus's schedule and its bound."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.costs.imbalance import distinct_experts
from planner.placement.activated import drawn, expected_reads, most_reads, scheduled

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def chosen(tokens: int, experts: int, top_k: int, skew: float, seed: int = 0) -> Ints:
    """Experts of tokens with log-normal popularity."""
    random = np.random.default_rng(seed)
    score = random.normal(0.0, skew, experts) + random.gumbel(size=(tokens, experts))
    return np.asarray(np.argsort(-score, axis=1)[:, :top_k])


def scattered(experts: int, devices: int, slots: int) -> Bools:
    """Every expert once and the first ones again, dealt to the devices in turn."""
    hosted = np.zeros((experts, devices), dtype=bool)
    for slot in range(slots):
        hosted[slot % experts, (slot + slot // experts) % devices] = True
    return hosted


def fewest(active: Bools, hosted: Bools) -> int:
    """Experts that the busiest device reads, at best, by trying every choice."""
    homes = [np.flatnonzero(row) for row in hosted[active]]
    return min(
        int(np.bincount(choice, minlength=hosted.shape[1]).max()) for choice in product(*homes)
    )


class TestDrawn:
    def test_a_step_uses_the_experts_of_its_tokens(self) -> None:
        """A record of one token."""
        active = drawn(np.array([[1, 3]]), 4, tokens=5, draws=2)
        assert active.tolist() == [[False, True, False, True]] * 2

    def test_as_many_as_the_closed_form_on_average(self) -> None:
        """Uniform routing; `distinct_experts` is the formula of the whole project."""
        active = drawn(chosen(50_000, 64, 4, 0.0), 64, tokens=24, draws=2000)
        expected = float(distinct_experts(64, 4, 24, popularity=0.0))
        assert active.sum(axis=1).mean() == pytest.approx(expected, rel=0.01)


class TestScheduled:
    def test_without_replicas_there_is_no_choice(self) -> None:
        hosted = np.repeat(np.eye(3, dtype=bool), 2, axis=0)
        active = np.array([[True, True, True, False, False, False]])
        assert scheduled(active, hosted).tolist() == [[2, 1, 0]]

    def test_replicas_go_to_the_device_that_reads_least(self) -> None:
        """Device 0 has two experts of its own, so both shared ones go to device 1."""
        hosted = np.array([[True, False], [True, False], [True, True], [True, True]])
        assert scheduled(np.ones((1, 4), dtype=bool), hosted).tolist() == [[2, 2]]
        assert scheduled(np.array([[True, False, True, True]]), hosted).tolist() == [[2, 1]]

    def test_every_active_expert_is_read_once(self) -> None:
        active = drawn(chosen(1000, 32, 4, 1.0), 32, tokens=8, draws=100)
        reads = scheduled(active, scattered(32, 4, 48))
        assert np.array_equal(reads.sum(axis=1), active.sum(axis=1))

    @pytest.mark.parametrize("seed", range(4))
    def test_is_at_most_one_above_the_best_choice(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        hosted = random.random((8, 4)).argsort(axis=1) < random.integers(1, 4, (8, 1))
        active = random.random((20, 8)) < 0.7
        found = scheduled(active, hosted).max(axis=1)
        best = np.array([fewest(step, hosted) for step in active])
        assert np.all((best <= found) & (found <= best + 1))
        assert (found == best).mean() > 0.8

    def test_one_step_is_a_row_of_many(self) -> None:
        active = drawn(chosen(1000, 32, 4, 1.0), 32, tokens=8, draws=20)
        hosted = scattered(32, 4, 48)
        rows = np.concatenate([scheduled(row[np.newaxis], hosted) for row in active])
        assert np.array_equal(scheduled(active, hosted), rows)

    @pytest.mark.parametrize(("devices", "tokens"), [(12, 16), (12, 64), (16, 256)])
    def test_reads_fewer_than_splitting_tokens(self, devices: int, tokens: int) -> None:
        """DeepSeek-V2's 160 experts in 27 slots a device: each has two or three replicas."""
        routing = chosen(5000, 160, 6, 1.5)
        hosted = scattered(160, devices, 27 * devices)
        chances = np.bincount(routing.ravel(), minlength=160) / len(routing)
        split = expected_reads(chances, hosted / hosted.sum(axis=1, keepdims=True), tokens)
        reads = scheduled(drawn(routing, 160, tokens, 50), hosted).max(axis=1).mean()
        assert reads < 0.9 * split.max()


class TestExpectedReads:
    def test_one_device_reads_what_the_closed_form_says(self) -> None:
        reads = expected_reads(np.full(64, 4 / 64), np.ones((64, 1)), 24)
        assert reads[0] == pytest.approx(float(distinct_experts(64, 4, 24, popularity=0.0)))

    def test_one_token_reads_its_experts(self) -> None:
        chances = np.array([1.0, 0.5, 0.5])
        assert expected_reads(chances, np.ones((3, 1)), 1)[0] == pytest.approx(2.0)

    def test_a_split_reads_an_expert_on_each_of_its_devices_in_the_end(self) -> None:
        reads = expected_reads(np.array([0.5]), np.full((1, 4), 0.25), 10_000)
        assert reads == pytest.approx(np.ones(4))


class TestBound:
    @pytest.mark.parametrize("devices", [6, 12, 16])
    @pytest.mark.parametrize("tokens", [1, 16, 64, 512])
    @pytest.mark.parametrize("skew", [0.0, 1.0, 2.0])
    def test_is_above_the_mean_of_drawn_steps(self, devices: int, tokens: int, skew: float) -> None:
        """Janus's setting: 160 experts, six a token, 27 slots a device."""
        routing = chosen(5000, 160, 6, skew)
        hosted = scattered(160, devices, 27 * devices)
        chances = np.bincount(routing.ravel(), minlength=160) / len(routing)
        reads = scheduled(drawn(routing, 160, tokens, 100), hosted).max(axis=1).mean()
        assert reads <= most_reads(chances, hosted, tokens)

    def test_is_at_most_the_experts_of_a_device_and_one(self) -> None:
        hosted = scattered(160, 6, 160)
        assert most_reads(np.full(160, 6 / 160), hosted, 10_000) == 27 + 1

    def test_by_hand(self) -> None:
        """One token on four devices of four experts each: a = 4 (1 - 1/2) = 2."""
        bound = most_reads(np.full(16, 0.5), np.repeat(np.eye(4, dtype=bool), 4, axis=0), 1)
        assert bound == pytest.approx(min(4.0, 2.0 + np.sqrt(4.0 * np.log(4.0))) + 1.0)
