"""What fills a device: weights and cache against counts by hand, and how many sequences fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner.specs.engine import Widths

GIB = 2**30


class TestWeights:
    LAYER = 8192 * (2 * 8192 + 2 * 1024 + 3 * 28672)
    """Products of one of Llama-3.1-70B's 80 layers: queries, outputs, keys, values, SwiGLU."""
    TABLE = 128_256 * 8192

    @pytest.mark.parametrize("tp", [1, 2, 8])
    @pytest.mark.parametrize(("weights", "size"), [("bf16", 2.0), ("fp8", 1.0), ("int4", 0.5)])
    def test_llama_70b_by_hand(self, bench: Any, weights: str, size: float, tp: int) -> None:
        """Both tables stay in 16 bits; norms are a millionth, int4's scales 3 %."""
        found = bench.server(tp=tp, widths=Widths(weights=weights)).weights()
        scale = 1.0 + 1.0 / 32.0 if weights == "int4" else 1.0
        products = 80 * self.LAYER * size * scale
        assert found == pytest.approx((products + 2 * 2 * self.TABLE) / tp, rel=1e-4)

    @pytest.mark.parametrize(
        ("model", "parameters"),
        [
            ("meta-llama-3.1-70b", 70.55e9),
            ("opt-66b", 65.7e9),  # one table, and learned positions that are left out
            ("deepseek-v3", 671.0e9),
            ("gpt-oss-120b", 116.8e9),
            ("qwen3-next-80b-a3b", 79.7e9),
            ("hunyuan-large", 388.7e9),
        ],
    )
    def test_one_device_holds_every_parameter(
        self, bench: Any, model: str, parameters: float
    ) -> None:
        assert bench.server(model, tp=1).weights() == pytest.approx(2 * parameters, rel=1e-3)

    def test_attention_ranks_copy_what_is_no_expert(self, bench: Any) -> None:
        """DeepSeek-V3 over eight devices: an eighth of 58 x 256 experts, all else whole."""
        experts = 2.0 * 58 * 256 * 3 * 7168 * 2048
        alone = bench.server("deepseek-v3", tp=1).weights()
        for ep in (1, 8):
            spread = bench.server("deepseek-v3", tp=1, attention_dp=8, ep=ep).weights()
            assert spread == pytest.approx(alone - experts * 7 / 8, rel=1e-9)

    def test_key_value_heads_are_copied_beyond_their_number(self, bench: Any) -> None:
        """At tp = 16 a device holds one of eight key-value heads, not half of one."""
        found = bench.server(tp=16).weights() - bench.server(tp=8).weights() / 2
        assert found == pytest.approx(80 * 2 * 2 * 128 * 8192 / 2, rel=1e-6)

    def test_stages_divide_layers(self, bench: Any) -> None:
        one, four = (bench.server(tp=1, pp=pp).weights() for pp in (1, 4))
        tables = 2.0 * 2 * self.TABLE
        assert four == pytest.approx((one - tables) / 4 + tables, rel=1e-9)


class TestCache:
    @pytest.mark.parametrize(
        ("model", "kv", "per_token"),
        [
            ("meta-llama-3.1-70b", "bf16", 327_680),
            ("meta-llama-3.1-70b", "fp8", 163_840),
            ("deepseek-v3", "bf16", 61 * 576 * 2),
            ("hunyuan-large", "bf16", 32 * 2 * 8 * 80 * 2),  # every second layer borrows
            ("mimo-v2-flash", "bf16", (9 * 4 + 39 * 8) * (192 + 128) * 2),  # below the window
        ],
    )
    def test_bytes_of_a_token(self, bench: Any, model: str, kv: str, per_token: float) -> None:
        server = bench.server(model, tp=1, widths=Widths(kv=kv))
        assert server.cache(100) == pytest.approx(100 * per_token)

    def test_opt_66b_by_distserve(self, bench: Any) -> None:
        """Section 3.3 of arXiv 2401.09670: 512 tokens are 1.13 GB, in fact 1.125 GiB."""
        assert bench.server("opt-66b", tp=1).cache(512) == 1.125 * GIB

    def test_a_window_caps_its_layers(self, bench: Any) -> None:
        """gpt-oss-120b: 18 of 36 layers keep 128 tokens of 8 heads of 64."""
        token, server = 2 * 8 * 64 * 2, bench.server("gpt-oss-120b", tp=1)
        for tokens in (100, 128, 129, 100_000):
            expected = 18 * token * (tokens + min(tokens, 128))
            assert server.cache(tokens) == pytest.approx(expected)

    def test_merged_keys_are_kept_beyond_the_window(self, bench: Any) -> None:
        server = bench.server("deepseek-v4-pro", tp=1)
        assert server.cache(100_000) > 1.5 * server.cache(1000)

    def test_a_recurrent_state_does_not_grow(self, bench: Any) -> None:
        """Qwen3-Next: 12 of 48 layers keep 2 heads of 256; the others a state in 32 bits."""
        server = bench.server("qwen3-next-80b-a3b", tp=1)
        state = server.cache(0)
        assert state >= 36 * 4 * 32 * 128 * 128
        assert server.cache(1000) - state == pytest.approx(1000 * 12 * 2 * 2 * 256 * 2)

    def test_tensor_parallelism_divides_heads_but_no_latent(self, bench: Any) -> None:
        for tp, share in ((2, 1 / 2), (8, 1 / 8), (16, 1 / 8)):
            assert bench.server(tp=tp).cache(1000) == pytest.approx(share * 327_680_000)
            latent = bench.server("deepseek-v3", tp=tp).cache(1000)
            assert latent == pytest.approx(61 * 576 * 2 * 1000)

    def test_stages_divide_it(self, bench: Any) -> None:
        assert bench.server(pp=4).cache(1000) == pytest.approx(bench.server().cache(1000) / 4)


