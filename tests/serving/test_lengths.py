"""Lengths of requests: few points that keep what closed forms need of a distribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import PlannerError
from planner.serving.lengths import (
    EDGES,
    Lengths,
    Marginal,
    fixed_lengths,
    lengths_of_marginals,
    lengths_of_requests,
)

REQUESTS = 20_000


def skewed() -> tuple[np.ndarray, np.ndarray]:
    """Log-normal inputs and outputs that grow with them."""
    generator = np.random.default_rng(0)
    isl = np.exp(generator.normal(7.0, 1.0, REQUESTS))
    osl = np.exp(generator.normal(5.0, 0.8, REQUESTS) + 0.3 * (np.log(isl) - 7.0))
    return np.ceil(isl), np.ceil(osl)


class TestRequests:
    def test_means_are_exact_and_second_moments_close(self) -> None:
        isl, osl = skewed()
        found = lengths_of_requests(isl, osl)
        assert len(found.weight) <= 64
        assert found.weight.sum() == pytest.approx(1.0)
        assert found.mean(found.isl) == pytest.approx(isl.mean())
        assert found.mean(found.osl) == pytest.approx(osl.mean())
        assert found.second_moment(found.isl) == pytest.approx(np.mean(isl**2), rel=0.06)
        assert found.second_moment(found.osl) == pytest.approx(np.mean(osl**2), rel=0.06)
        assert found.second_moment(found.isl) < np.mean(isl**2)

    def test_inputs_and_outputs_stay_together(self) -> None:
        isl, osl = skewed()
        found = lengths_of_requests(isl, osl)
        together = found.mean(found.isl * found.osl)
        assert together == pytest.approx(np.mean(isl * osl), rel=0.01)
        assert together > 1.15 * isl.mean() * osl.mean()

    @pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
    def test_percentiles_are_those_of_the_requests(self, share: float) -> None:
        isl, osl = skewed()
        found = lengths_of_requests(isl, osl)
        assert found.percentile(found.isl, share) == pytest.approx(np.quantile(isl, share), rel=0.1)
        assert found.percentile(found.osl, share) == pytest.approx(np.quantile(osl, share), rel=0.1)

    def test_the_order_of_the_requests_does_not_matter(self) -> None:
        isl, osl = skewed()
        order = np.random.default_rng(1).permutation(REQUESTS)
        one, other = lengths_of_requests(isl, osl), lengths_of_requests(isl[order], osl[order])
        for name in ("isl", "osl", "weight"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12)

    def test_equal_requests_are_one_length(self) -> None:
        found = lengths_of_requests(np.full(1000, 128.0), np.full(1000, 32.0))
        assert set(found.isl) == {128.0}
        assert found.variation(found.osl) == pytest.approx(0.0, abs=1e-12)
        assert found.percentile(found.isl, 0.99) == 128.0

    @given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)), min_size=1))
    def test_any_trace_has_points_of_the_same_mean(self, requests: list[tuple[int, int]]) -> None:
        isl, osl = np.array(requests, dtype=float).T
        found = lengths_of_requests(isl, osl)
        assert found.weight.sum() == pytest.approx(1.0)
        assert found.mean(found.isl) == pytest.approx(np.maximum(isl, 1.0).mean())
        assert found.mean(found.osl) == pytest.approx(np.maximum(osl, 1.0).mean())
        assert np.all(found.weight > 0.0) and np.all(found.osl >= 1.0)

    def test_nothing_has_no_lengths(self) -> None:
        with pytest.raises(PlannerError, match="no requests"):
            lengths_of_requests(np.empty(0), np.empty(0))


class TestMoments:
    def test_values_may_be_of_many_candidates(self) -> None:
        lengths = Lengths(np.array([1.0, 3.0]), np.array([1.0, 1.0]), np.array([0.75, 0.25]))
        values = np.array([[1.0, 2.0], [3.0, 2.0]])
        assert lengths.mean(values) == pytest.approx([1.5, 2.0])
        assert lengths.second_moment(values) == pytest.approx([3.0, 4.0])
        assert lengths.variation(values) == pytest.approx([np.sqrt(0.75) / 1.5, 0.0])

    def test_fixed_lengths_do_not_vary(self) -> None:
        found = fixed_lengths(1000, 200)
        assert found.mean(found.isl) == 1000.0 and found.mean(found.osl) == 200.0
        assert found.variation(found.isl) == 0.0
        assert found.percentile(found.osl, 0.01) == found.percentile(found.osl, 0.99) == 200.0


class TestSummaries:
    def test_mean_and_quantiles_are_those_given(self) -> None:
        summary = Marginal(2048.0, {0.5: 1469.0, 0.99: 7436.0})
        found = lengths_of_marginals(summary, Marginal(28.0))
        assert found.mean(found.isl) == pytest.approx(2048.0)
        assert found.percentile(found.isl, 0.5) == pytest.approx(1469.0, rel=0.06)
        assert found.percentile(found.isl, 0.99) == pytest.approx(7436.0, rel=0.02)
        assert set(found.osl) == {28.0}

    def test_even_quantiles_are_an_even_distribution(self) -> None:
        means, weight = Marginal(50.0, {0.0: 0.0, 0.5: 50.0, 1.0: 100.0}).cells()
        np.testing.assert_allclose(means, 50.0 * (EDGES[1:] + EDGES[:-1]))
        assert weight @ means == pytest.approx(50.0)

    def test_more_quantiles_come_closer_to_the_distribution(self) -> None:
        """Against 20,000 requests: the second moment by three and by eight quantiles."""
        isl, _ = skewed()

        def error(shares: list[float]) -> float:
            quantiles = {share: float(np.quantile(isl, share)) for share in shares}
            means, weight = Marginal(float(isl.mean()), quantiles).cells()
            return abs(float(weight @ means**2) / float(np.mean(isl**2)) - 1.0)

        few = error([0.25, 0.5, 0.99])
        assert error([0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999]) < few < 0.35

    def test_lengths_are_independent(self) -> None:
        one, other = (
            Marginal(100.0, {0.5: 80.0, 0.99: 400.0}),
            Marginal(20.0, {0.5: 10.0, 0.99: 99.0}),
        )
        found = lengths_of_marginals(one, other)
        assert len(found.weight) == 64
        assert found.mean(found.isl * found.osl) == pytest.approx(100.0 * 20.0)

    @pytest.mark.parametrize("mean", [1.0, 30.0, 99.0])
    def test_a_mean_that_cannot_be(self, mean: float) -> None:
        with pytest.raises(PlannerError, match=r"mean: found .* expected one that lengths"):
            Marginal(mean, {0.5: 50.0, 0.99: 100.0}).cells()

    @pytest.mark.parametrize("quantiles", [{0.5: 10.0}, {0.5: 10.0, 0.9: 5.0}, {0.5: 1, 1.5: 2}])
    def test_quantiles_that_cannot_be(self, quantiles: dict[float, float]) -> None:
        with pytest.raises(PlannerError, match="quantiles: found"):
            Marginal(8.0, quantiles).cells()
