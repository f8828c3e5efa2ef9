"""Matrix products: times worked by hand, tiles and splits, never under the roofline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs import kernels
from planner.costs.kernels.matrix import on_chip
from planner.specs.catalog import find_accelerator, list_accelerators
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import GemmSet

H100 = find_accelerator("h100-sxm")
PEAK, BANDWIDTH = H100.peak["bf16"], H100.memory_bandwidth
NEVER = 1e3
SET = GemmSet(
    launch=1e-6,
    compute=1.0,
    memory=1.0,
    cache=NEVER,
    tile=1e-6,
    small_tile=2.0,  # a smaller tile takes longer than the largest, so that nothing takes it
    split=NEVER,
    wave=1.0,
    heat=0.0,
)
sides = st.integers(1, 32768)


def gemm(m: float, n: float, k: float, dtype: str = "bf16") -> float:
    return float(kernels.gemm(H100, dtype, m, n, k))


def tiles(kernel: GemmSet, device: Accelerator, m: int, n: int, k: int) -> float:
    """Time on chip alone [us]."""
    return 1e6 * float(on_chip(kernel, device, "bf16", *np.array([m, n, k], dtype=float)))


STEP = 2 * 256 * 128 * 64 / 1e6
"""Of a large tile on a core of 1 TFLOP/s [us]: 64 elements of k."""


class TestByHand:
    def test_a_cube_of_1024(self, small: Accelerator) -> None:
        """32 tiles on four cores: 8 rounds of 16 steps and 1 us; 6.3 MB of traffic beside them."""
        rounds = 8 * (16 * STEP + 1)
        both = (rounds**3 + (3 * 2 * 1024**2 / 1e6) ** 3) ** (1 / 3)
        found = 1e6 * float(kernels.gemm_time(SET, small, "bf16", 1024, 1024, 1024))
        assert rounds == pytest.approx(544.87, abs=0.01)
        assert found == pytest.approx(1 + both)

    @pytest.mark.parametrize(("wave", "rounds"), [(1.0, 2.0), (0.5, 1.625), (0.0, 1.25)])
    def test_up_to_four_tiles_on_four_cores_are_a_round_and_a_fifth_is_part_of_one(
        self, small: Accelerator, wave: float, rounds: float
    ) -> None:
        four, five = (tiles(replace(SET, wave=wave), small, 256, n, 1024) for n in (512, 513))
        assert four == pytest.approx(16 * STEP + 1)
        assert tiles(replace(SET, wave=wave), small, 256, 128, 1024) == pytest.approx(four)
        assert five == pytest.approx(rounds * four)

    def test_one_tile_is_split_over_four_cores(self, small: Accelerator) -> None:
        """256 of 1024 steps each, then 10 us and four partial sums of 64 KiB."""
        alone = tiles(SET, small, 256, 128, 65536)
        parted = tiles(replace(SET, split=1e-5), small, 256, 128, 65536)
        assert alone == pytest.approx(1024 * STEP + 1)
        assert parted == pytest.approx(256 * STEP + 1 + 10 + 4 * 65536 / 1e6)

    def test_slow_caches_set_the_pace(self, small: Accelerator) -> None:
        """A step loads 64 x (256 + 128) elements; a core has a quarter of 0.04 TB/s."""
        step = 64 * 384 * 2 / 1e10 * 1e6
        assert step > STEP
        found = tiles(replace(SET, cache=0.04), small, 1024, 1024, 1024)
        assert found == pytest.approx(8 * (16 * step + 1))

    def test_heat_is_half_there_at_three_milliseconds(self, small: Accelerator) -> None:
        shape = (2048, 2048, 22 * 64)  # 128 tiles in 32 rounds
        warm = replace(SET, tile=3e-3 / 32 - 22 * STEP / 1e6)
        cold, hot = (
            float(kernels.gemm_time(replace(warm, heat=heat), small, "bf16", *shape))
            for heat in (0.0, 0.2)
        )
        assert cold - 1e-6 == pytest.approx(3e-3)
        assert hot - 1e-6 == pytest.approx(3.3e-3)

    def test_quantising_reads_and_writes_the_left_operand(self, small: Accelerator) -> None:
        both = [
            kernels.gemm_time(replace(SET, quantise=q), small, "fp8", 4096, 512, 8192)
            for q in (0.0, 3.0)
        ]
        assert both[1] - both[0] == pytest.approx(3 * 4096 * 8192 / 1e12)

    @pytest.mark.parametrize(("given", "weight"), [(None, 2.0), (0.5, 0.5)])
    def test_memory_reads_both_operands_and_writes_the_result(
        self, small: Accelerator, given: float | None, weight: float
    ) -> None:
        """128 x 8192 elements of 2 B, 4096 x 8192 weights of 2 or half a byte."""
        bound = replace(SET, compute=1e9, cache=1e9, tile=0.0)
        nbytes = 2 * 128 * 8192 + weight * 4096 * 8192 + 2 * 128 * 4096
        found = kernels.gemm_time(bound, small, "bf16", 128, 4096, 8192, given)
        assert found == pytest.approx(1e-6 + nbytes / 1e12)

    def test_four_bit_instructions_take_128_rows(self, small: Accelerator) -> None:
        kernel = replace(SET, small_tile=0.0)

        def rows(dtype: str, m: float) -> float:
            return float(on_chip(kernel, small, dtype, *np.array([m, 8192.0, 8192.0])))

        assert rows("nvfp4", 1) == rows("nvfp4", 128)
        assert rows("bf16", 1) < 0.6 * rows("bf16", 128)


class TestH100:
    def test_a_large_product_runs_at_the_hot_rate(self) -> None:
        kernel = kernels.parameters(H100, "gemm", "bf16")
        rate = 2.0 * 32768**3 / gemm(32768, 32768, 32768)
        assert rate == pytest.approx(kernel.compute * PEAK / (1.0 + kernel.heat), rel=0.03)

    @pytest.mark.parametrize("rows", [1, 16])
    def test_few_rows_read_the_weights_whatever_their_number(self, rows: int) -> None:
        kernel = kernels.parameters(H100, "gemm", "bf16")
        bound = 2.0 * 16384 * 16384 / (kernel.memory * BANDWIDTH)
        assert bound < gemm(rows, 16384, 16384) < 1.15 * bound + kernel.launch
        assert gemm(rows, 16384, 16384) == pytest.approx(gemm(1, 16384, 16384), rel=0.01)

    def test_the_smallest_product_is_its_launch_and_one_tile(self) -> None:
        kernel = kernels.parameters(H100, "gemm", "bf16")
        assert kernel.launch < gemm(1, 32, 32) < kernel.launch + 2.0 * kernel.tile

    def test_fewer_bits_are_faster_on_large_products(self) -> None:
        assert gemm(16384, 8192, 8192, "fp8") < 0.7 * gemm(16384, 8192, 8192)

    @given(sides, sides, sides)
    def test_it_grows_with_every_side(self, m: int, n: int, k: int) -> None:
        base = gemm(m, n, k)
        for larger in ((m + 1, n, k), (m, n + 1, k), (m, n, k + 1), (2 * m, 2 * n, 2 * k)):
            assert gemm(*larger) >= base * (1.0 - 1e-12)


@pytest.mark.parametrize("name", list_accelerators())
def test_no_library_beats_the_roofline(
    name: str, usable: Callable[..., Iterator[tuple[str, str]]]
) -> None:
    device, random = find_accelerator(name), np.random.default_rng(0)
    m, n, k = np.floor(np.exp(random.uniform(np.log(16), np.log(65536), (3, 300))))
    for library, dtype in usable(device, "gemm"):
        size = kernels.OPERAND_BYTES[dtype]
        compute = 2.0 * m * n * k / kernels.peak(device, dtype)
        memory = (size * (m + n) * k + 2.0 * m * n) / device.memory_bandwidth
        seconds = kernels.gemm(device, dtype, m, n, k, library)
        assert np.all(seconds > np.maximum(compute, memory)), (library, dtype)
