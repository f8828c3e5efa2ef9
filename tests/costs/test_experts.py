"""A rank's experts: times worked by hand, weights that bound few rows, skew, the straggler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs import kernels
from planner.costs.routing import busiest_rank
from planner.specs.catalog import find_accelerator, list_accelerators
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import ExpertSet

H100 = find_accelerator("h100-sxm")
PEAK, BANDWIDTH = H100.peak["bf16"], H100.memory_bandwidth
HIDDEN, WIDTH = 4096.0, 14336.0
WEIGHTS = 3 * 2 * HIDDEN * WIDTH
"""Of one expert [B]."""
SET = ExpertSet(
    launch=1e-6,
    compute=1.0,
    memory=1.0,
    cache=1e6,
    tile=1e-6,
    small_tile=0.0,
    smoothness=20.0,
    expert=1.6e-6,
    moved=1.0,
    passed=0.5,
)


def experts(rows: float, active: float = 8.0, local: float = 8.0, matrices: float = 3.0) -> float:
    return float(kernels.experts(H100, "bf16", rows, active, local, HIDDEN, WIDTH, matrices))


class TestByHand:
    """Four experts of 1024 x 512 with 128 rows each, on four cores of 1 TFLOP/s."""

    SHAPE = (512, 4, 4, 1024, 512, 3)
    STEP = 2 * 128 * 128 / 1e6
    """A tile's time for one element of depth [us]."""

    def time(
        self, device: Accelerator, kernel: ExpertSet = SET, all_rows: float = 0.0, permute=True
    ) -> float:
        seconds = kernels.experts_time(
            kernel, device, "bf16", *self.SHAPE, all_rows, permute=permute
        )
        return 1e6 * float(seconds)

    def test_two_products_of_32_tiles(self, small: Accelerator) -> None:
        """Eight rounds each, of 1024 and of 512 steps and 1 us; 0.1 us for each local expert."""
        products = 8 * (1024 * self.STEP + 1) + 8 * (512 * self.STEP + 1)
        assert self.time(small, permute=False) == pytest.approx(1 + 0.4 + products)

    def test_permuting_moves_six_bytes_an_element(self, small: Accelerator) -> None:
        extra = self.time(small) - self.time(small, permute=False)
        assert extra == pytest.approx(6 * 512 * 1024 / 1e6)

    def test_some_libraries_pass_over_the_rows_of_all_ranks(self, small: Accelerator) -> None:
        extra = self.time(small, all_rows=4096.0) - self.time(small)
        assert extra == pytest.approx(0.5 * 2 * 4096 * (1024 + 512) / 1e6)

    @pytest.mark.parametrize(("given", "weight"), [(None, 2.0), (0.5, 0.5)])
    def test_memory_reads_the_weights_and_moves_the_rows(
        self, small: Accelerator, given: float | None, weight: float
    ) -> None:
        nbytes = 3 * 4 * weight * 1024 * 512 + 512 * (6 * 1024 + 8 * 512)
        bound = replace(SET, compute=1e9, tile=0.0, moved=0.0)
        found = kernels.experts_time(bound, small, "bf16", *self.SHAPE, weight_bytes=given)
        assert 1e6 * found == pytest.approx(1.4 + nbytes / 1e6)

    @pytest.mark.parametrize(
        ("small_tile", "ratio"),
        [(0.0, 9 / 8), (0.25, 3 / 2 * 2**0.25), (2.0, 2.0)],  # nine of 16, three of 64, two of 128
    )
    def test_a_row_too_many_takes_smaller_tiles_or_twice_as_long(
        self, small: Accelerator, small_tile: float, ratio: float
    ) -> None:
        kernel = replace(SET, small_tile=small_tile, tile=0.0, launch=0.0, expert=0.0)
        exact, more = (
            kernels.experts_time(kernel, small, "bf16", 4 * n, 4, 4, 8192, 8192, 3, permute=False)
            for n in (128, 129)
        )
        assert more / exact == pytest.approx(ratio, rel=1e-3)


class TestH100:
    def test_few_rows_read_the_weights_of_the_active_experts(self) -> None:
        found = experts(64.0, 64.0, 64.0) - experts(8.0, 8.0, 64.0)
        assert 1.0 < found / (56 * WEIGHTS / BANDWIDTH) < 1.2

    def test_many_rows_run_on_the_matrix_units(self) -> None:
        kernel = kernels.parameters(H100, "experts", "bf16")
        more = 2 * 3 * 1e6 * HIDDEN * WIDTH / (experts(2e6) - experts(1e6))
        assert 0.8 * PEAK * kernel.compute < more < PEAK

    def test_without_a_gate_there_is_a_product_less(self) -> None:
        assert experts(1e6, matrices=2.0) / experts(1e6) == pytest.approx(2 / 3, rel=0.05)

    def test_experts_that_get_no_row_cost_little(self) -> None:
        kernel = kernels.parameters(H100, "experts", "bf16")
        idle = experts(64.0, 8.0, 72.0) - experts(64.0, 8.0, 8.0)
        assert idle == pytest.approx(64 * kernel.expert / 16)
        assert idle < 0.1 * (experts(64.0, 64.0, 64.0) - experts(64.0, 8.0, 64.0))

    @pytest.mark.parametrize(("tokens", "by_rows"), [(16, False), (65536, True)])
    def test_a_straggler_is_late_only_where_rows_are_many(self, tokens: int, by_rows: bool) -> None:
        balanced, skewed = (
            busiest_rank(tokens, 2, 8, 4, routing)[0] for routing in ("balanced", "power_law_1.2")
        )
        late = experts(skewed, 2.0, 2.0) / experts(balanced, 2.0, 2.0)
        assert skewed / balanced > 1.5
        assert late == pytest.approx(skewed / balanced if by_rows else 1.0, rel=0.02)

    @given(st.integers(1, 100_000), st.integers(1, 64))
    def test_it_grows_with_rows(self, rows: int, active: int) -> None:
        assert experts(rows + 1, active, 64) >= experts(rows, active, 64) * (1.0 - 1e-12)


@pytest.mark.parametrize("name", list_accelerators())
def test_no_library_beats_the_roofline_by_a_tenth(
    name: str, usable: Callable[..., Iterator[tuple[str, str]]]
) -> None:
    """A fitted efficiency may be above one where it makes up for a term that is too long."""
    device, random = find_accelerator(name), np.random.default_rng(0)
    rows, local = np.exp(random.uniform([[0], [0]], [[11], [5]], (2, 500))).round()
    active = np.minimum(rows, local)
    for library, dtype in usable(device, "experts"):
        compute = 6.0 * rows * HIDDEN * WIDTH / kernels.peak(device, dtype)
        memory = active * kernels.OPERAND_BYTES[dtype] / 2 * WEIGHTS / device.memory_bandwidth
        shape = (rows, active, local, HIDDEN, WIDTH, 3.0)
        seconds = kernels.experts(device, dtype, *shape, library=library)
        assert np.all(seconds > 0.9 * np.maximum(compute, memory)), (library, dtype)
