"""The steady state of an engine: Little's law, more load is never faster, limits are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planner.specs.engine import Widths

ENGINES = ["vllm", "sglang", "tensorrt-llm"]
LENGTHS = [(1024, 128), (128, 2048), (8192, 1024)]
BUSY = np.array([1.0, 4.0, 16.0, 64.0])


def request_flops(server: Any, isl: float, osl: float) -> float:
    """Least work of a request on a device [FLOP]: two a token and parameter of the layers."""
    hidden = server.model.hidden
    active = sum(layer.active_parameters(hidden) for layer in server.model.layers)
    return 2.0 * active * (isl + osl) / float(server.layout["tp"])


class TestLittle:
    @pytest.mark.parametrize(("isl", "osl"), [*LENGTHS, (1024, 16)])
    @pytest.mark.parametrize("engine", ENGINES)
    def test_running_is_rate_times_time(
        self, bench: Any, engine: str, isl: float, osl: float
    ) -> None:
        """Every request runs from its prompt to its last token."""
        server = bench.server(engine=engine)
        found = server.steady(isl=isl, osl=osl, concurrency=BUSY)
        inside = found.ttft - server.run.engine.first + osl * found.tpot
        assert found.running == pytest.approx(BUSY)
        assert found.throughput / osl * inside == pytest.approx(BUSY, rel=1e-3)

    @pytest.mark.parametrize("layout", [{"attention_dp": 2, "tp": 4}, {"pp": 2}], ids=str)
    def test_on_all_ranks_and_stages(self, bench: Any, layout: dict[str, int]) -> None:
        server = bench.server(devices=16, **layout)
        found = server.steady(concurrency=2 * BUSY)
        inside = found.ttft - server.run.engine.first + 256 * found.tpot
        assert found.running == pytest.approx(BUSY)
        assert found.throughput / 256 * inside == pytest.approx(2 * BUSY, rel=1e-3)

    def test_stages_serve_as_many_batches(self, bench: Any) -> None:
        """Twice the devices and requests: the same iteration and a hop, twice the tokens."""
        one = bench.server(devices=16).steady(concurrency=64)
        two = bench.server(devices=16, pp=2).steady(concurrency=128)
        assert 1.8 < two.throughput / one.throughput < 2.0

    @pytest.mark.parametrize("engine", ["vllm", "tensorrt-llm"])
    def test_when_prompts_fill_every_iteration(self, bench: Any, engine: str) -> None:
        server = bench.server(engine=engine)
        found = server.steady(isl=8192, osl=64, concurrency=[128, 300])
        inside = found.ttft - server.run.engine.first + 64 * found.tpot
        assert found.throughput / 64 * inside == pytest.approx([128, 300], rel=0.05)


class TestInStep:
    @pytest.mark.parametrize(("isl", "osl"), [(1024, 128), (4096, 128), (2048, 1024)])
    def test_equal_requests_share_all_prompts_of_a_wave(
        self, bench: Any, isl: int, osl: int
    ) -> None:
        """Prefill first: a wave is the prompts of all, then as many steps as tokens."""
        server = bench.server(engine="sglang")
        found = server.steady(isl=isl, osl=osl, concurrency=64, fixed=1)
        several = min(8192 // isl, 64)
        prompts = 64 / several * server.seconds(prefills=several, chunk=isl)
        steps = osl * server.seconds(decodes=64, context=isl + osl / 2)
        engine = server.run.engine
        wave = found.ttft - engine.first - engine.waits * found.tpot + osl * found.tpot
        assert wave == pytest.approx(prompts + steps, rel=0.01)


class TestDrafts:
    def test_a_step_yields_a_geometric_sum(self, bench: Any) -> None:
        load = bench.server().load(drafts=[0, 1, 3], acceptance=[0.7, 0.7, 0.5])
        assert load.tokens_a_step == pytest.approx([1.0, 1.7, 1.875])

    def test_nothing_accepted_costs_and_everything_pays(self, bench: Any) -> None:
        server = bench.server("deepseek-v3", widths=Widths("fp8_block", "fp8_block"))
        plain, lost, won = server.steady(
            isl=1024, osl=1024, concurrency=4, drafts=[0, 1, 1], acceptance=[0, 0, 1]
        ).tpot
        assert won < 0.8 * plain < plain < lost

    def test_the_layer_of_cloudmatrix(self, bench: Any) -> None:
        """One draft, 48 sequences a die: 874 us a layer become 1260 us (arXiv 2506.12708)."""
        widths = Widths("int8", "int8")
        layout = {"tp": 1, "attention_dp": 320, "ep": 320}
        server = bench.server(
            "deepseek-r1", "cloudmatrix384-die", engine="generic", widths=widths, **layout
        )
        one, two = (server.seconds(decodes=48, context=4096, verified=v) for v in (1, 2))
        assert one / 61 == pytest.approx(874e-6, rel=0.15)
        assert two / 61 == pytest.approx(1260e-6, rel=0.15)


class TestAlone:
    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize(("isl", "osl"), LENGTHS)
    def test_one_request_meets_nobody(self, bench: Any, engine: str, isl: int, osl: int) -> None:
        server = bench.server(engine=engine)
        found = server.steady(isl=isl, osl=osl)
        step = server.seconds(decodes=1, context=isl + osl / 2)
        assert found.tpot == pytest.approx(step, rel=0.01)
        engine = server.run.engine
        assert found.ttft == pytest.approx(engine.first + engine.waits * found.tpot + found.prompt)
        if isl < 8000:  # one iteration
            assert found.prompt == pytest.approx(server.seconds(prefills=1, chunk=isl), rel=1e-9)

    def test_long_prompts_come_in_pieces(self, bench: Any) -> None:
        server = bench.server()
        chunks = server.seconds(prefills=1, chunk=8000, cached=8000 * np.arange(4)).sum()
        assert server.steady(isl=32000).prompt.item() == pytest.approx(chunks, rel=0.02)


class TestLoad:
    @pytest.mark.parametrize("fixed", [0, 1])
    @pytest.mark.parametrize(("isl", "osl"), LENGTHS)
    @pytest.mark.parametrize("engine", ["vllm", "sglang"])
    def test_more_requests_are_slower_each_and_faster_together(
        self, bench: Any, engine: str, isl: int, osl: int, fixed: int
    ) -> None:
        """At each doubling up to the limit; between them a kernel may cost a few percent."""
        server = bench.server(engine=engine)
        limit = server.limit(isl=isl, osl=osl)
        concurrency = 2.0 ** np.arange(np.floor(np.log2(limit)) + 1)
        found = server.steady(isl=isl, osl=osl, concurrency=concurrency, fixed=fixed)
        assert np.all(np.diff(found.tpot) > 0.0)
        assert np.all(np.diff(found.throughput) > 0.0)
        assert np.all(np.diff(found.ttft) >= 0.0)

    @pytest.mark.parametrize(
        ("isl", "osl", "engine"),
        [
            *((*lengths, engine) for lengths in LENGTHS for engine in ENGINES),
            (8192, 32, "sglang"),
            (2048, 64, "vllm"),
            (1024, 16, "tensorrt-llm"),
        ],
    )
    def test_the_matrix_units_are_never_overbooked(
        self, bench: Any, engine: str, isl: int, osl: int
    ) -> None:
        server = bench.server(engine=engine)
        found = server.steady(isl=isl, osl=osl, concurrency=4.0 ** np.arange(7))
        work = found.throughput / osl * request_flops(server, isl, osl)
        assert np.all(work < server.run.device.peak["bf16"])

    def test_requests_above_the_limit_wait_for_a_place(self, bench: Any) -> None:
        server = bench.server(tp=2)
        limit = server.limit(isl=4096, osl=1024)
        assert 10 < limit < 200
        more = limit * np.array([1, 2, 3, 10])
        found = server.steady(isl=4096, osl=1024, concurrency=more)
        assert found.running == pytest.approx(np.full(4, limit))
        for name in ("tpot", "throughput"):
            assert getattr(found, name) == pytest.approx(np.full(4, getattr(found, name)[0]))
        waiting = (more - limit) * 1024 / found.throughput
        assert found.ttft - found.ttft[0] == pytest.approx(waiting)

    def test_prefix_hits_shorten_prompts(self, bench: Any) -> None:
        hit = np.array([0, 0.25, 0.5, 0.75, 0.95])
        found = bench.server().steady(isl=8192, concurrency=16, hit=hit)
        assert np.all(np.diff(found.ttft) < 0.0)
        assert np.all(np.diff(found.tpot) < 0.0)
        assert np.all(np.diff(found.throughput) > 0.0)
        assert found.prompt[2] == pytest.approx(found.prompt[0] / 2, rel=0.15)

    def test_a_group_waits_longer_than_mixed_lengths(self, bench: Any) -> None:
        mixed, group = bench.server().steady(concurrency=16, fixed=[0, 1]).ttft
        assert group > mixed

    def test_the_first_burst_fades(self, bench: Any) -> None:
        ttft = bench.server().steady(concurrency=64, fixed=1, waves=[1, 4, 16, np.inf]).ttft
        assert np.all(np.diff(ttft) < 0.0)

    def test_a_model_that_does_not_fit_serves_nothing(self, bench: Any) -> None:
        found = bench.server("deepseek-v3").steady(concurrency=[1, 16])
        assert np.all(found.throughput == 0.0)
        assert np.all(np.isinf(found.ttft)) and np.all(np.isinf(found.tpot))

    @pytest.mark.parametrize("engine", ENGINES)
    def test_a_row_of_a_batch_is_its_scalar(
        self, bench: Any, engine: str, same_rows: Callable[[Any, Any, int], None]
    ) -> None:
        given = {
            "isl": [100, 3000, 30000, 1000],
            "osl": [50, 400, 30, 2000],
            "concurrency": [1, 20, 5000, 300],
            "hit": [0, 0.5, 0.1, 0.9],
            "waves": [1, 5, 10, 2],
            "fixed": [0, 1, 0, 1],
        }
        server = bench.server(engine=engine)
        batch = server.steady(**given)
        for row in range(4):
            one = {name: values[row] for name, values in given.items()}
            same_rows(batch, server.steady(**one), row)


class TestRate:
    CASES = (("vllm", 1024, 256), ("sglang", 128, 1024), ("tensorrt-llm", 1024, 256))

    def capacity(self, server: Any, isl: int, osl: int) -> float:
        """Requests a second with all places taken."""
        return float(server.steady(isl=isl, osl=osl, concurrency=1e5).throughput.item()) / osl

    @pytest.mark.parametrize(
        ("engine", "isl", "osl", "shares"),
        [
            *((*case, [0.01, 0.1, 0.2, 0.3]) for case in CASES),
            (*CASES[0], [0.7, 0.8, 0.9]),
        ],
    )
    def test_below_the_capacity_all_is_served(
        self, bench: Any, engine: str, isl: int, osl: int, shares: list[float]
    ) -> None:
        server = bench.server(engine=engine)
        rate = self.capacity(server, isl, osl) * np.array(shares)
        found = server.at_rate(rate, isl=isl, osl=osl)
        assert found.throughput == pytest.approx(rate * osl, rel=0.01)

    @pytest.mark.parametrize(("engine", "isl", "osl"), CASES)
    def test_times_rise_with_the_rate_up_to_the_capacity(
        self, bench: Any, engine: str, isl: int, osl: int
    ) -> None:
        server = bench.server(engine=engine)
        capacity = self.capacity(server, isl, osl)
        shares = np.array([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 10])
        found = server.at_rate(capacity * shares, isl=isl, osl=osl)
        assert np.all(np.diff(found.ttft[:-1]) > 0.0)
        assert np.all(np.diff(found.tpot) > 0.0)
        assert found.throughput[-1] == pytest.approx(capacity * osl, rel=0.05)

    def test_a_rare_request_is_alone(self, bench: Any) -> None:
        server = bench.server()
        rare, alone = server.at_rate(1e-4), server.steady()
        assert rare.ttft == pytest.approx(alone.ttft, rel=1e-3)
        assert rare.tpot == pytest.approx(alone.tpot, rel=1e-3)
