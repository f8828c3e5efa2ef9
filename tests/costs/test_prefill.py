"""Attention of many query tokens: times worked by hand, masks, windows, cached prefixes, MLA."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs import kernels
from planner.specs.catalog import find_accelerator
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import PrefillSet

H100 = find_accelerator("h100-sxm")
SET = PrefillSet(
    launch=1e-6,
    compute=1.0,
    memory=1e9,
    balance=30.0,
    tile=0.0,
    narrow=1.0,
    wide=1.0,
    smoothness=20.0,
    edge=64.0,
    small_tile=2.0,  # a smaller tile takes longer than the largest, so that nothing takes it
)


def prefill(queries: float, batch: float = 1.0, **options: Any) -> float:
    shape = (batch, queries, 32.0, 8.0, 128, 128)
    return float(kernels.prefill_attention(H100, "bf16", *shape, **options))


class TestSeenKeys:
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

    @given(st.integers(1, 3000), st.integers(0, 3000), st.integers(1, 4000))
    def test_it_is_the_sum_over_the_tiles(self, queries: int, cached: int, reach: int) -> None:
        last = cached + 128.0 * np.arange(1, -(-queries // 128) + 1)
        mean, longest = kernels.seen_keys(queries, cached, 128.0, reach)
        assert mean == pytest.approx(np.minimum(last, reach).mean())
        assert longest == min(last[-1], reach)


class TestByHand:
    """512 queries of four heads of 128: 16 tiles of 128 rows on four cores of 1 TFLOP/s."""

    KEY = 2 * 128 * 256 / 1e6
    """A tile's time for one key [us]."""

    def time(self, device: Accelerator, kernel: PrefillSet = SET, *options: Any) -> float:
        return 1e6 * float(
            kernels.prefill_time(kernel, device, "bf16", 1, 512, 4, 4, 128, 128, *options)
        )

    def test_the_mean_tile_sees_320_keys(self, small: Accelerator) -> None:
        assert self.time(small) == pytest.approx(1 + 4 * 320 * self.KEY)
        assert self.time(small, replace(SET, tile=1e-6)) == pytest.approx(5 + 4 * 320 * self.KEY)

    def test_a_cached_prefix_adds_to_every_tile(self, small: Accelerator) -> None:
        assert self.time(small, SET, 512.0) == pytest.approx(1 + 4 * 832 * self.KEY)

    def test_a_window_of_192_with_its_edge(self, small: Accelerator) -> None:
        mean = (128 + 3 * 256) / 4
        assert self.time(small, SET, 0.0, 192.0) == pytest.approx(1 + 4 * mean * self.KEY)

    def test_without_a_mask_every_tile_sees_all(self, small: Accelerator) -> None:
        assert self.time(small, SET, 0.0, np.inf, False) == pytest.approx(1 + 4 * 512 * self.KEY)

    def test_on_many_cores_the_longest_tile_decides(self, small: Accelerator) -> None:
        many = replace(small, cores=400, peak={"bf16": 400e12})
        assert self.time(many) == pytest.approx(1 + 512 * self.KEY)

    @pytest.mark.parametrize(("width", "factor"), [(64, 0.5 * 2), (128, 1.0), (256, 2.0 * 2)])
    def test_other_widths_run_at_a_lower_rate(
        self, small: Accelerator, width: int, factor: float
    ) -> None:
        found = kernels.prefill_time(SET, small, "bf16", 1, 512, 4, 4, width, width)
        assert 1e6 * found == pytest.approx(1 + factor * 4 * 320 * self.KEY)

    def test_memory_moves_six_tensors_of_a_megabyte_in_pairs(self, small: Accelerator) -> None:
        """Queries and outputs, keys and values read, and written: 3 x 2 x 512 x 4 x 128 x 2 B."""
        bound = replace(SET, compute=1e9, memory=1.0)
        assert self.time(small, bound) == pytest.approx(1 + 3 * 2 * 512 * 4 * 128 * 2 / 1e6)

    def test_packing_fills_a_tile_with_the_heads_of_a_group(self, small: Accelerator) -> None:
        """32 queries of 32 heads over 8 KV heads: 8 tiles of 128 rows, not 32 of a quarter."""
        apart, packed = (
            kernels.prefill_time(replace(SET, packs=packs), small, "bf16", 1, 32, 32, 8, 128, 128)
            for packs in ("no", "yes")
        )
        assert (apart - 1e-6) / (packed - 1e-6) == pytest.approx(4.0)


class TestH100:
    @pytest.mark.parametrize(
        ("family", "key_dim"), [("attention_prefill", 128), ("mla_prefill", 192)]
    )
    def test_long_sequences_run_at_the_rate_of_the_matrix_units(
        self, family: str, key_dim: int
    ) -> None:
        kernel = kernels.parameters(H100, family, "bf16")
        shape = (1, 65536.0, 32, 32, key_dim, 128)
        seconds = float(kernels.prefill_attention(H100, "bf16", *shape, family=family))
        rate = 2.0 * 32 * (key_dim + 128) * 65536**2 / 2 / seconds
        best = kernel.compute * H100.peak["bf16"] * (256 / (key_dim + 128)) ** kernel.wide
        assert rate == pytest.approx(best, rel=0.05)
        assert rate < best

    def test_a_mask_halves_a_long_sequence(self) -> None:
        assert prefill(65536.0) / prefill(65536.0, causal=False) == pytest.approx(0.5, rel=0.02)

    def test_a_window_makes_it_linear(self) -> None:
        one, two = (prefill(queries, window=1024.0) for queries in (32768.0, 65536.0))
        assert two / one == pytest.approx(2.0, rel=0.02)
        assert two < 0.1 * prefill(65536.0)

    @pytest.mark.parametrize("window", [0.0, 1e6])
    def test_no_window_and_one_beyond_the_sequence_are_the_same(self, window: float) -> None:
        assert prefill(4096.0, window=window) == prefill(4096.0)

    def test_a_prefix_in_the_cache_costs_less_than_to_compute_it(self) -> None:
        assert prefill(4096.0) < prefill(4096.0, cached=12288.0) < prefill(16384.0)

    def test_passes_multiply_the_work(self) -> None:
        launch = kernels.parameters(H100, "attention_prefill", "bf16").launch
        once, twice = (prefill(32768.0, passes=passes) - launch for passes in (1.0, 2.0))
        assert twice / once == pytest.approx(2.0, rel=0.01)

    @given(st.integers(1, 16384), st.integers(1, 64), st.integers(0, 8192))
    def test_it_grows_with_tokens_and_sequences(
        self, queries: int, batch: int, cached: int
    ) -> None:
        base = prefill(queries, batch, cached=cached)
        for more in (
            prefill(queries + 1, batch, cached=cached),
            prefill(queries, batch + 1, cached=cached),
            prefill(queries, batch, cached=cached + 1),
        ):
            assert more >= base * (1.0 - 1e-12)
