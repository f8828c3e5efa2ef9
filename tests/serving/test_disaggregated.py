"""Separate pools: each works at its own pace, and the slower one limits both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

BUSY = np.array([1.0, 4.0, 16.0, 64.0, 256.0, 1024.0])


class TestTransfer:
    def test_opt_66b_by_hand(self, bench: Any) -> None:
        """DistServe, arXiv 2401.09670, section 3.3: 512 tokens are 1.125 GiB in 64 layers, and the
        last one's is waited for; 25 GB/s of which 0.85 are reached."""
        pools = bench.pools(model="opt-66b", cluster="dgx-a100", tp=1)
        latency = pools.server.run.net.tiers[-1].latency
        expected = 1.125 * 2**30 / 64 / (0.85 * 25e9)
        assert pools.transfer(512).item() - latency == pytest.approx(expected, rel=1e-6)

    def test_it_grows_with_the_prompt(self, bench: Any) -> None:
        pools = bench.pools()
        latency = pools.server.run.net.tiers[-1].latency
        once, twice, ten = pools.transfer([1000, 2000, 10_000]) - latency
        assert [twice, ten] == pytest.approx([2 * once, 10 * once])

    def test_every_device_sends_its_part(self, bench: Any) -> None:
        one, eight = (bench.pools(tp=tp).transfer(100_000).item() for tp in (1, 8))
        assert 7.0 < one / eight < 8.0


class TestPools:
    def test_a_decode_step_holds_no_prompt(self, bench: Any) -> None:
        pools = bench.pools()
        found = pools.steady(isl=512, osl=8192, concurrency=BUSY[:5])
        step = pools.server.seconds(decodes=found.running, context=512 + 4096)
        assert found.tpot == pytest.approx(step, rel=0.02)

    def test_tpot_does_not_depend_on_prompts(self, bench: Any) -> None:
        """At one rate as many sequences decode, whatever their prompts cost; an engine that does
        both is slowed down by them."""
        pools = bench.pools()
        hit = np.array([0, 0.5, 0.95])
        apart = pools.at_rate(1.0, isl=4096, hit=hit)
        assert apart.tpot == pytest.approx([apart.tpot[0]] * 3, rel=1e-3)
        assert np.all(np.diff(apart.ttft) < 0.0)
        together = pools.server.at_rate(1.0, isl=4096, hit=hit)
        assert together.tpot[0] > 1.1 * together.tpot[2]
        assert np.all(apart.tpot < together.tpot)

    def test_one_request_meets_nobody(self, bench: Any) -> None:
        pools = bench.pools()
        found = pools.steady(isl=4096)
        first = pools.server.run.engine.first
        waits = 2.0 * pools.server.run.engine.waits * found.tpot.item()
        expected = first + waits + pools.prompt(4096) + pools.transfer(4096).item()
        assert found.ttft.item() == pytest.approx(expected, rel=1e-4)
        assert found.running.item() < 1.0

    @pytest.mark.parametrize(
        ("isl", "osl", "limited"), [(8192, 64, "prefill"), (128, 2048, "decode")]
    )
    def test_the_slower_pool_limits_both(
        self, bench: Any, isl: int, osl: int, limited: str
    ) -> None:
        base, prefill, decode = (
            bench.pools(*counts).steady(isl=isl, osl=osl, concurrency=20_000).throughput.item()
            for counts in ((1, 1), (2, 1), (1, 2))
        )
        more, same = (prefill, decode) if limited == "prefill" else (decode, prefill)
        assert more == pytest.approx(2 * base, rel=0.01)
        assert same == pytest.approx(base, rel=1e-6)

    def test_prefill_keeps_its_pace(self, bench: Any) -> None:
        pools = bench.pools(2, 1)
        found = pools.steady(isl=8192, osl=64, concurrency=4.0 ** np.arange(6))
        most = 2 / pools.prompt(8192)
        assert np.all(found.throughput / 64 <= most * (1 + 1e-12))
        assert found.throughput[-1] / 64 == pytest.approx(most)

    @pytest.mark.parametrize("engine", ["vllm", "sglang"])
    @pytest.mark.parametrize(("isl", "osl"), [(1024, 256), (8192, 1024), (128, 2048)])
    def test_more_requests_are_slower_each_and_faster_together(
        self, bench: Any, isl: int, osl: int, engine: str
    ) -> None:
        found = bench.pools(engine=engine).steady(isl=isl, osl=osl, concurrency=BUSY)
        for name in ("tpot", "throughput", "ttft"):
            values = getattr(found, name)
            assert np.all(np.diff(values) >= -1e-9 * values[:-1]), name

    @pytest.mark.parametrize(
        ("isl", "osl", "concurrency"),
        [
            (1024, 256, 16), (1024, 256, 1024), (8192, 1024, 64), (128, 2048, 512),
            (8192, 128, 2), (8192, 128, 4), (8192, 128, 64),
        ],
    )  # fmt: skip
    def test_requests_in_flight_are_rate_times_time(
        self, bench: Any, isl: int, osl: int, concurrency: float
    ) -> None:
        pools = bench.pools()
        found = pools.steady(isl=isl, osl=osl, concurrency=concurrency)
        inside = found.ttft - pools.server.run.engine.first + osl * found.tpot
        assert found.throughput / osl * inside == pytest.approx([concurrency], rel=1e-3)

    def test_a_row_of_a_batch_is_its_scalar(
        self, bench: Any, same_rows: Callable[[Any, Any, int], None]
    ) -> None:
        given = {
            "isl": [100, 3000, 30000, 1000],
            "osl": [50, 400, 30, 2000],
            "concurrency": [1, 20, 5000, 300],
            "hit": [0, 0.5, 0.1, 0.9],
            "fixed": [0, 1, 0, 1],
        }
        pools = bench.pools(2, 3)
        batch = pools.steady(**given)
        for row in range(4):
            one = {name: values[row] for name, values in given.items()}
            same_rows(batch, pools.steady(**one), row)


class TestRate:
    @pytest.mark.parametrize(
        ("isl", "osl", "shares"),
        [
            (1024, 256, [0.01, 0.3, 0.6, 0.9]),
            (8192, 128, [0.01, 0.3, 0.6, 0.9]),
            (128, 2048, [0.01, 0.3, 0.7, 0.9]),
        ],
    )  # fmt: skip
    def test_below_the_capacity_all_is_served(
        self, bench: Any, isl: int, osl: int, shares: list[float]
    ) -> None:
        pools = bench.pools()
        most = pools.steady(isl=isl, osl=osl, concurrency=1e5).throughput.item() / osl
        rate = most * np.array(shares)
        found = pools.at_rate(rate, isl=isl, osl=osl)
        assert found.throughput == pytest.approx(rate * osl, rel=0.01)
        assert np.all(np.diff(found.ttft) > 0.0)
        assert np.all(np.diff(found.tpot) > 0.0)

    @pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.8])
    def test_prompts_wait_as_in_a_queue_of_one_server(self, bench: Any, share: float) -> None:
        """DistServe, equation 1: TTFT = D + R D^2 / (2 (1 - R D))."""
        pools = bench.pools()
        prompt = pools.prompt(8192)
        rate = share / prompt
        state, engine = pools.at_rate(rate, isl=8192, osl=128), pools.server.run.engine
        found = state.ttft.item() - 2.0 * engine.waits * state.tpot.item()
        fixed = engine.first + pools.transfer(8192).item()
        expected = prompt + rate * prompt**2 / (2.0 * (1.0 - rate * prompt))
        assert found - fixed == pytest.approx(expected, rel=0.05)
