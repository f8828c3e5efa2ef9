"""Distributions from means, beside requests that are drawn one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from planner.costs.queueing import mg1_wait, wait_probability
from planner.layers.inference import Array
from planner.serving.disaggregated import Pool, prefill_seconds, transfer_seconds
from planner.serving.lengths import Lengths, fixed_lengths
from planner.serving.percentiles import (
    Times,
    attainment,
    end_to_end_percentile,
    end_to_end_share,
    step_spread,
    tpot_percentile,
    tpot_share,
    ttft_percentile,
    ttft_share,
)
from planner.serving.simulation import Traffic, simulate
from planner.serving.traces import find_trace

REQUESTS = 300_000
STEP, SPREAD, FIXED = 0.020, 0.001, 0.015
CHAT, CODE = find_trace("azure-conversation").lengths, find_trace("azure-code").lengths


def prompts(lengths: Lengths) -> Array:
    """Time of a prompt of each length [s], linear and square."""
    return 0.01 + 1e-4 * lengths.isl + 5e-9 * lengths.isl**2


def times(lengths: Lengths = CHAT, busy: float = 0.6, stalls: float = 0.01, rows: int = 1) -> Times:
    """One prefill server with Poisson arrivals, beside which sequences decode."""
    own, one = prompts(lengths), np.ones(rows)
    mean, square = lengths.mean(own), lengths.second_moment(own)
    wait = np.asarray(mg1_wait(busy / mean, mean, square))
    waits = np.asarray(wait_probability(busy / mean, mean, 1.0))
    each = np.repeat(own[:, np.newaxis], rows, axis=1)
    return Times(
        lengths,
        FIXED * one,
        wait * one,
        waits * one,
        each,
        STEP * one,
        SPREAD * one,
        each,
        stalls * one,
    )


def rows_of(found: Times, *indices: int) -> Times:
    """Some candidates alone."""
    names = ("fixed", "wait", "waits", "prompt", "step", "spread", "stall", "stalls")
    some = {name: getattr(found, name)[..., list(indices)] for name in names}
    return replace(found, **some)


@dataclass(frozen=True)
class Drawn:
    """Times of single requests [s]."""

    ttft: Array
    tpot: Array
    end_to_end: Array
    more: np.ndarray
    """Whether it has more than one token."""


def draw(lengths: Lengths, busy: float, stalls: float) -> Drawn:
    """Requests of a simulated queue (Lindley's recursion) and simulated stalls; a fixed seed."""
    generator = np.random.default_rng(0)
    share, own = lengths.weight / lengths.weight.sum(), prompts(lengths)
    cell = generator.choice(len(share), REQUESTS, p=share)
    gaps = generator.exponential(lengths.mean(own) / busy, REQUESTS)
    walk = np.concatenate([[0.0], np.cumsum(own[cell][:-1] - gaps[1:])])
    waits = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
    further = np.maximum(lengths.osl[cell] - 1.0, 1.0)
    met = np.repeat(np.arange(REQUESTS), generator.poisson(stalls * further))
    lost = own[generator.choice(len(share), len(met), p=share)]
    steps = STEP + generator.normal(0.0, SPREAD, REQUESTS)
    tpot = steps + np.bincount(met, lost, REQUESTS) / further
    ttft = FIXED + waits + own[cell]
    return Drawn(ttft, tpot, ttft + (lengths.osl[cell] - 1.0) * tpot, lengths.osl[cell] > 1.0)


class TestAgainstDrawnRequests:
    @pytest.mark.parametrize("lengths", [CHAT, CODE], ids=["chat", "code"])
    @pytest.mark.parametrize("busy", [0.3, 0.6, 0.85])
    def test_ttft(self, lengths: Lengths, busy: float) -> None:
        found, drawn = times(lengths, busy), draw(lengths, busy, 0.0)
        for share in (0.5, 0.9, 0.99):
            measured = np.quantile(drawn.ttft, share)
            assert ttft_percentile(found, share) == pytest.approx(measured, rel=0.05), share
        for limit in (0.1, 0.3, 1.0):
            measured = np.mean(drawn.ttft <= limit)
            assert ttft_share(found, limit) == pytest.approx(measured, abs=0.02), limit

    @pytest.mark.parametrize("stalls", [0.0, 0.002, 0.02, 0.1])
    def test_tpot_of_long_outputs(self, stalls: float) -> None:
        found, drawn = times(stalls=stalls), draw(CHAT, 0.6, stalls)
        for share in (0.5, 0.9, 0.99):
            measured = np.quantile(drawn.tpot[drawn.more], share)
            assert tpot_percentile(found, share) == pytest.approx(measured, rel=0.02), share

    @pytest.mark.parametrize("stalls", [0.002, 0.02, 0.1])
    def test_tpot_of_short_outputs(self, stalls: float) -> None:
        """Many meet no prompt and a few meet one or two: far from normal."""
        found, drawn = times(CODE, stalls=stalls), draw(CODE, 0.6, stalls)
        for share in (0.5, 0.9, 0.99):
            measured = np.quantile(drawn.tpot[drawn.more], share)
            assert tpot_percentile(found, share) == pytest.approx(measured, rel=0.12), share

    @pytest.mark.parametrize("busy", [0.3, 0.85])
    def test_end_to_end(self, busy: float) -> None:
        found, drawn = times(busy=busy, stalls=0.02), draw(CHAT, busy, 0.02)
        for share in (0.5, 0.9, 0.99):
            measured = np.quantile(drawn.end_to_end, share)
            assert end_to_end_percentile(found, share) == pytest.approx(measured, rel=0.02), share

    @pytest.mark.parametrize("lengths", [CHAT, CODE], ids=["chat", "code"])
    @pytest.mark.parametrize("targets", [(0.2, 0.023), (0.5, 0.025), (1.0, 0.03), (2.0, 0.1)])
    def test_attainment_of_both_targets(
        self, lengths: Lengths, targets: tuple[float, float]
    ) -> None:
        found, drawn = times(lengths), draw(lengths, 0.6, 0.01)
        met = (drawn.ttft <= targets[0]) & ((drawn.tpot <= targets[1]) | ~drawn.more)
        share = attainment(found, ttft=targets[0], tpot=targets[1])
        assert share == pytest.approx(met.mean(), abs=0.02)

    def test_attainment_of_three_targets(self) -> None:
        found, drawn = times(), draw(CHAT, 0.6, 0.01)
        met = (drawn.ttft <= 0.5) & (drawn.tpot <= 0.025) & (drawn.end_to_end <= 5.0)
        share = attainment(found, ttft=0.5, tpot=0.025, end_to_end=5.0)
        assert share == pytest.approx(met.mean(), abs=0.02)
        assert share < attainment(found, ttft=0.5, tpot=0.025)

    @pytest.mark.parametrize("varies", [False, True])
    def test_the_spread_of_a_step(self, varies: bool) -> None:
        """Batches of 32 sequences, each found in proportion to its output and anywhere in it."""
        generator, token = np.random.default_rng(1), 2e-9
        share = CHAT.weight * CHAT.osl / (CHAT.weight @ CHAT.osl)
        number = generator.poisson(32.0, 20_000) if varies else np.full(20_000, 32)
        cell = generator.choice(len(share), number.sum(), p=share)
        context = CHAT.isl[cell] + generator.random(len(cell)) * CHAT.osl[cell]
        of = np.repeat(np.arange(20_000), number)
        measured = np.bincount(of, 1e-6 + token * context).std()
        sequence = (1e-6 + token * context.mean()) * varies
        running = np.array([32.0, 128.0])
        found = step_spread(CHAT, running, np.full(2, sequence), np.full(2, token))
        assert found == pytest.approx([measured, 2.0 * measured], rel=0.02)


class TestAgainstAReplay:
    @pytest.mark.parametrize("busy", [0.3, 0.7])
    def test_of_a_prefill_and_two_decode_replicas(self, bench: Any, busy: float) -> None:
        """Qwen3-32B on H200, chat lengths: every iteration simulated, queue and batches too."""
        server = bench.server("qwen3-32b", tp=4, devices=32)
        prefill, decode = (Pool(server.run, server.replica(), np.array([n])) for n in (1.0, 2.0))
        cells = len(CHAT.weight)
        each = Pool(server.run, server.replica(cells), np.ones(cells))
        own = prefill_seconds(each, server.model, CHAT.isl, np.zeros(cells))
        moved = CHAT.mean(transfer_seconds(each, server.model, CHAT.isl))
        rate = busy / CHAT.mean(own)
        traffic = Traffic(CHAT.isl, CHAT.osl, CHAT.weight, requests=8000, rate=float(rate))
        drawn = simulate(server.model, traffic, decode, prefill, ttft=0.18, tpot=0.0091)

        def step(running: Array, context: Array) -> Array:
            return np.asarray(server.seconds(decodes=running, context=context))

        running, one = np.ones(1), np.ones(1)
        context = CHAT.mean(CHAT.osl * (CHAT.isl + 0.5 * CHAT.osl)) / CHAT.mean(CHAT.osl)
        for _ in range(30):
            running = rate / 2.0 * CHAT.mean(CHAT.osl - 1.0) * step(running, context)
        sequence = step(running + 1.0, context) - step(running, context)
        token = (step(running, context + 1.0) - step(running, context)) / running
        found = Times(
            CHAT,
            (server.run.engine.first + moved) * one
            + server.run.engine.waits * step(running, context),
            mg1_wait(rate, CHAT.mean(own), CHAT.second_moment(own)) * one,
            wait_probability(rate, CHAT.mean(own), 1.0) * one,
            own[:, np.newaxis],
            step(running, context),
            step_spread(CHAT, running, sequence, token),
            own[:, np.newaxis],
            0.0 * one,
        )
        for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
            for percentile, measured, error in (
                (ttft_percentile, drawn.ttft, 0.12),
                (tpot_percentile, drawn.tpot, 0.03),
                (end_to_end_percentile, drawn.end_to_end, 0.05),
            ):
                expected = pytest.approx(getattr(measured, name), rel=error)
                assert percentile(found, share) == expected, (percentile, name)
        within = attainment(found, ttft=0.18, tpot=0.0091)
        assert within == pytest.approx(drawn.within, abs=0.05)


class TestLimits:
    def test_an_empty_deployment_serves_at_once(self) -> None:
        """No wait, no stalls, no spread: TTFT is the own prompt, TPOT the step."""
        quiet = replace(times(stalls=0.0), wait=np.zeros(1), waits=np.zeros(1), spread=np.zeros(1))
        longest = FIXED + prompts(CHAT).max()
        assert ttft_percentile(quiet, 0.9999) == pytest.approx(longest)
        assert ttft_share(quiet, longest * (1.0 + 1e-9)) == pytest.approx(1.0)
        assert ttft_share(quiet, FIXED + prompts(CHAT).min() * 0.999) == 0.0
        assert tpot_percentile(quiet, 0.5) == pytest.approx(STEP)
        assert tpot_percentile(quiet, 0.99) == pytest.approx(STEP)
        assert tpot_share(quiet, STEP * 0.999) == pytest.approx(0.0)
        assert end_to_end_share(quiet, 1e3) == pytest.approx(1.0)

    def test_equal_requests_differ_by_their_wait(self) -> None:
        one = times(fixed_lengths(1000, 100), busy=0.5)
        alone = FIXED + prompts(fixed_lengths(1000, 100)).item()
        assert ttft_percentile(one, 0.49) == pytest.approx(alone)
        assert ttft_percentile(one, 0.51) > alone

    def test_an_overloaded_deployment_serves_nobody_in_time(self) -> None:
        late = times(busy=1.2)
        assert np.isinf(ttft_percentile(late, 0.5)) and np.isinf(end_to_end_percentile(late, 0.5))
        assert ttft_share(late, 1e9) == attainment(late, ttft=1e9) == 0.0
        assert end_to_end_share(late, 1e9) == 0.0
        assert tpot_percentile(late, 0.99) == pytest.approx(tpot_percentile(times(), 0.99))

    def test_what_does_not_fit_meets_nothing(self) -> None:
        """Infinite times, as of a column without room for a sequence."""
        endless = np.full(1, np.inf)
        parts = {"prompt": times().prompt + endless, "stall": times().stall + endless}
        never = replace(times(), fixed=endless, step=endless, **parts)
        assert attainment(never) == attainment(never, ttft=1.0, end_to_end=9.0) == 0.0
        for percentile in (ttft_percentile, tpot_percentile, end_to_end_percentile):
            assert np.isinf(percentile(never, 0.9))

    def test_no_targets_are_met_by_all(self) -> None:
        assert attainment(times()) == pytest.approx(1.0)

    def test_a_single_token_has_no_tpot(self) -> None:
        single = times(fixed_lengths(1000, 1))
        assert tpot_share(single, 1e-9) == 1.0
        assert tpot_percentile(single, 0.99) == 0.0
        ends = end_to_end_percentile(single, 0.9)
        assert ends == pytest.approx(ttft_percentile(single, 0.9), rel=1e-6)

    def test_single_tokens_do_not_count_in_tpot(self) -> None:
        half = Lengths(np.array([100.0, 100.0]), np.array([1.0, 50.0]), np.array([0.5, 0.5]))
        all_of_them = tpot_percentile(times(fixed_lengths(100, 50)), 0.9)
        assert tpot_percentile(times(half), 0.9) == pytest.approx(all_of_them)


class TestShape:
    @pytest.mark.parametrize(
        ("share_of", "percentile"),
        [
            (ttft_share, ttft_percentile),
            (tpot_share, tpot_percentile),
            (end_to_end_share, end_to_end_percentile),
        ],
    )
    def test_a_percentile_is_the_inverse_of_a_share(
        self,
        share_of: Callable[[Times, Array], Array],
        percentile: Callable[[Times, float], Array],
    ) -> None:
        found = times()
        values = [percentile(found, share).item() for share in (0.5, 0.8, 0.9, 0.99, 0.999)]
        assert values == sorted(values)
        for share, value in zip((0.5, 0.8, 0.9, 0.99, 0.999), values, strict=True):
            assert share_of(found, value * (1.0 + 1e-6)) >= share - 1e-9
            assert share_of(found, value * (1.0 - 1e-6)) <= share + 1e-9

    def test_shares_fall_with_the_load(self) -> None:
        shares = [attainment(times(busy=b, stalls=0.1 * b), ttft=0.5, tpot=0.03).item()
                  for b in (0.1, 0.3, 0.5, 0.7, 0.9)]  # fmt: skip
        assert shares == sorted(shares, reverse=True)
        assert shares[0] > shares[-1] + 0.2

    def test_a_row_of_a_batch_is_its_scalar(self) -> None:
        many = times(rows=4)
        scale = np.array([1.0, 0.5, 2.0, 7.0])
        many = replace(many, wait=many.wait * scale, prompt=many.prompt * scale, step=STEP * scale)
        for function in (ttft_percentile, tpot_percentile, end_to_end_percentile):
            batch = function(many, 0.95)
            alone = [function(rows_of(many, row), 0.95).item() for row in range(4)]
            assert batch == pytest.approx(alone, rel=1e-12)
        limits = np.array([0.2, 0.4, 0.3, 3.0])
        batch = attainment(many, ttft=limits, tpot=0.1 * limits, end_to_end=20.0 * limits)
        alone = [
            attainment(rows_of(many, r), ttft=t, tpot=0.1 * t, end_to_end=20.0 * t).item()
            for r, t in enumerate(limits)
        ]
        assert batch == pytest.approx(alone, rel=1e-12)

    def test_the_attainment_of_four_thousand_candidates(self) -> None:
        many = times(rows=4096)
        attainment(many, ttft=0.5, tpot=0.03)
        start = time.process_time()
        attainment(many, ttft=0.5, tpot=0.03)
        assert time.process_time() - start < 0.3
