"""How tokens fall on groups of experts: exact averages, and the busiest rank of a benchmark."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from planner.costs.routing import busiest_rank, distinct_groups
from planner.errors import PlannerError


class TestDistinctGroups:
    @pytest.mark.parametrize(
        ("groups", "duplicates"),
        [(4, (12, 32, 46, 55)), (8, (6, 17, 27, 34)), (16, (3, 9, 14, 18)), (32, (2, 4, 7, 9))],
    )
    def test_duplication_rates_of_hiermoe(self, groups: int, duplicates: tuple[int, ...]) -> None:
        """Percent of copies that share a group, of 256 experts; HierMoE, table II."""
        drawn = np.array([2, 4, 6, 8])
        found = 100 * (1 - distinct_groups(groups, drawn, 256) / drawn)
        np.testing.assert_allclose(found, duplicates, atol=1.3)

    def test_by_binomials(self) -> None:
        """Four of 16 experts in four groups: a group is missed by C(12, 4) of C(16, 4) draws."""
        expected = 4 * (1 - comb(12, 4) / comb(16, 4))
        assert float(distinct_groups(4, 4, 16)) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("groups", "drawn", "items", "expected"),
        [(1, 8, 64, 1), (64, 8, 64, 8), (8, 1, 64, 1), (8, 64, 64, 8), (8, 0, 64, 0)],
    )
    def test_limits(self, groups: int, drawn: int, items: int, expected: float) -> None:
        assert float(distinct_groups(groups, drawn, items)) == pytest.approx(expected)


class TestBusiestRank:
    @pytest.mark.parametrize(("tokens", "rows", "active"), [(1024, 1024, 8), (4, 4, 4), (1, 1, 1)])
    def test_balanced(self, tokens: int, rows: float, active: float) -> None:
        """Eight of 64 experts a token, on eight ranks."""
        assert busiest_rank(tokens, 8, 64, 8, "balanced") == (rows, active)

    def test_one_rank_has_every_row(self) -> None:
        rows, active = busiest_rank(512, 8, 64, 1, "power_law_1.2")
        assert rows == 512 * 8
        assert active == pytest.approx(64, rel=0.01)

    @pytest.mark.parametrize("tokens", [2, 64, 4096])
    @pytest.mark.parametrize("ranks", [2, 8, 64])
    def test_a_power_law_is_busier_and_within_bounds(self, tokens: int, ranks: int) -> None:
        balanced, _ = busiest_rank(tokens, 8, 64, ranks, "balanced")
        rows, active = busiest_rank(tokens, 8, 64, ranks, "power_law_1.2")
        assert balanced < rows <= tokens * 8
        assert 1 <= active <= 64 / ranks

    def test_the_draw_is_the_same_every_time(self) -> None:
        first = busiest_rank(1000, 8, 64, 8, "power_law_1.01")
        busiest_rank.cache_clear()
        assert busiest_rank(1000, 8, 64, 8, "power_law_1.01") == first

    def test_another_routing_is_named(self) -> None:
        with pytest.raises(PlannerError, match="routing: found 'zipf', expected balanced"):
            busiest_rank(8, 2, 8, 1, "zipf")

    @pytest.mark.parametrize("routing", ["1.2", "power_law_", "power_law_nan", "power_law_1000"])
    def test_an_exponent_that_no_law_has_is_named(self, routing: str) -> None:
        """With one token the loads start at 0.01, whose powers would overflow."""
        with pytest.raises(PlannerError, match=f"routing: found '{routing}', expected balanced"):
            busiest_rank(1, 2, 8, 4, routing)

    @pytest.mark.parametrize("tokens", [1, 4096])
    def test_an_exponent_of_one_is_the_limit_of_its_neighbours(self, tokens: int) -> None:
        below, at, above, beside = (
            busiest_rank(tokens, 2, 8, 4, f"power_law_{exponent}")[0]
            for exponent in ("0.99999", "1.0", "1.00001", "1.000000000000001")
        )
        assert below <= at <= above
        assert above == pytest.approx(below, rel=1e-4)
        assert beside == at
