"""Waiting lines: the forms agree with each other, with their papers and with simulated queues."""

from __future__ import annotations

from heapq import heapreplace
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from planner.costs.queueing import (
    accepted_tokens,
    gg1_wait,
    ggm_wait,
    md1_wait,
    mg1_wait,
    pipeline_ttft,
    tensor_parallel_ttft,
    wait_percentile,
    wait_probability,
    wait_tail,
)

Array = NDArray[np.float64]
REQUESTS = 1_000_000
BUSY = np.array([0.05, 0.3, 0.6, 0.9, 0.99])

busy_shares = st.floats(0.01, 0.99)
services = st.floats(1e-3, 10.0)
variations = st.floats(0.0, 5.0)


def lindley(gaps: Array, service: Array) -> Array:
    """Waits of one server, first come, first served: W' = max(0, W + S - A)."""
    walk = np.concatenate([[0.0], np.cumsum(service[:-1] - gaps[1:])])
    return walk - np.minimum.accumulate(np.minimum(walk, 0.0))


def gamma(mean: float, variation: float, seed: int) -> Array:
    """Times with that mean and coefficient of variation."""
    generator, squared = np.random.default_rng(seed), variation**2
    return generator.gamma(1.0 / squared, squared * mean, REQUESTS)


class TestDistServe:
    """arXiv 2401.09670, section 3.1, for D = 0.1 s and R = 5 requests a second."""

    def test_worked_numbers(self) -> None:
        assert 0.1 + md1_wait(5.0, 0.1) == pytest.approx(0.150)
        assert pipeline_ttft(5.0, 0.1, 0.05) == pytest.approx(0.10833, abs=1e-5)
        assert tensor_parallel_ttft(5.0, 0.1, 1.5) == pytest.approx(0.08333, abs=1e-5)

    @given(busy_shares, services, st.floats(1.0, 2.0))
    def test_the_equations_as_they_are_printed(self, busy: float, d: float, k: float) -> None:
        r = busy / d
        assert d + md1_wait(r, d) == pytest.approx(d + r * d**2 / (2 * (1 - r * d)))
        two_stages = d + r * d**2 / (4 * (2 - r * d))
        assert pipeline_ttft(r, d, d / 2) == pytest.approx(two_stages)
        shared = d / k + r * d**2 / (2 * k * (k - r * d))
        assert tensor_parallel_ttft(r, d, k) == pytest.approx(shared)

    @given(busy_shares, services)
    def test_one_stage_and_one_device_are_the_plain_queue(self, busy: float, d: float) -> None:
        plain = d + md1_wait(busy / d, d)
        assert pipeline_ttft(busy / d, d, d) == pytest.approx(plain)
        assert tensor_parallel_ttft(busy / d, d, 1.0) == pytest.approx(plain)

    def test_low_rates_favour_tensor_parallelism_and_high_ones_pipelines(self) -> None:
        rate = np.array([0.1, 16.0])
        shared, stages = tensor_parallel_ttft(rate, 0.1, 1.7), pipeline_ttft(rate, 0.1, 0.05)
        assert shared[0] < stages[0]
        assert shared[1] > stages[1]

    def test_the_slowest_stage_sets_the_pace(self) -> None:
        assert pipeline_ttft(9.9, 0.2, 0.1) > 10 * pipeline_ttft(9.9, 0.2, 0.05)