class TestRoom:
    @pytest.mark.parametrize(
        ("model", "tp", "tokens"),
        [
            ("opt-13b", 1, 66_144),
            ("opt-13b", 2, 163_008),
            ("opt-13b", 4, 356_736),
            ("opt-66b", 2, 11_600),
            ("opt-66b", 4, 78_496),
            ("opt-66b", 8, 212_320),
        ],
    )
    def test_capacities_of_distserve(self, bench: Any, model: str, tp: int, tokens: int) -> None:
        """max_num_tokens.csv of LLMServe/DistServe fills 73.2 to 74.4 GiB of an A100-80G."""
        server = bench.server(model, "dgx-a100", tp=tp)
        assert 73.2 < (server.weights() + server.cache(tokens)) / GIB < 74.4

    @pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
    @pytest.mark.parametrize("tp", [2, 4, 8])
    def test_all_parts_together_fit_and_leave_little(
        self, bench: Any, engine: str, tp: int
    ) -> None:
        server = bench.server(engine=engine, tp=tp)
        parts = server.memory()
        used = (parts.weights + parts.working + parts.room).item() / server.run.device.memory
        assert 0.85 < used < 0.97
        assert parts.weights.item() == server.weights()
        assert 1.5e9 < parts.working.item() < 5e9

    def test_room_by_hand(self, bench: Any) -> None:
        """vLLM takes 0.9 of the device, TensorRT-LLM gives the cache 0.9 of what is free."""
        for engine in ("vllm", "tensorrt-llm"):
            server = bench.server(engine=engine, tp=4)
            parts, device = server.memory(), server.run.device.memory
            taken = (parts.weights + parts.working).item()
            expected = 0.9 * device - taken if engine == "vllm" else 0.9 * (device - taken)
            assert parts.room.item() == pytest.approx(expected)

    def test_sequences_that_fit(self, bench: Any) -> None:
        """vLLM fills the cache with sequences that are halfway, TensorRT-LLM reserves the end."""
        for engine, tokens in (("vllm", 4096 + 512), ("tensorrt-llm", 4096 + 1024)):
            server = bench.server(engine=engine, tp=4)
            fit = server.limit(isl=4096, osl=1024)
            room = server.memory().room.item()
            assert fit * server.cache(tokens) <= room < (fit + 1) * server.cache(tokens)

    def test_the_engine_limits_short_sequences(self, bench: Any) -> None:
        server = bench.server()
        assert server.limit(isl=16, osl=16) == server.run.engine.most_running

    def test_a_model_that_does_not_fit_has_no_room(self, bench: Any) -> None:
        server = bench.server("deepseek-v3")
        assert server.memory().room.item() == 0.0
        assert server.limit() == 0.0

    def test_a_larger_chunk_takes_room(self, bench: Any) -> None:
        server = bench.server()
        engine = replace(server.run.engine, chunk=32_768)
        larger = replace(server, run=replace(server.run, engine=engine))
        gone = server.memory().room.item() - larger.memory().room.item()
        assert gone == pytest.approx(24_576 * (8 * 8192 + 2 * 3 * 28672 / 8))
