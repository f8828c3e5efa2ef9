"""One operator on one device: between the roofline's two bounds, above its launch cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs import kernels
from planner.errors import PlannerError
from planner.specs.catalog import find_accelerator, list_accelerators
from planner.specs.hardware import Accelerator, SmoothRoofline

PLAIN = SmoothRoofline(compute=0.5, memory=0.8, launch=4e-6, smoothness=2.0)
DEVICE = Accelerator(
    name="sample",
    vendor="none",
    generation="none",
    peak={"bf16": 1e15, "fp8": 2e15},
    memory=80e9,
    memory_bandwidth=2e12,
    cores=100,
    clock=None,
    l2_cache=None,
    host_bandwidth=50e9,
    power=None,
    kernels={
        "gemm": {"bf16": PLAIN},
        "attention": {"bf16": PLAIN},
        "grouped_gemm": {"bf16": PLAIN},
        "elementwise": {"bf16": PLAIN},
    },
)
DATABASE = [find_accelerator(item) for item in list_accelerators()]
SUSTAINED = [pytest.param(item, id=item.name) for item in DATABASE]
amounts = st.floats(0.0, 1e18)


class TestSmoothRoofline:
    @given(flops=amounts, nbytes=st.floats(0.0, 1e13), smoothness=st.floats(0.5, 8.0))
    def test_between_the_longer_bound_and_its_generalised_sum(
        self, flops: float, nbytes: float, smoothness: float
    ) -> None:
        kernel = replace(PLAIN, smoothness=smoothness)
        compute, memory = flops / (0.5 * 1e15), nbytes / (0.8 * 2e12)
        work = float(kernels.smooth_roofline(DEVICE, kernel, "bf16", flops, nbytes)) - 4e-6
        floor, slack = max(compute, memory), 1e-12
        assert floor * (1 - 1e-9) - slack <= work <= floor * 2 ** (1 / smoothness) + slack
        if smoothness >= 1.0:
            assert work <= (compute + memory) * (1 + 1e-9) + slack

    def test_equal_bounds_meet_at_the_root_of_two(self) -> None:
        flops, nbytes = 0.5 * 1e15, 0.8 * 2e12  # a second each
        found = float(kernels.smooth_roofline(DEVICE, PLAIN, "bf16", flops, nbytes))
        assert found == pytest.approx(4e-6 + np.sqrt(2.0))

    def test_nothing_to_do_costs_the_launch(self) -> None:
        assert float(kernels.smooth_roofline(DEVICE, PLAIN, "bf16", 0.0, 0.0)) == 4e-6

    def test_a_sharp_corner_is_the_maximum(self) -> None:
        sharp = replace(PLAIN, smoothness=64.0)
        found = float(kernels.smooth_roofline(DEVICE, sharp, "bf16", 1e15, 0.8e12))
        assert found == pytest.approx(2.0, rel=1e-4)

    def test_an_enormous_ratio_stays_finite(self) -> None:
        assert np.isfinite(kernels.smooth_roofline(DEVICE, PLAIN, "bf16", 1e24, 1e-20))


class TestGemm:
    def test_a_large_product_runs_at_the_fitted_rate(self) -> None:
        n = 65536.0
        assert float(kernels.gemm(DEVICE, "bf16", n, n, n)) == pytest.approx(
            2 * n**3 / (0.5 * 1e15), rel=1e-3
        )

    def test_a_single_row_reads_the_weights(self) -> None:
        found = float(kernels.gemm(DEVICE, "bf16", 1.0, 65536.0, 65536.0))
        assert found == pytest.approx(2 * 65536.0**2 / (0.8 * 2e12), rel=0.01)

    @pytest.mark.parametrize("axis", ["m", "n", "k"])
    @pytest.mark.parametrize("device", DATABASE, ids=lambda d: d.name)
    def test_monotone_in_every_dimension(self, device: Accelerator, axis: str) -> None:
        sizes = {"m": 512.0, "n": 4096.0, "k": 1024.0} | {axis: np.logspace(0, 6, 60)}
        seconds = kernels.gemm(device, "bf16", **sizes)
        assert np.all(np.diff(seconds) > 0.0)
        assert seconds[0] >= kernels.parameters(device, "gemm", "bf16").launch

    def test_smaller_operands_read_fewer_bytes(self) -> None:
        assert kernels.gemm(DEVICE, "fp8", 1.0, 65536.0, 65536.0) < 0.55 * kernels.gemm(
            DEVICE, "bf16", 1.0, 65536.0, 65536.0
        )

    def test_a_datatype_without_parameters_takes_the_wider_ones(self) -> None:
        assert kernels.parameters(DEVICE, "gemm", "nvfp4") is PLAIN
        n = 65536.0  # the efficiency of bf16 at the peak of fp8
        assert float(kernels.gemm(DEVICE, "fp8", n, n, n)) == pytest.approx(
            2 * n**3 / (0.5 * 2e15), rel=1e-3
        )


class TestPeak:
    def test_a_missing_datatype_is_an_error_that_names_what_there_is(self) -> None:
        with pytest.raises(PlannerError, match="sample has no fp4 matrix units; it has bf16, fp8"):
            kernels.peak(DEVICE, "nvfp4")

    def test_a_gemm_in_a_missing_datatype_is_that_error(self) -> None:
        with pytest.raises(PlannerError, match="a100-sxm-80g has no fp8"):
            kernels.gemm(find_accelerator("a100-sxm-80g"), "fp8", 64.0, 64.0, 64.0)

    @pytest.mark.parametrize("dtype", ["fp8", "mxfp8", "fp8_block"])
    def test_all_eight_bit_recipes_share_one_peak(self, dtype: str) -> None:
        assert kernels.peak(DEVICE, dtype) == 2e15


class TestExperts:
    def test_few_rows_are_bound_by_the_weights_of_the_experts_hit(self) -> None:
        def seconds(experts: float) -> float:
            return float(
                kernels.expert_feedforward(DEVICE, "bf16", experts, experts, 4096, 14336.0, 3)
            )

        weights = 3 * 2.0 * 4096 * 14336 / (0.8 * 2e12)
        assert seconds(64.0) - seconds(32.0) == pytest.approx(32 * weights, rel=0.01)

    def test_many_rows_are_bound_by_their_products(self) -> None:
        found = float(kernels.expert_feedforward(DEVICE, "bf16", 1e6, 8.0, 4096, 14336.0, 3))
        assert found == pytest.approx(6 * 1e6 * 4096 * 14336 / (0.5 * 1e15), rel=0.05)

    def test_ungated_experts_have_two_matrices(self) -> None:
        two = float(kernels.expert_feedforward(DEVICE, "bf16", 1e6, 8.0, 4096, 14336.0, 2))
        three = float(kernels.expert_feedforward(DEVICE, "bf16", 1e6, 8.0, 4096, 14336.0, 3))
        assert two / three == pytest.approx(2 / 3, rel=0.02)

    @pytest.mark.parametrize("position", range(3))
    def test_monotone_in_rows_experts_and_width(self, position: int) -> None:
        values: list[object] = [1000.0, 8.0, 2048.0]
        values[position] = np.logspace(0, 5, 50)
        rows, experts, width = values
        seconds = kernels.expert_feedforward(DEVICE, "bf16", rows, experts, 4096, width, 3)
        assert np.all(np.diff(seconds) > 0.0)


class TestAttention:
    def test_long_sequences_run_two_products_a_score(self) -> None:
        seconds = float(kernels.attention(DEVICE, 1.0, 32.0, 8.0, 65536.0, 65536.0, 128, 128))
        flops = 4 * 128 * 32 * 65536.0**2
        assert seconds == pytest.approx(flops / (0.5 * 1e15), rel=1e-3)

    def test_the_backward_pass_is_its_passes(self) -> None:
        def work(passes: float) -> float:
            found = kernels.attention(DEVICE, 1.0, 32.0, 8.0, 8192.0, 4096.0, 128, 128, passes)
            return float(found) - 4e-6

        assert work(2.5) == pytest.approx(2.5 * work(1.0))

    def test_narrow_heads_run_at_a_lower_rate(self) -> None:
        table = {**DEVICE.kernels, "attention": {"bf16": replace(PLAIN, head_dim_exponent=0.5)}}
        device = replace(DEVICE, kernels=table)
        args = (1.0, 32.0, 8.0, 65536.0, 65536.0, 32, 32)
        ratio = float(kernels.attention(device, *args)) / float(kernels.attention(DEVICE, *args))
        assert ratio == pytest.approx((128 / 32) ** 0.5, rel=1e-3)


class TestAttendedKeys:
    def test_causal_is_half_and_half_a_tile(self) -> None:
        assert kernels.attended_keys(8192.0, None) == (8192 + 128) / 2

    @pytest.mark.parametrize("window", [8192, 8193, 10**9])
    def test_a_window_of_the_whole_sequence_is_causal(self, window: int) -> None:
        assert kernels.attended_keys(8192.0, window) == kernels.attended_keys(8192.0, None)

    def test_bidirectional_is_everything(self) -> None:
        assert kernels.attended_keys(8192.0, None, causal=False) == 8192.0

    def test_a_long_sequence_sees_the_window_and_half_a_tile(self) -> None:
        assert kernels.attended_keys(1e9, 4096) == pytest.approx(4096 + 64, rel=1e-3)

    def test_the_window_counts_keys_one_by_one(self) -> None:
        seq, window = 1000, 300
        exact = np.mean([min(query + 1, window) for query in range(seq)])
        smooth = float(kernels.attended_keys(float(seq), window)) - kernels.ATTENTION_TILE / 2
        assert smooth == pytest.approx(exact, abs=0.5)

    def test_monotone_in_the_window(self) -> None:
        keys = [float(kernels.attended_keys(8192.0, w)) for w in (128, 512, 2048, 4096, 8192)]
        assert keys == sorted(set(keys))


class TestElementwise:
    def test_a_launch_for_every_kernel_and_one_pass_over_the_bytes(self) -> None:
        assert float(kernels.elementwise(DEVICE, 1.6e12, 3.0)) == pytest.approx(12e-6 + 1.0)


class TestSustained:
    def test_b200_is_limited_to_its_power(self) -> None:
        before = find_accelerator("b200-sxm")
        after = kernels.sustained(before)
        limit = 1.1e12 * 1000.0
        for family, dtype, factor in (
            ("gemm", "bf16", 1),
            ("attention", "bf16", 1),
            ("gemm", "fp8", 2),
            ("grouped_gemm", "bf16", 1),
        ):
            rate = after.kernels[family][dtype].compute * kernels.peak(after, dtype)
            assert rate == pytest.approx(factor * limit)
            assert after.kernels[family][dtype].compute < before.kernels[family][dtype].compute

    def test_a100_stays_below_its_power(self) -> None:
        before = find_accelerator("a100-sxm-80g")
        assert kernels.sustained(before).kernels == before.kernels

    def test_only_compute_changes(self) -> None:
        before = find_accelerator("b200-sxm")
        after = kernels.sustained(before)
        for family, table in before.kernels.items():
            for dtype, kernel in table.items():
                assert after.kernels[family][dtype] == replace(
                    kernel, compute=after.kernels[family][dtype].compute
                )
        assert after.kernels["elementwise"] == before.kernels["elementwise"]

    def test_a_device_of_unknown_power_is_as_it_was(self) -> None:
        assert kernels.sustained(DEVICE) is DEVICE

    @pytest.mark.parametrize("device", SUSTAINED)
    def test_never_faster_and_idempotent(self, device: Accelerator) -> None:
        once = kernels.sustained(device)
        assert kernels.sustained(once) == once
        n = np.array([64.0, 1024.0, 16384.0])
        assert np.all(kernels.gemm(once, "bf16", n, n, n) >= kernels.gemm(device, "bf16", n, n, n))