class TestReductions:
    @given(busy_shares, services)
    def test_exponential_service_is_the_queue_of_erlang(self, busy: float, d: float) -> None:
        found = mg1_wait(busy / d, d, 2.0 * d**2)
        assert found == pytest.approx(busy / (1.0 - busy) * d)

    @given(busy_shares, services, variations)
    def test_kingman_is_exact_for_poisson_arrivals(
        self, busy: float, d: float, service_cv: float
    ) -> None:
        exact = mg1_wait(busy / d, d, d**2 * (1.0 + service_cv**2))
        assert gg1_wait(busy / d, d, 1.0, service_cv) == pytest.approx(exact)

    def test_clockwork_waits_for_nothing(self) -> None:
        assert np.all(gg1_wait(BUSY, 1.0, 0.0, 0.0) == 0.0)

    @given(busy_shares, services, variations, variations)
    def test_one_of_several_servers_is_kingman(
        self, busy: float, d: float, arrivals: float, service: float
    ) -> None:
        one = gg1_wait(busy / d, d, arrivals, service)
        printed = busy / (1 - busy) * (arrivals**2 + service**2) / 2 * d
        assert one == pytest.approx(printed)
        assert ggm_wait(busy / d, d, 1.0, arrivals, service) == pytest.approx(one)

    @pytest.mark.parametrize("servers", [1, 2, 4, 16, 64])
    def test_the_chance_to_wait_is_near_that_of_erlang(self, servers: int) -> None:
        for busy in BUSY:
            load = busy * servers
            all_busy = load**servers / factorial(servers) / (1.0 - busy)
            some_free = sum(load**k / factorial(k) for k in range(servers))
            erlang = all_busy / (all_busy + some_free)
            assert wait_probability(load, 1.0, servers) == pytest.approx(erlang, abs=0.06)

    def test_one_queue_for_all_servers_is_better_than_a_queue_each(self) -> None:
        together = ggm_wait(8.0 * BUSY, 1.0, 8.0, 1.0, 1.0)
        assert np.all(together < gg1_wait(BUSY, 1.0, 1.0, 1.0))

    def test_more_than_the_servers_can_take_waits_without_end(self) -> None:
        rate = np.array([0.5, 1.0, 1.5])
        for found in (
            md1_wait(rate, 1.0),
            mg1_wait(rate, 1.0, 1.5),
            gg1_wait(rate, 1.0, 1.0, 1.0),
            ggm_wait(3 * rate, 1.0, 3.0, 0.0, 1.0),
            pipeline_ttft(rate, 3.0, 1.0),
        ):
            assert np.isfinite(found).tolist() == [True, False, False]
            assert np.all(found[1:] > 0.0)


class TestSimulated:
    """Waits follow Lindley's recursion; the seeds are fixed."""

    @pytest.mark.parametrize("busy", [0.3, 0.6, 0.9])
    def test_fixed_service(self, busy: float) -> None:
        waits = lindley(gamma(1.0 / busy, 1.0, 1), np.ones(REQUESTS))
        assert md1_wait(busy, 1.0) == pytest.approx(waits.mean(), rel=0.03)
        assert wait_probability(busy, 1.0, 1.0) == pytest.approx(np.mean(waits > 0.0), abs=0.005)

    @pytest.mark.parametrize("busy", [0.3, 0.6, 0.9])
    def test_varying_service(self, busy: float) -> None:
        service = gamma(1.0, 1.5, 2)
        waits = lindley(gamma(1.0 / busy, 1.0, 3), service)
        second = float(np.square(service).mean())
        assert mg1_wait(busy, service.mean(), second) == pytest.approx(waits.mean(), rel=0.05)

    @pytest.mark.parametrize(("arrivals_cv", "service_cv"), [(2.0, 0.5), (0.5, 1.0)])
    def test_kingman_in_heavy_traffic(self, arrivals_cv: float, service_cv: float) -> None:
        waits = lindley(gamma(1.0 / 0.95, arrivals_cv, 4), gamma(1.0, service_cv, 5))
        found = gg1_wait(0.95, 1.0, arrivals_cv, service_cv)
        assert found == pytest.approx(waits.mean(), rel=0.1)

    def test_kingman_bounds_regular_traffic_and_comes_closer_with_the_load(self) -> None:
        over = [
            float(gg1_wait(busy, 1.0, 0.3, 0.3))
            / lindley(gamma(1.0 / busy, 0.3, 4), gamma(1.0, 0.3, 5)).mean()
            for busy in (0.8, 0.9, 0.98)
        ]
        assert over[0] > over[1] > over[2] > 1.0
        assert over[2] < 1.1

    @pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
    def test_the_tail_in_heavy_traffic(self, share: float) -> None:
        waits = lindley(gamma(1.0 / 0.9, 1.0, 6), gamma(1.0, 0.7, 7))
        mean, waiting = gg1_wait(0.9, 1.0, 1.0, 0.7), wait_probability(0.9, 1.0, 1.0)
        measured = float(np.quantile(waits, share))
        assert wait_percentile(share, waiting, mean) == pytest.approx(measured, rel=0.06)

    @pytest.mark.parametrize(("busy", "error"), [(0.6, 0.15), (0.9, 0.06)])
    def test_several_servers(self, busy: float, error: float) -> None:
        servers = 4
        arrivals = np.cumsum(gamma(1.0 / (busy * servers), 1.0, 8))[:200_000]
        free, waits = [0.0] * servers, []
        for now, service in zip(arrivals.tolist(), gamma(1.0, 0.7, 9).tolist(), strict=False):
            start = max(now, free[0])
            waits.append(start - now)
            heapreplace(free, start + service)
        found = ggm_wait(busy * servers, 1.0, servers, 1.0, 0.7)
        assert found == pytest.approx(np.mean(waits), rel=error)


