"""Mixtures of replicas: against every count there is, and through the whole command."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import planner
from planner.layers.inference import Split
from planner.serving.columns import Columns
from planner.serving.deployment import Deployment, Means, Part
from planner.serving.iteration import Replica
from planner.serving.lengths import fixed_lengths
from planner.serving.mixture import mixture
from planner.serving.question import Question
from planner.serving.search import Tables
from planner.serving.times import prefill_times


def columns(on: Any, sizes: list[int], rates: list[float]) -> Columns:
    """Aggregated replicas of so many devices and requests per second."""
    size, rate = np.array(sizes, dtype=float), np.array(rates)
    one, none = np.ones_like(size), np.zeros_like(size)
    times = prefill_times(Question(fixed_lengths(1, 1)), none, none[np.newaxis])
    replica = Replica(Split(size, one, one, size), one)
    return Columns("any", on, replica, one, times, 0.01 * one, rate, none, none, none, none)


def single(row: Columns, count: int) -> Deployment:
    return Deployment((Part(row, count),), count * float(row.requests[0]), 0.0, 0.01)


class TestProgram:
    @pytest.mark.parametrize("devices", [7, 11, 16, 23])
    def test_it_serves_as_much_as_any_counts(self, fleet: Any, devices: int) -> None:
        on = fleet(devices)
        sizes, rates = [2, 3, 5], [2.0, 3.3, 5.2]
        found = columns(on, sizes, rates)
        best = [single(found.row(i), devices // size) for i, size in enumerate(sizes)]
        mixed, solved = mixture(
            Tables([found]), Means((on,)), Question(fixed_lengths(1, 1)), best, False
        )
        most = max(
            float(np.dot(counts, rates))
            for counts in product(range(devices + 1), repeat=3)
            if np.dot(counts, sizes) <= devices
        )
        assert solved.status == "optimal"
        served = max([d.requests for d in best] + ([mixed.requests] if mixed else []))
        assert served >= most * (1.0 - 2e-3)
        if mixed is not None:
            taken = sum(part.count * float(part.column.devices[0]) for part in mixed.parts)
            assert taken <= devices

    def test_a_rate_takes_the_fewest_devices(self, fleet: Any) -> None:
        on = fleet(64)
        sizes, rates = [2, 3], [2.0, 3.5]
        found = columns(on, sizes, rates)
        best = [single(found.row(0), 8), single(found.row(1), 5)]
        asked = Question(fixed_lengths(1, 1), rate=15.0)
        mixed, _ = mixture(Tables([found]), Means((on,)), asked, best, False)
        fewest = min(
            int(np.dot(counts, sizes))
            for counts in product(range(20), repeat=2)
            if np.dot(counts, rates) >= 15.0
        )
        assert mixed is not None
        assert sum(p.count * float(p.column.devices[0]) for p in mixed.parts) == fewest

    def test_fleets_have_their_own_limits(self, fleet: Any) -> None:
        one, other = fleet(8), fleet(6, name="dgx-a100")
        tables = [columns(one, [4], [5.0]), columns(other, [2], [1.0])]
        best = [single(tables[0].row(0), 2), single(tables[1].row(0), 3)]
        mixed, _ = mixture(
            Tables(tables),
            Means((one, other), whole=False),
            Question(fixed_lengths(1, 1)),
            best,
            False,
        )
        assert mixed is not None
        assert mixed.requests == pytest.approx(13.0)


class TestCommand:
    def test_two_kinds_of_devices_serve_together(self) -> None:
        found = planner.plan_serving(
            "llama-3.1-70b",
            pool=["any=dgx-h100:20", "any=dgx-a100:12"],
            isl=1000,
            osl=200,
            ttft=1.0,
            tpot=0.04,
        )
        plan = found.plan(1)
        assert "dgx-a100" in f"{plan['mixture']} {plan['pool']}"
        assert plan["devices"] <= 32
        assert plan["ttft"] <= 1.0 and plan["tpot"] <= 0.04
        kinds = [one for one in found if not one["mixture"]]
        assert plan["output_tokens_per_s"] > max(one["output_tokens_per_s"] for one in kinds)
        assert found.search["mixture"] in ("optimal", "feasible")
