"""Counts of replicas are the best of all: against every count there is."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from planner.layers.inference import Split
from planner.serving.columns import Columns
from planner.serving.compose import balance, copies, node_pairs, pairs
from planner.serving.deployment import Means
from planner.serving.fleet import Fleet
from planner.serving.iteration import Replica
from planner.serving.question import Question, Targets

ASKED = Question(1.0, 1.0)


def columns(role: str, on: Fleet, rows: list[tuple[int, int, float, float]]) -> Columns:
    """Rows of tp, pp, requests per second and tpot."""
    tp, pp, requests, tpot = np.array(rows, dtype=float).T
    one, none = np.ones_like(tp), np.zeros_like(tp)
    split = Split(tp, one, one, tp)
    return Columns(role, on, Replica(split, pp), one, none, tpot, requests, none, none, one)


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
        counts = balance(rates, use, means, ASKED)
        assert counts is not None
        best = max(
            min(p * rates[0], d * rates[1])
            for p, d in product(range(devices + 1), repeat=2)
            if p * sizes[0] + d * sizes[1] <= devices
        )
        assert min(counts[0] * rates[0], counts[1] * rates[1]) == pytest.approx(best)
        assert counts[0] * sizes[0] + counts[1] * sizes[1] <= devices

    @pytest.mark.parametrize(("rates", "sizes"), [((2.0, 3.0), (1, 2)), ((0.7, 1.9), (3, 2))])
    def test_where_only_used_devices_count_each_serves_most(
        self, rates: tuple[float, float], sizes: tuple[int, int], fleet: Any
    ) -> None:
        means = Means((fleet(24),), whole=False)
        use = tuple(np.array([size, 0.0]) for size in sizes)
        counts = balance(rates, use, means, ASKED)
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
            (1.0, 2.0), (np.array([2.0, 0.0, 0.0]), np.array([0.0, 4.0, 0.0])), means, ASKED
        )
        assert counts == (4, 2)

    def test_a_budget_limits_the_sum(self, fleet: Any) -> None:
        means = Means((fleet(64),), budget=10.0)
        counts = balance((1.0, 1.0), (np.array([1.0, 2.0]), np.array([1.0, 3.0])), means, ASKED)
        assert counts == (2, 2)

    def test_a_rate_takes_the_fewest_of_each(self, fleet: Any) -> None:
        means = Means((fleet(64),))
        use = np.array([1.0, 0.0]), np.array([2.0, 0.0])
        asked = Question(1.0, 1.0, rate=10.0)
        assert balance((2.0, 3.0), use, means, asked) == (5, 4)
        assert balance((0.1, 0.1), use, means, asked) is None

    def test_fixed_numbers_stand(self, fleet: Any) -> None:
        means = Means((fleet(64),))
        use = np.array([1.0, 0.0]), np.array([1.0, 0.0])
        asked = Question(1.0, 1.0, fixed={"replicas": (3,), "prefill_replicas": (2,)})
        assert balance((1.0, 1.0), use, means, asked) == (2, 3)


class TestCopies:
    def test_the_best_batch_of_every_layout_fills_the_devices(self, fleet: Any) -> None:
        on = fleet(20)
        found = copies(
            columns("any", on, [(4, 1, 1.0, 0.1), (4, 1, 2.0, 0.2), (8, 1, 5.0, 0.1)]),
            Means((on,)),
            Question(1.0, 1.0, targets=Targets(tpot=0.15)),
        )
        served = {int(d.parts[0].column.devices[0]): (d.parts[0].count, d.requests) for d in found}
        assert served == {4: (5, 5.0), 8: (2, 10.0)}

    def test_a_rate_takes_the_fewest(self, fleet: Any) -> None:
        on = fleet(64)
        asked = Question(1.0, 1.0, rate=7.0)
        (found,) = copies(columns("any", on, [(4, 1, 2.0, 0.1)]), Means((on,)), asked)
        assert found.parts[0].count == 4


class TestPairs:
    def test_targets_on_the_whole_request_hold(self, fleet: Any) -> None:
        on = fleet(16)
        first = columns("prefill", on, [(1, 1, 4.0, 0.0)])
        second = columns("decode", on, [(2, 1, 4.0, 0.5), (2, 1, 1.0, 0.1)])
        asked = Question(1.0, 11.0, targets=Targets(end_to_end=2.0))
        (found,) = pairs(first, second, Means((on,)), asked)
        assert found.tpot == 0.1

    def test_inside_a_node_stages_meet(self, fleet: Any) -> None:
        """Each of two nodes of eight holds four prefill devices and two pairs for decode."""
        on = fleet(16)
        first = columns("prefill", on, [(4, 1, 3.0, 0.0), (4, 2, 9.0, 0.0)])
        second = columns("decode", on, [(2, 1, 1.5, 0.1)])
        (found,) = node_pairs(first, second, 8, Means((on,)), ASKED)
        assert [(part.column.role, part.count) for part in found.parts] == [
            ("prefill", 2),
            ("decode", 4),
        ]
        assert found.requests == pytest.approx(6.0)
        assert found.same_node
