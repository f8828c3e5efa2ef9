"""Counts of replicas are the best of all: against every count there is."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from planner.layers.inference import Split
from planner.serving.columns import Columns
from planner.serving.compose import (
    BUSIEST,
    balance,
    copies,
    node_pairs,
    pairs,
    prefill_rates,
)
from planner.serving.deployment import Means
from planner.serving.fleet import Fleet
from planner.serving.iteration import Replica
from planner.serving.lengths import fixed_lengths
from planner.serving.question import Question, Targets
from planner.serving.times import decode_times, prefill_times

ASKED = Question(fixed_lengths(1, 1))


def columns(role: str, on: Fleet, rows: list[tuple[int, int, float, float]]) -> Columns:
    """Rows of tp, pp, requests per second and tpot."""
    tp, pp, requests, tpot = np.array(rows, dtype=float).T
    one, none = np.ones_like(tp), np.zeros_like(tp)
    replica = Replica(Split(tp, one, one, tp), pp)
    service = pp / requests
    times = decode_times(ASKED, tpot, one, none)
    if role == "prefill":
        times = prefill_times(ASKED, none, service[np.newaxis])
    return Columns(role, on, replica, one, times, tpot, requests, none, none, service, none)


def linear(rate: float, most: int = 64) -> np.ndarray:
    """Requests per second of 1 to ``most`` replicas that do not help each other."""
    return rate * np.arange(1.0, most + 1.0)


def prefill(on: Fleet, rows: list[tuple[int, int, float]]) -> Columns:
    """Rows of tp, pp and requests per second of replicas that are busy all the time."""
    return columns("prefill", on, [(*row, 0.0) for row in rows])


class TestBalance:
    @pytest.mark.parametrize(
        ("rates", "sizes", "devices"),
        [
            ((2.0, 3.0), (1, 2), 9),
            ((1.0, 5.0), (4, 8), 64),
            ((0.3, 0.9), (2, 1), 17),
            ((5.0, 1.0), (8, 8), 16),
        ],
    )
    def test_the_counts_serve_most(
        self, rates: tuple[float, float], sizes: tuple[int, int], devices: int, fleet: Any
    ) -> None:
        means = Means((fleet(devices),))
        use = tuple(np.array([size, 0.0]) for size in sizes)
        counts = balance(linear(rates[0]), rates[1], use, means, ASKED)
        assert counts is not None
        best = max(
            min(p * rates[0], d * rates[1])
            for p, d in product(range(devices + 1), repeat=2)
            if p * sizes[0] + d * sizes[1] <= devices
        )
        assert min(counts[0] * rates[0], counts[1] * rates[1]) == pytest.approx(best)
        assert counts[0] * sizes[0] + counts[1] * sizes[1] <= devices

    @pytest.mark.parametrize(("rates", "sizes"), [((2.0, 3.0), (1, 2)), ((0.7, 1.9), (3, 2))])
    def test_where_fewer_may_be_used_each_serves_most(
        self, rates: tuple[float, float], sizes: tuple[int, int], fleet: Any
    ) -> None:
        means = Means((fleet(24),), whole=False, each=True)
        use = tuple(np.array([size, 0.0]) for size in sizes)
        counts = balance(linear(rates[0]), rates[1], use, means, ASKED)
        assert counts is not None

        def worth(p: int, d: int) -> float:
            return min(p * rates[0], d * rates[1]) / (p * sizes[0] + d * sizes[1])

        best = max(
            worth(p, d)
            for p, d in product(range(1, 25), repeat=2)
            if p * sizes[0] + d * sizes[1] <= 24
        )
        assert worth(*counts) == pytest.approx(best)

    def test_two_fleets_limit_each_role_alone(self, fleet: Any) -> None:
        means = Means((fleet(8, "prefill"), fleet(12, "decode", "hgx-h200")))
        counts = balance(
            linear(1.0), 2.0, (np.array([2.0, 0.0, 0.0]), np.array([0.0, 4.0, 0.0])), means, ASKED
        )
        assert counts == (4, 2)

    def test_a_budget_limits_the_sum(self, fleet: Any) -> None:
        means = Means((fleet(64),), budget=10.0)
        counts = balance(
            linear(1.0), 1.0, (np.array([1.0, 2.0]), np.array([1.0, 3.0])), means, ASKED
        )
        assert counts == (2, 2)

    def test_a_rate_takes_the_fewest_of_each(self, fleet: Any) -> None:
        means = Means((fleet(64),))
        use = np.array([1.0, 0.0]), np.array([2.0, 0.0])
        asked = Question(fixed_lengths(1, 1), rate=10.0)
        assert balance(linear(2.0), 3.0, use, means, asked) == (5, 4)
        assert balance(linear(0.1), 0.1, use, means, asked) is None

    def test_fixed_numbers_stand(self, fleet: Any) -> None:
        means = Means((fleet(64),))
        use = np.array([1.0, 0.0]), np.array([1.0, 0.0])
        asked = Question(fixed_lengths(1, 1), fixed={"replicas": (3,), "prefill_replicas": (2,)})
        assert balance(linear(1.0), 1.0, use, means, asked) == (2, 3)


class TestCopies:
    def test_the_best_batch_of_every_layout_fills_the_devices(self, fleet: Any) -> None:
        on = fleet(20)
        found = copies(
            columns("any", on, [(4, 1, 1.0, 0.1), (4, 1, 2.0, 0.2), (8, 1, 5.0, 0.1)]),
            Means((on,)),
            Question(fixed_lengths(1, 1), targets=Targets(tpot=0.15)),
        )
        served = {int(d.parts[0].column.devices[0]): (d.parts[0].count, d.requests) for d in found}
        assert served == {4: (5, 5.0), 8: (2, 10.0)}

    def test_a_rate_takes_the_fewest(self, fleet: Any) -> None:
        on = fleet(64)
        asked = Question(fixed_lengths(1, 1), rate=7.0)
        (found,) = copies(columns("any", on, [(4, 1, 2.0, 0.1)]), Means((on,)), asked)
        assert found.parts[0].count == 4


class TestPairs:
    def test_a_router_over_many_replicas_keeps_each_busier(self, fleet: Any) -> None:
        on = fleet(64)
        asked = Question(fixed_lengths(1, 1), targets=Targets(ttft=0.6))
        rates = prefill_rates(prefill(on, [(1, 1, 2.0)]), 32, asked) / np.arange(1, 33)
        assert np.all(np.diff(rates) > -1e-9)
        assert rates[0] == pytest.approx(2.0 * 2.0 * 0.1 / (0.5 + 2.0 * 0.1), rel=1e-3)  # M/D/1
        assert rates[-1] > 0.85 * 2.0

    def test_without_a_target_they_are_as_busy_as_may_be(self, fleet: Any) -> None:
        rates = prefill_rates(prefill(fleet(8), [(1, 1, 2.0)]), 4, ASKED)
        assert rates == pytest.approx(BUSIEST * linear(2.0, 4))

    def test_targets_on_the_whole_request_hold(self, fleet: Any) -> None:
        on = fleet(16)
        first = prefill(on, [(1, 1, 4.0)])
        second = columns("decode", on, [(2, 1, 4.0, 0.5), (2, 1, 1.0, 0.1)])
        asked = Question(fixed_lengths(1, 11), targets=Targets(end_to_end=2.0))
        (found,) = pairs(first, second, Means((on,)), asked)
        assert found.tpot == 0.1

    def test_inside_a_node_stages_meet(self, fleet: Any) -> None:
        """Each of two nodes of eight holds four prefill devices and two pairs for decode."""
        on = fleet(16)
        first = prefill(on, [(4, 1, 3.0)])
        second = columns("decode", on, [(2, 1, 1.5, 0.1)])
        (found,) = node_pairs(first, second, 8, Means((on,)), ASKED)
        assert [(part.column.role, part.count) for part in found.parts] == [
            ("prefill", 2),
            ("decode", 4),
        ]
        assert found.requests == pytest.approx(2 * BUSIEST * 3.0)
        assert found.same_node

    def test_pipelines_over_two_nodes_hold_half_in_each(self, fleet: Any) -> None:
        on = fleet(16)
        first = prefill(on, [(4, 2, 3.0)])
        second = columns("decode", on, [(4, 2, 1.0, 0.1)])
        (found,) = node_pairs(first, second, 8, Means((on,)), ASKED)
        assert [part.count for part in found.parts] == [1, 1]
