"""The replay: exact where the answer is known, near the closed form, the same each time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.errors import Infeasible, PlannerError
from planner.serving.aggregated import Steady
from planner.serving.batching import Lane, Request
from planner.serving.disaggregated import Pool
from planner.serving.lockstep import Ranks
from planner.serving.simulation import Traffic, simulate
from planner.serving.simulation_result import Result
from planner.serving.step_table import step_table
from planner.specs.engine import Engine, Widths

ENGINES = ["vllm", "sglang", "tensorrt-llm"]
FP8 = Widths("fp8_block", "fp8_block", "bf16")
QWEN = {"model": "qwen3-32b", "tp": 4}
DEEPSEEK = {"model": "deepseek-v3", "tp": 8, "ep": 8, "widths": FP8}


def traffic(isl: Any = 1024, osl: Any = 256, weight: Any = 1.0, **given: Any) -> Traffic:
    """Requests of equal lengths, or of several."""
    lengths = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(v, float)) for v in (isl, osl, weight))
    )
    return Traffic(*lengths, **given)


def mixed(isl: float, osl: float, **given: Any) -> Traffic:
    """Requests of log-normal lengths with these means."""
    factors = np.random.default_rng(1).lognormal(0.0, 0.6, (2, 200))
    factors /= factors.mean(axis=1, keepdims=True)
    return traffic(isl * factors[0], osl * factors[1], **given)


def pool(server: Any, count: int = 1, **engine: Any) -> Pool:
    run = replace(server.run, engine=replace(server.run.engine, **engine))
    return Pool(run, server.replica(), np.array([float(count)]))


def replay(server: Any, asked: Traffic, **options: Any) -> Result:
    return simulate(server.model, asked, pool(server), **options)


class TestTable:
    @pytest.mark.parametrize(
        "server",
        [
            QWEN,
            DEEPSEEK,
            DEEPSEEK | {"tp": 1, "attention_dp": 8},
            {"model": "gpt-oss-120b", "tp": 2},
        ],
        ids=["dense", "experts", "attention-dp", "windows"],
    )
    def test_it_agrees_with_the_iteration(self, bench: Any, server: dict[str, Any]) -> None:
        """One prompt or piece with any context before it, or several prompts, beside decoding."""
        server = bench.server(**server)
        table = step_table(server.run, server.model, server.replica(), 1024, 16384)
        draw, n = np.random.default_rng(0), 400
        prompts = np.where(draw.random(n) < 0.5, 1.0, draw.integers(2, 9, n))
        tokens = np.exp(draw.uniform(np.log(64.0), np.log(8192.0), n))
        cached = np.where(prompts > 1, 0.0, draw.uniform(0.0, 8000.0, n))
        decodes = np.round(np.exp(draw.uniform(0.0, np.log(1000.0), n)))
        context = draw.uniform(100.0, 16000.0, n)
        chunk = tokens / prompts
        for with_prompts, with_decodes in ((1, 1), (1, 0), (0, 1)):
            exact = server.seconds(
                prefills=prompts * with_prompts,
                chunk=chunk,
                cached=cached,
                decodes=decodes * with_decodes,
                context=context,
            )
            found = [
                table.own(t * with_prompts, w, p * with_prompts, d * with_decodes, c)
                + table.experts(t * with_prompts + d * with_decodes)
                for t, w, p, d, c in zip(
                    *(part.tolist() for part in (tokens, cached + 0.5 * chunk, prompts)),
                    *(part.tolist() for part in (decodes, context)),
                    strict=True,
                )
            ]
            error = np.array(found) / exact - 1.0
            assert abs(error.mean()) < 0.01
            assert np.abs(error).mean() < 0.02

    def test_usual_prompts_are_exact(self, bench: Any) -> None:
        server = bench.server()
        knots = np.array([777.0, 3 * 777.0])
        table = step_table(server.run, server.model, server.replica(), 64, 4096, knots)
        for tokens in knots:
            exact = server.seconds(prefills=1, chunk=tokens, decodes=1, context=16)
            found = table.own(tokens, 0.5 * tokens, 1, 1, 16.0)
            assert found == pytest.approx(exact.item(), rel=2e-3)


class Second:
    """A table whose iterations take a second, or longer for longer prompts."""

    def __init__(self, each: float = 0.0) -> None:
        self.each = each

    def own(self, tokens: float, *_: float) -> float:
        return 1.0 + self.each * tokens

    def experts(self, tokens: float) -> float:
        return 0.0


def ranks(count: int = 1, table: Any = None, cache: int = 100, **engine: Any) -> Ranks:
    """Ranks with a cache of so many tokens."""
    usual: dict[str, Any] = {"chunk": 8192, "most_running": 8, "memory_fraction": 1.0}
    cells = [tokens / cache for tokens in range(cache + 1)]
    lanes = [Lane(Engine("test", None, **usual | engine), cells, 8) for _ in range(count)]
    return Ranks(table or Second(), lanes)


def play(group: Ranks, *requests: Request, now: float = 0.0) -> None:
    """Send requests now, and follow them to the end."""
    for request in requests:
        group.put(request, now)
    group.begin(now)
    while not np.isnan(group.end):
        now = group.end
        for request in group.finish():
            request.finished = now
        group.begin(now)


class TestRanks:
    """Steps of one second and a cache of 100 tokens: times to be counted by hand."""

    def test_two_prompts_share_an_iteration(self) -> None:
        first, second = Request(0, 10, 10, 5), Request(1, 20, 20, 8)
        play(ranks(), first, second)
        assert (first.first, second.first) == (1.0, 1.0)
        assert (first.finished, second.finished) == (6.0, 9.0)

    def test_the_cache_full_the_last_is_evicted_and_taken_in_again(self) -> None:
        """Both take 40 and 1 a second: full at 11.  The second has made 10 of its 30 tokens; it
        comes back at 31, is taken in and makes its 11th by 32, and the 19 others by 51."""
        first, second = Request(0, 40, 40, 30), Request(1, 40, 40, 30)
        play(ranks(), first, second)
        assert (first.first, second.first) == (1.0, 1.0)
        assert (first.finished, second.finished) == (31.0, 51.0)

    def test_what_was_evicted_ends_later_than_it_would_have(self) -> None:
        """The third is out at 7 with 24 tokens to go; the first ends at 16, so it is taken in and
        makes one by 17 and the others by 40, not by 31."""
        given = Request(0, 30, 30, 15), Request(1, 10, 10, 28), Request(2, 40, 40, 30)
        play(ranks(), *given)
        assert [request.finished for request in given] == [16.0, 29.0, 40.0]

    def test_a_prompt_half_taken_in_goes_before_what_is_evicted(self) -> None:
        """The cache is full at 3, when 100 tokens of the third are left."""
        group = ranks(cache=1000, chunk=300)
        running = Request(0, 400, 400, 300), Request(1, 200, 200, 300)
        third = Request(2, 398, 398, 1)
        for request in running:
            group.put(request, 0.0)
        for now in (0.0, 1.0):
            group.begin(now)
            group.finish()
        play(group, third, now=2.0)
        assert [request.first for request in running] == [2.0, 2.0]
        assert third.first == 4.0

    def test_an_engine_that_reserves_lets_the_second_wait(self) -> None:
        first, second = Request(0, 40, 40, 30), Request(1, 40, 40, 30)
        play(ranks(reserves=True), first, second)
        assert (first.first, first.finished) == (1.0, 31.0)
        assert (second.first, second.finished) == (32.0, 62.0)

    @pytest.mark.parametrize(("mixes", "begins", "ends"), [(True, 5.0, 12.0), (False, 4.0, 15.0)])
    def test_a_prompt_in_pieces_stalls_decoding_unless_they_mix(
        self, mixes: bool, begins: float, ends: float
    ) -> None:
        """900 tokens by 300 a step: three steps before those of the first request, or four beside
        them, which take a token of the budget each."""
        group = ranks(chunk=300, mixes=mixes, cache=2000)
        first, second = Request(0, 10, 10, 11), Request(1, 1000, 900, 1)
        group.put(first, 0.0)
        group.begin(0.0)
        group.finish()
        play(group, second, now=1.0)
        assert first.first == 1.0
        assert second.first == begins
        assert first.finished == ends

    def test_an_arrival_cuts_planned_steps_short(self) -> None:
        group = ranks()
        group.put(Request(0, 10, 10, 50), 0.0)
        group.begin(0.0)
        group.finish()
        group.begin(1.0)
        assert group.end == 51.0
        group.put(Request(1, 10, 10, 5), 7.5)
        assert group.end == 8.0

    def test_requests_go_to_the_rank_with_fewest(self) -> None:
        group = ranks(3)
        for number in range(6):
            group.put(Request(number, 10, 10, 5), 0.0)
        assert [lane.load for lane in group.lanes] == [2, 2, 2]

    def test_ranks_wait_for_the_busiest(self) -> None:
        """A prompt of 30 tokens takes 1 + 30 seconds, and the token of the other rank too."""
        group = ranks(2, Second(each=1.0))
        first, second = Request(0, 10, 10, 5), Request(1, 30, 30, 5)
        group.put(first, 0.0)
        group.begin(0.0)
        assert group.end == 11.0
        group.finish()
        play(group, second, now=11.0)
        assert (first.first, second.first) == (11.0, 42.0)
        assert (first.finished, second.finished) == (46.0, 47.0)


class TestAlone:
    @pytest.mark.parametrize("engine", ENGINES)
    def test_one_request_is_its_prompt_and_its_steps(self, bench: Any, engine: str) -> None:
        server = bench.server(engine=engine)
        found = replay(server, traffic(2000, 200, requests=3, concurrency=1))
        prompt = server.seconds(prefills=1, chunk=2000).item()
        steps = server.seconds(decodes=1, context=2000 + np.arange(1, 200))
        around = server.run.engine.first + server.run.engine.waits * steps.mean()
        assert found.ttft.p50 == pytest.approx(around + prompt, rel=2e-3)
        assert found.tpot.p50 == pytest.approx(steps.mean(), rel=5e-3)
        total = around + prompt + steps.sum()
        assert found.end_to_end.mean == pytest.approx(total, rel=5e-3)

    def test_long_prompts_come_in_pieces(self, bench: Any) -> None:
        server = bench.server()
        found = replay(server, traffic(32000, 1, requests=1, concurrency=1))
        chunk = [8192, 8192, 8192, 32000 - 3 * 8192]
        pieces = server.seconds(prefills=1, chunk=chunk, cached=8192 * np.arange(4))
        assert found.ttft.mean == pytest.approx(server.run.engine.first + pieces.sum(), rel=0.02)

    def test_a_hit_is_not_computed(self, bench: Any) -> None:
        server = bench.server()
        found = replay(server, traffic(8000, 1, requests=1, concurrency=1, hit=0.75))
        prompt = server.seconds(prefills=1, chunk=2000, cached=6000).item()
        assert found.ttft.mean == pytest.approx(server.run.engine.first + prompt, rel=0.02)

    def test_pools_hand_a_request_over(self, bench: Any) -> None:
        """The first token comes with the cache; the steps are the same."""
        pools = bench.pools()
        server = pools.server
        asked = traffic(2000, 200, requests=1, concurrency=1)
        one, two = replay(server, asked), replay(server, asked, prefill=pool(server))
        moved = pools.transfer(2000).item()
        assert two.ttft.mean - one.ttft.mean == pytest.approx(moved, rel=1e-6)
        assert two.tpot.mean == pytest.approx(one.tpot.mean, rel=1e-9)


class TestConservation:
    CASES = (
        {"concurrency": 64},
        {"concurrency": 64, "hit": 0.5},
        {"rate": 5.0},
        {"rate": 5.0, "variation": 4.0},
        {"arrivals": np.linspace(0.0, 10.0, 300)},
    )

    @pytest.mark.parametrize("given", CASES, ids=lambda given: "-".join(given))
    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("apart", [False, True], ids=["aggregated", "disaggregated"])
    def test_every_request_is_answered(
        self, bench: Any, engine: str, apart: bool, given: dict[str, Any]
    ) -> None:
        server = bench.server(engine=engine, devices=16)
        prefill = pool(server) if apart else None
        found = replay(server, mixed(1000, 100, requests=300, **given), prefill=prefill)
        assert np.all(found.sent < found.first)
        assert np.all(found.first <= found.finished)
        assert all(0.0 < share <= 1.0 + 1e-9 for share in found.utilisation.values())
        assert set(found.utilisation) == ({"prefill", "decode"} if apart else {"both"})

    def test_every_token_is_counted(self, bench: Any) -> None:
        """One wave: the window is the whole run."""
        asked = mixed(1000, 100, requests=64, concurrency=64)
        found = replay(bench.server(), asked)
        _, osl = asked.lengths()
        assert found.throughput * found.finished.max() == pytest.approx(osl.sum())

    def test_no_more_clients_than_given(self, bench: Any) -> None:
        found = replay(bench.server(), mixed(1000, 100, requests=300, concurrency=20))
        inside = [np.sum((found.sent <= t) & (found.finished > t)) for t in found.sent]
        assert np.max(inside) == 20

    @pytest.mark.parametrize("engine", ENGINES)
    def test_sequences_have_room(self, bench: Any, engine: str) -> None:
        server = bench.server(tp=2, engine=engine)
        found = replay(server, traffic(4096, 1024, requests=500, concurrency=400))
        limit = server.limit(isl=4096, osl=1024)
        assert 0.75 * limit < found.batch < 1.05 * limit

    def test_stages_share_the_cache(self, bench: Any) -> None:
        """Each has a batch in flight, and half of the room."""
        server = bench.server(tp=2, pp=2, devices=4)
        found = replay(server, traffic(4096, 1024, requests=2000, concurrency=2000))
        closed = server.steady(isl=4096, osl=1024, concurrency=2000)
        assert found.batch == pytest.approx(2 * closed.running.item(), rel=0.1)

    def test_stages_share_the_places(self, bench: Any) -> None:
        server = bench.server(tp=2, pp=2, devices=4)
        asked = traffic(100, 500, requests=100, concurrency=50)
        found = simulate(server.model, asked, pool(server, most_running=8))
        assert found.batch == pytest.approx(8, rel=0.05)

    def test_evictions_repeat_work(self, bench: Any) -> None:
        """Against an engine that is the same but reserves: more sequences, slower each."""
        server = bench.server(tp=2)
        asked = traffic(500, 2000, requests=1000, concurrency=1000)
        evicts, reserves = (
            simulate(server.model, asked, pool(server, reserves=reserves))
            for reserves in (False, True)
        )
        assert evicts.batch > reserves.batch
        assert evicts.tpot.mean > reserves.tpot.mean


class TestQueue:
    @pytest.mark.parametrize(("share", "rel"), [(0.3, 0.02), (0.6, 0.03), (0.8, 0.05)])
    def test_prompts_alone_wait_as_in_a_queue_of_one_server(
        self, bench: Any, share: float, rel: float
    ) -> None:
        """DistServe, equation 1: TTFT = D + R D^2 / (2 (1 - R D)), one prompt an iteration."""
        server = bench.server()
        prompt = server.seconds(prefills=1, chunk=2048).item()
        rate = share / prompt
        asked = traffic(2048, 1, requests=10000, rate=rate)
        found = simulate(server.model, asked, pool(server, chunk=2048, first=0.0))
        expected = prompt + rate * prompt**2 / (2.0 * (1.0 - share))
        assert found.ttft.mean == pytest.approx(expected, rel=rel)
        assert found.utilisation["both"] == pytest.approx(share, rel=rel)

    def test_prompts_in_time_never_wait(self, bench: Any) -> None:
        server = bench.server()
        prompt = server.seconds(prefills=1, chunk=2048).item()
        asked = traffic(2048, 1, requests=100, rate=0.99 / prompt, variation=0.0)
        found = simulate(server.model, asked, pool(server, chunk=2048, first=0.0))
        assert found.ttft.p99 == pytest.approx(prompt, rel=2e-3)

    def test_bursts_wait_longer(self, bench: Any) -> None:
        waits = [
            replay(bench.server(), traffic(4096, 8, rate=4.0, variation=variation)).ttft.p99
            for variation in (0.0, 1.0, 3.0)
        ]
        assert waits == sorted(waits)
        assert waits[2] > 1.5 * waits[0]

    @pytest.mark.parametrize("engine", ENGINES)
    def test_requests_inside_are_rate_times_time(self, bench: Any, engine: str) -> None:
        server = bench.server(engine=engine)
        found = replay(server, mixed(1000, 200, requests=2000, concurrency=32))
        served = np.sort(found.finished)
        rate = 1500 / (served[1749] - served[249])
        assert rate * np.mean(found.finished - found.sent) == pytest.approx(32, rel=0.03)

    def test_more_load_is_slower(self, bench: Any) -> None:
        server = bench.server()
        target = 1.3 * replay(server, mixed(2000, 200, rate=0.1, requests=200)).ttft.mean
        found = [
            replay(server, mixed(2000, 200, rate=rate, requests=2000), ttft=target)
            for rate in (0.5, 2.0, 5.0, 8.0)
        ]
        for name in ("ttft", "tpot", "end_to_end"):
            means = [getattr(one, name).mean for one in found]
            assert means == sorted(means), name
        for name in ("throughput", "batch"):
            values = [getattr(one, name) for one in found]
            assert values == sorted(values), name
        within = [one.within for one in found]
        assert within == sorted(within, reverse=True)
        assert within[0] > within[-1]

    def test_requests_within_both_targets_are_counted(self, bench: Any) -> None:
        server, asked = bench.server(), mixed(2000, 200, rate=3.0)
        free = replay(server, asked)
        limits = {"ttft": free.ttft.p50, "tpot": free.tpot.p90}
        assert replay(server, asked, ttft=limits["ttft"]).within == pytest.approx(0.5, abs=0.01)
        assert replay(server, asked, tpot=limits["tpot"]).within == pytest.approx(0.9, abs=0.01)
        assert replay(server, asked, **limits).within < 0.5
        assert free.within == 1.0

    def test_replicas_share_the_load(self, bench: Any) -> None:
        server = bench.server(devices=32)
        one = replay(server, mixed(1000, 200, requests=500, concurrency=16))
        asked = mixed(1000, 200, requests=2000, concurrency=64)
        four = simulate(server.model, asked, pool(server, count=4))
        assert four.throughput == pytest.approx(4 * one.throughput, rel=0.05)
        assert four.batch == pytest.approx(one.batch, rel=0.05)


class TestAnswers:
    def test_the_same_seed_gives_the_same_times(self, bench: Any) -> None:
        server = bench.server()
        once, again, other = (
            replay(server, mixed(1000, 100, rate=5.0, requests=200, seed=seed))
            for seed in (0, 0, 1)
        )
        assert np.array_equal(once.finished, again.finished)
        assert not np.array_equal(once.finished, other.finished)

    def test_lengths_follow_their_weights(self) -> None:
        asked = traffic([100, 900], [10, 30], [3, 1], requests=20000, concurrency=1)
        isl, osl = asked.lengths()
        assert set(zip(isl.tolist(), osl.tolist(), strict=True)) == {(100, 10), (900, 30)}
        assert np.mean(isl == 100) == pytest.approx(0.75, abs=0.02)

    @pytest.mark.parametrize("variation", [0.0, 0.5, 1.0, 3.0])
    def test_times_between_arrivals_vary_as_asked(self, variation: float) -> None:
        sent = traffic(requests=50000, rate=4.0, variation=variation).sent()
        gaps = np.diff(sent)
        assert gaps.mean() == pytest.approx(0.25, rel=0.03)
        assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05, abs=1e-9)

    @pytest.mark.parametrize("concurrency", [64, 256, 1024])
    def test_a_thousand_requests_take_less_than_a_second(
        self, bench: Any, concurrency: int
    ) -> None:
        server = bench.server(**QWEN)
        start = time.perf_counter()
        replay(server, mixed(1000, 500, requests=1000, concurrency=concurrency))
        assert time.perf_counter() - start < 1.0

    def test_a_request_that_never_fits_is_named(self, bench: Any) -> None:
        server = bench.server(tp=2)
        with pytest.raises(
            Infeasible, match=r"found a request of 2000001 tokens, expected at most"
        ):
            replay(server, traffic(2_000_000, 1, requests=1, concurrency=1))

    def test_traffic_is_given_in_one_way(self) -> None:
        with pytest.raises(PlannerError, match="expected one of them"):
            traffic(concurrency=1, rate=1.0)
        with pytest.raises(PlannerError, match="found 2, expected 1000"):
            traffic(arrivals=np.array([0.0, 1.0]))


class TestClosedForm:
    """Requests of mixed lengths, where neither side has a fitted number."""

    def unfitted(self, server: Any) -> Any:
        engine = replace(server.run.engine, waits=0.0)
        return replace(server, run=replace(server.run, engine=engine))

    def near(self, found: Result, closed: Steady, ttft: float, tpot: float) -> None:
        assert closed.tpot.item() == pytest.approx(found.tpot.mean, rel=tpot)
        assert closed.throughput.item() == pytest.approx(found.throughput, rel=tpot)
        assert closed.ttft.item() == pytest.approx(found.ttft.mean, rel=ttft)

    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("concurrency", [16, 64, 256])
    @pytest.mark.parametrize("isl", [1000, 4000])
    def test_dense(self, bench: Any, engine: str, concurrency: int, isl: int) -> None:
        server = self.unfitted(bench.server(engine=engine, **QWEN))
        load = {"isl": isl, "osl": 500, "concurrency": concurrency}
        found = replay(server, mixed(isl, 500, requests=1500, concurrency=concurrency))
        closed = server.steady(**load, waves=1500 / concurrency)
        self.near(found, closed, ttft=0.15, tpot=0.08)

    @pytest.mark.parametrize("concurrency", [8, 64])
    def test_experts(self, bench: Any, concurrency: int) -> None:
        server = self.unfitted(bench.server(**DEEPSEEK))
        load = {"isl": 4000, "osl": 500, "concurrency": concurrency}
        found = replay(server, mixed(4000, 500, requests=1000, concurrency=concurrency))
        closed = server.steady(**load, waves=1000 / concurrency)
        self.near(found, closed, ttft=0.15, tpot=0.08)

    def test_ranks_that_share_experts_stall_each_other(self, bench: Any) -> None:
        """The closed form lets each rank be stalled by its own prompts alone."""
        server = bench.server(**DEEPSEEK | {"tp": 1, "attention_dp": 8})
        ratio = {}
        for isl, osl in ((100, 1000), (4000, 500)):
            found = replay(server, mixed(isl, osl, requests=500, concurrency=64))
            closed = server.steady(isl=isl, osl=osl, concurrency=64, waves=500 / 64)
            ratio[isl] = found.tpot.mean / closed.tpot.item()
        assert ratio[100] == pytest.approx(1.0, abs=0.15)
        assert ratio[4000] > 1.4

    @pytest.mark.parametrize("concurrency", [8, 64])
    def test_pools(self, bench: Any, concurrency: int) -> None:
        pools = bench.pools(prefill=2, **QWEN | {"tp": 2})
        server = self.unfitted(pools.server)
        pools = replace(pools, server=server)
        asked = mixed(4000, 500, requests=1000, concurrency=concurrency)
        found = simulate(server.model, asked, pool(server), pool(server, count=2))
        closed = pools.steady(isl=4000, osl=500, concurrency=concurrency, waves=1000 / concurrency)
        self.near(found, closed, ttft=0.15, tpot=0.08)
