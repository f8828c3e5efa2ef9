"""What all kernel forms share: smooth maximum, roofline, choice of a set, the power limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs import kernels
from planner.errors import PlannerError
from planner.specs.catalog import find_accelerator, list_accelerators
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import GemmSet, MemorySet

H100 = find_accelerator("h100-sxm")
PEAK = H100.peak["bf16"]


class TestSmoothMaximum:
    def test_between_the_maximum_and_the_sum(self) -> None:
        assert kernels.smooth_maximum(3.0, 4.0, 1.0) == pytest.approx(7.0)
        assert kernels.smooth_maximum(3.0, 4.0, 2.0) == pytest.approx(5.0)
        assert kernels.smooth_maximum(3.0, 4.0, 100.0) == pytest.approx(4.0, rel=1e-6)

    def test_nothing_takes_no_time(self) -> None:
        assert kernels.smooth_maximum(0.0, 0.0, 2.0) == 0.0

    @given(st.floats(0, 1e3), st.floats(0, 1e3), st.floats(1.0, 100.0))
    def test_bounds_and_symmetry(self, a: float, b: float, exponent: float) -> None:
        found = float(kernels.smooth_maximum(a, b, exponent))
        assert max(a, b) <= found * (1 + 1e-12)
        assert found <= (a + b) * (1 + 1e-12)
        assert found == kernels.smooth_maximum(b, a, exponent)


def test_the_roofline_by_hand(small: Accelerator) -> None:
    """3 us of 12 MFLOP at 4 TFLOP/s and 4 us of 4 MB at 1 TB/s, half as fast: 1 + 2 x 5 us."""
    kernel = replace(kernels.parameters(H100, "gemm", "bf16"), launch=1e-6, compute=0.5, memory=0.5)
    assert kernels.roofline(small, kernel, "bf16", 12e6, 4e6) == pytest.approx(11e-6)


def test_elementwise_is_launches_and_traffic(small: Accelerator) -> None:
    sets = {"elementwise": {"any": {"bf16": MemorySet(launch=2e-6, memory=0.5)}}}
    device = replace(small, kernels=sets)
    assert kernels.elementwise(device, 4e6, 3.0) == pytest.approx(3 * 2e-6 + 8e-6)


class TestParameters:
    @pytest.mark.parametrize(
        ("dtype", "taken"), [("fp16", "bf16"), ("mxfp8", "fp8_block"), ("int8", "fp8")]
    )
    def test_a_datatype_without_a_set_takes_the_next_wider(self, dtype: str, taken: str) -> None:
        found = kernels.parameters(H100, "gemm", dtype)
        assert found is kernels.parameters(H100, "gemm", taken)

    def test_the_first_library_that_has_the_datatype_is_taken(self) -> None:
        libraries = dict(H100.kernels["gemm"])
        first = replace(libraries["vllm"]["fp8"], launch=5e-6)
        mine = replace(H100, kernels={"gemm": {"mine": {"fp8": first}, **libraries}})
        assert kernels.parameters(mine, "gemm", "fp8") is first
        own = kernels.parameters(mine, "gemm", "bf16")
        assert own is kernels.parameters(H100, "gemm", "bf16")

    def test_a_library_may_be_named(self) -> None:
        named = kernels.parameters(H100, "gemm", "bf16", "vllm")
        assert named is H100.kernels["gemm"]["vllm"]["bf16"]

    @pytest.mark.parametrize(
        ("family", "dtype", "library", "message"),
        [
            ("gemm", "bf16", "nobody", "no gemm kernels of nobody; it has those of: tensorrt-llm"),
            ("folding", "bf16", None, "no folding kernels for bf16"),
            ("folding", "bf16", "vllm", "no folding kernels of vllm; it has those of: none"),
            ("gemm", "int3", None, "no gemm kernels for int3"),
        ],
    )
    def test_what_is_missing_is_named(
        self, family: str, dtype: str, library: str | None, message: str
    ) -> None:
        with pytest.raises(PlannerError, match=f"h100-sxm has {message}"):
            kernels.parameters(H100, family, dtype, library)

    def test_a_device_without_the_units_is_an_error(self) -> None:
        with pytest.raises(PlannerError, match="a100-sxm-80g has no fp8 matrix units; it has bf16"):
            kernels.peak(find_accelerator("a100-sxm-80g"), "fp8_block")


class TestSustained:
    @pytest.mark.parametrize("name", list_accelerators())
    def test_rates_never_rise_and_once_is_enough(self, name: str) -> None:
        before = find_accelerator(name)
        after = kernels.sustained(before)
        assert kernels.sustained(after) == after
        for family, libraries in before.kernels.items():
            for library, sets in libraries.items():
                for dtype, one in sets.items():
                    found = after.kernels[family][library][dtype]
                    assert getattr(found, "compute", 1.0) <= getattr(one, "compute", 1.0)

    @pytest.mark.parametrize(("side", "slower"), [(512, 1.0), (2048, 1.05), (32768, 1.0)])
    def test_a_long_product_is_hot_and_a_short_one_becomes_so(
        self, side: int, slower: float
    ) -> None:
        hot = kernels.gemm(kernels.sustained(H100), "bf16", side, side, side)
        ratio = float(hot / kernels.gemm(H100, "bf16", side, side, side))
        assert slower <= ratio < 1.25

    @pytest.mark.parametrize("name", list_accelerators())
    def test_no_product_becomes_faster(self, name: str) -> None:
        """Up to 2^17 of k; beyond, sums of a split k that no heat stretches gain up to 2e-4."""
        device = find_accelerator(name)
        m, n, k = 2.0 ** np.random.default_rng(0).uniform(0.0, 17.0, (3, 2000))
        for library, sets in kernels.sustained(device).kernels.get("gemm", {}).items():
            for dtype, hot in sets.items():
                cold = device.kernels["gemm"][library][dtype]
                if hot is cold:  # a relative's, for units that the device does not have
                    continue
                ours = kernels.gemm_time(hot, device, dtype, m, n, k)
                assert np.all(ours >= kernels.gemm_time(cold, device, dtype, m, n, k))

    @pytest.mark.parametrize(("dtype", "rate"), [("bf16", 1.1e14), ("fp8", 2.2e14)])
    def test_the_power_limit_bounds_the_rate(self, dtype: str, rate: float) -> None:
        """100 W at 1.1 TFLOP/s per W, twice that in half the bits."""
        kernel = kernels.parameters(kernels.sustained(replace(H100, power=100.0)), "gemm", dtype)
        assert isinstance(kernel, GemmSet)
        assert kernel.compute * kernels.peak(H100, dtype) == pytest.approx(rate)

    def test_without_a_power_limit_nothing_changes(self) -> None:
        free = replace(H100, power=None)
        assert kernels.sustained(free) == free
