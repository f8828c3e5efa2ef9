"""Kernel forms: limits, monotonicity, worked numbers, and what a device has parameters for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs import kernels
from planner.costs.kernels import Decode
from planner.costs.kernels.decode import shares_cache
from planner.errors import PlannerError
from planner.specs.catalog import find_accelerator, list_accelerators

DEVICE = find_accelerator("h100-sxm")
PEAK, BANDWIDTH = DEVICE.peak["bf16"], DEVICE.memory_bandwidth
sizes = st.integers(1, 32768)


def gemm(m: float, n: float, k: float, dtype: str = "bf16") -> float:
    return float(kernels.gemm(DEVICE, dtype, m, n, k))


class TestSmoothMaximum:
    def test_between_the_maximum_and_the_sum(self) -> None:
        assert kernels.smooth_maximum(3.0, 4.0, 1.0) == pytest.approx(7.0)
        assert kernels.smooth_maximum(3.0, 4.0, 2.0) == pytest.approx(5.0)
        assert kernels.smooth_maximum(3.0, 4.0, 100.0) == pytest.approx(4.0, rel=1e-6)

    def test_nothing_takes_no_time(self) -> None:
        assert kernels.smooth_maximum(0.0, 0.0, 2.0) == 0.0

    def test_the_roofline_is_launch_and_the_longer_of_both(self) -> None:
        kernel = kernels.parameters(DEVICE, "gemm", "bf16")
        found = float(kernels.roofline(DEVICE, kernel, "bf16", 1e15, 1.0))
        assert found == pytest.approx(kernel.launch + 1e15 / (kernel.compute * PEAK))


class TestGemm:
    def test_a_large_product_runs_at_the_hot_rate(self) -> None:
        kernel = kernels.parameters(DEVICE, "gemm", "bf16")
        rate = 2.0 * 32768**3 / gemm(32768, 32768, 32768)
        assert rate == pytest.approx(kernel.compute * PEAK / (1.0 + kernel.heat), rel=0.03)

    def test_a_product_of_few_rows_reads_its_weights(self) -> None:
        kernel = kernels.parameters(DEVICE, "gemm", "bf16")
        bound = 2.0 * 16384 * 16384 / (kernel.memory * BANDWIDTH)
        assert bound < gemm(1, 16384, 16384) < 1.15 * bound + kernel.launch

    def test_the_smallest_product_is_its_launch_and_one_tile(self) -> None:
        kernel = kernels.parameters(DEVICE, "gemm", "bf16")
        assert kernel.launch < gemm(1, 32, 32) < kernel.launch + 2.0 * kernel.tile

    @given(sizes, sizes, sizes)
    def test_it_grows_with_every_side(self, m: int, n: int, k: int) -> None:
        base = gemm(m, n, k)
        for larger in ((2 * m, n, k), (m, 2 * n, k), (m, n, 2 * k)):
            assert gemm(*larger) >= base * (1.0 - 1e-12)

    @given(sizes, sizes, sizes)
    def test_one_at_a_time_is_as_all_at_once(self, m: int, n: int, k: int) -> None:
        together = kernels.gemm(DEVICE, "bf16", np.array([m, 64.0]), np.array([n, 64.0]), 1.0 * k)
        assert together[0] == pytest.approx(gemm(m, n, k), rel=1e-12)

    def test_fewer_bits_are_faster_on_large_products(self) -> None:
        assert gemm(16384, 8192, 8192, "fp8") < 0.7 * gemm(16384, 8192, 8192)

    def test_quantising_costs_traffic_of_the_left_operand(self) -> None:
        kernel = kernels.parameters(DEVICE, "gemm", "fp8")
        without = replace(kernel, quantise=0.0)
        both = [kernels.gemm_time(k, DEVICE, "fp8", 4096, 4096, 8192) for k in (kernel, without)]
        expected = kernel.quantise * 4096 * 8192 / BANDWIDTH
        assert both[0] - both[1] == pytest.approx(expected)


def prefill(queries: float, batch: float = 1.0, **options: object) -> float:
    return float(
        kernels.prefill_attention(DEVICE, "bf16", batch, queries, 32.0, 8.0, 128, 128, **options)
    )


class TestPrefill:
    def test_a_causal_tile_sees_half_of_the_keys(self) -> None:
        mean, longest = kernels.seen_keys(4096.0, 0.0, 128.0, np.inf)
        assert mean == pytest.approx((4096 + 128) / 2)
        assert longest == 4096

    def test_a_window_limits_what_a_tile_sees(self) -> None:
        mean, longest = kernels.seen_keys(4096.0, 0.0, 128.0, 640.0)
        tiles = np.minimum(128.0 * np.arange(1, 33), 640.0)
        assert mean == pytest.approx(tiles.mean())
        assert longest == 640

    def test_cached_tokens_are_seen_by_every_query(self) -> None:
        alone, _ = kernels.seen_keys(1024.0, 0.0, 128.0, np.inf)
        behind, _ = kernels.seen_keys(1024.0, 3072.0, 128.0, np.inf)
        assert behind - alone == pytest.approx(3072)
        assert prefill(1024.0, cached=3072.0) > prefill(1024.0)

    def test_long_sequences_run_at_the_rate_of_the_matrix_units(self) -> None:
        kernel = kernels.parameters(DEVICE, "attention_prefill", "bf16")
        flops = 4.0 * 32 * 128 * 65536**2 / 2
        assert flops / prefill(65536.0) == pytest.approx(kernel.compute * PEAK, rel=0.05)

    def test_no_mask_is_twice_the_work(self) -> None:
        assert prefill(65536.0, causal=False) / prefill(65536.0) == pytest.approx(2.0, rel=0.03)

    def test_passes_multiply_the_work(self) -> None:
        launch = kernels.parameters(DEVICE, "attention_prefill", "bf16").launch
        once, twice = (prefill(32768.0, passes=passes) - launch for passes in (1.0, 2.0))
        assert twice / once == pytest.approx(2.0, rel=0.01)

    @given(st.integers(1, 16384), st.integers(1, 64))
    def test_it_grows_with_tokens_and_sequences(self, queries: int, batch: int) -> None:
        base = prefill(1.0 * queries, 1.0 * batch)
        assert prefill(2.0 * queries, 1.0 * batch) >= base
        assert prefill(1.0 * queries, 2.0 * batch) >= base


def decode(batch: float, kv_len: float, heads: float = 32.0, kv_heads: float = 8.0) -> float:
    shape = Decode.of(batch, kv_len, heads, kv_heads, 128, 128, 2.0)
    return float(kernels.decode_attention(DEVICE, "bf16", shape))


class TestDecode:
    def test_a_long_cache_is_read_at_the_memory_bandwidth(self) -> None:
        kernel = kernels.parameters(DEVICE, "attention_decode", "bf16")
        nbytes = 256 * 32768 * 2 * 8 * 128 * 2
        rate = nbytes / decode(256, 32768)
        assert 0.5 * BANDWIDTH < rate <= kernel.shared.memory * BANDWIDTH

    def test_a_short_one_costs_its_launch(self) -> None:
        launch = kernels.parameters(DEVICE, "attention_decode", "bf16").shared.launch
        assert launch < decode(1, 64) < 3 * launch

    def test_every_query_head_of_its_own_reads_more(self) -> None:
        assert decode(64, 8192, 32, 32) > 2 * decode(64, 8192, 32, 8)

    def test_a_window_bounds_the_tokens(self) -> None:
        long, short = (
            Decode.of(64, 32768, 32, 8, 128, 128, 2.0, window) for window in (0.0, 1024.0)
        )
        seconds = [kernels.decode_attention(DEVICE, "bf16", shape) for shape in (long, short)]
        assert seconds[1] < 0.2 * seconds[0]

    def test_tensorrt_llm_switches_where_its_sources_say(self) -> None:
        kernel = kernels.parameters(DEVICE, "attention_decode", "bf16", "tensorrt-llm")
        groups = Decode.of(64, 1024, np.array([8.0, 16.0, 256.0, 512.0]), 8, 128, 128, 2.0)
        shares = shares_cache(kernel, DEVICE, groups)
        assert shares.tolist() == [False, True, True, False]  # 1, 2, 32 and 64 queries a KV head
        few = Decode.of(1, 128, 16, 4, 128, 128, 2.0)  # 4 blocks for 132 cores
        assert not shares_cache(kernel, DEVICE, few)


def experts(rows: float, active: float = 8.0, **options: object) -> float:
    shape = (rows, active, 8.0, 4096.0, 14336.0, 3.0)
    return float(kernels.experts(DEVICE, "bf16", *shape, **options))


class TestExperts:
    def test_few_rows_read_the_weights_of_the_active_experts(self) -> None:
        weights = 3 * 2 * 4096 * 14336
        assert experts(16.0, 8.0) - experts(2.0, 1.0) == pytest.approx(7 * weights / BANDWIDTH, 0.2)

    def test_many_rows_run_on_the_matrix_units(self) -> None:
        kernel = kernels.parameters(DEVICE, "experts", "bf16")
        rate = 2 * 3 * 1e6 * 4096 * 14336 / experts(1e6, permute=False)
        assert rate == pytest.approx(kernel.compute * PEAK, rel=0.1)

    def test_without_a_gate_there_is_a_product_less(self) -> None:
        two = float(kernels.experts(DEVICE, "bf16", 1e6, 8.0, 8.0, 4096.0, 14336.0, 2.0))
        assert two / experts(1e6) == pytest.approx(2 / 3, rel=0.05)

    def test_permuting_is_extra(self) -> None:
        assert experts(1e5) > experts(1e5, permute=False)


class TestParameters:
    def test_a_datatype_without_a_set_takes_the_next_wider(self) -> None:
        assert kernels.parameters(DEVICE, "gemm", "fp16") is kernels.parameters(
            DEVICE, "gemm", "bf16"
        )

    def test_a_library_may_be_named(self) -> None:
        named = kernels.parameters(DEVICE, "gemm", "bf16", "vllm")
        assert named is DEVICE.kernels["gemm"]["vllm"]["bf16"]

    def test_an_unknown_library_or_family_is_named(self) -> None:
        with pytest.raises(PlannerError, match=r"no gemm kernels of nobody; it has those of: t"):
            kernels.parameters(DEVICE, "gemm", "bf16", "nobody")
        with pytest.raises(PlannerError, match="no folding kernels"):
            kernels.parameters(DEVICE, "folding", "bf16")

    def test_a_device_without_the_units_is_an_error(self) -> None:
        with pytest.raises(PlannerError, match="a100-sxm-80g has no fp8 matrix units"):
            kernels.peak(find_accelerator("a100-sxm-80g"), "fp8")


class TestSustained:
    @pytest.mark.parametrize("name", list_accelerators())
    def test_never_faster_and_idempotent(self, name: str) -> None:
        before = find_accelerator(name)
        after = kernels.sustained(before)
        assert kernels.sustained(after) == after
        for family, libraries in before.kernels.items():
            for library, sets in libraries.items():
                for dtype, one in sets.items():
                    found = after.kernels[family][library][dtype]
                    assert getattr(found, "compute", 1.0) <= getattr(one, "compute", 1.0)

    def test_a_long_product_is_hot_and_a_short_one_becomes_so(self) -> None:
        hot = kernels.sustained(DEVICE)
        for side, slower in ((512, 1.0), (2048, 1.05), (32768, 0.99)):
            ratio = float(kernels.gemm(hot, "bf16", side, side, side)) / gemm(side, side, side)
            assert slower <= ratio < 1.2

    def test_the_power_limit_bounds_the_rate(self) -> None:
        weak = kernels.sustained(replace(DEVICE, power=100.0))
        kernel = kernels.parameters(weak, "gemm", "bf16")
        assert kernel.compute * PEAK == pytest.approx(1.1e14)
        assert kernels.sustained(replace(DEVICE, power=None)).kernels == DEVICE.kernels


def test_elementwise_is_launches_and_traffic() -> None:
    kernel = kernels.parameters(DEVICE, "elementwise", "bf16")
    found = float(kernels.elementwise(DEVICE, 1e9, 3.0))
    assert found == pytest.approx(3 * kernel.launch + 1e9 / (kernel.memory * BANDWIDTH))