class TestTail:
    @given(busy_shares, services, variations)
    def test_it_is_the_formula_of_heavy_traffic(self, busy: float, d: float, cv: float) -> None:
        time = np.linspace(0.0, 20.0 * d, 7)
        exponent = -2.0 * (1.0 - busy) * time / ((1.0 + cv**2) * d)
        found = wait_tail(time, busy, gg1_wait(busy / d, d, 1.0, cv))
        np.testing.assert_allclose(found, busy * np.exp(exponent), rtol=1e-9)

    def test_its_mean_is_the_mean_wait(self) -> None:
        time = np.arange(0.0005, 200.0, 0.001)
        assert 0.001 * wait_tail(time, 0.7, 2.5).sum() == pytest.approx(2.5, rel=1e-6)

    def test_a_percentile_is_its_inverse(self) -> None:
        share, probability = np.array([0.5, 0.9, 0.99]), np.array([0.6, 0.2, 0.9])
        time = wait_percentile(share, probability, 3.0)
        np.testing.assert_allclose(wait_tail(time, probability, 3.0), 1.0 - share)

    def test_those_who_do_not_wait_wait_nothing(self) -> None:
        assert wait_percentile(0.7, 0.3, 5.0) == 0.0
        assert wait_percentile(0.7, 0.31, 5.0) > 0.0
        assert wait_percentile(0.99, 0.0, 0.0) == 0.0

    def test_limits_of_time(self) -> None:
        assert wait_tail(-1e-9, 0.3, 2.0) == 1.0
        assert wait_tail(0.0, 0.3, 2.0) == 0.3
        assert wait_tail(0.0, 0.0, 0.0) == 0.0
        assert wait_tail(1e9, 1.0, np.inf) == 1.0
        assert np.isinf(wait_percentile(0.5, 1.0, np.inf))


class TestSpeculation:
    def test_published_and_limits(self) -> None:
        """CloudMatrix384, arXiv 2506.12708: one draft of acceptance 0.7 gives 1.7 tokens."""
        assert accepted_tokens(0.7, 1) == pytest.approx(1.7)
        drafts = np.arange(5.0)
        assert accepted_tokens(0.0, drafts) == pytest.approx([1.0] * 5)
        assert accepted_tokens(1.0, drafts) == pytest.approx(drafts + 1.0)
        assert accepted_tokens(0.5, 100) == pytest.approx(2.0)

    @pytest.mark.parametrize("acceptance", [0.3, 0.8])
    @pytest.mark.parametrize("drafts", [1, 4])
    def test_drafts_are_taken_until_one_is_refused(self, acceptance: float, drafts: int) -> None:
        taken = np.random.default_rng(0).random((200_000, drafts)) < acceptance
        tokens = 1.0 + np.cumprod(taken, axis=1).sum(axis=1)
        assert accepted_tokens(acceptance, drafts) == pytest.approx(tokens.mean(), rel=0.005)


def test_a_row_of_a_batch_is_its_scalar() -> None:
    rate, servers, cv = np.array([0.5, 3.0, 20.0]), np.array([1.0, 4.0, 16.0]), np.arange(3.0)
    batch = ggm_wait(rate, 1.0, servers, cv, 0.5)
    tail = wait_tail(1.0, wait_probability(rate, 1.0, servers), batch)
    for row in range(3):
        one = ggm_wait(rate[row], 1.0, servers[row], cv[row], 0.5)
        assert one == batch[row]
        chance = wait_probability(rate[row], 1.0, servers[row])
        assert wait_tail(1.0, chance, one) == tail[row]
