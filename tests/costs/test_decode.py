"""Attention of one new token: splits and times worked by hand, the bandwidth as a floor, MLA."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.costs import kernels
from planner.costs.kernels import Decode
from planner.costs.kernels.decode import shares_cache
from planner.specs.catalog import find_accelerator, list_accelerators
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import DecodeSet, OwnCacheSet, SharedCacheSet

H100 = find_accelerator("h100-sxm")
BANDWIDTH = H100.memory_bandwidth
FREE = 1e9
"""Efficiency of what is to cost nothing."""
SHARED = SharedCacheSet(launch=1e-6, memory=1.0, smoothness=12.0, item=1e-6, slots=1.0, stream=1.0)
OWN = OwnCacheSet(
    launch=1e-6, memory=FREE, smoothness=12.0, item=1e-6, merge=5e-6, cached=0.0, stream=1.0
)


def microseconds(kernel: DecodeSet, device: Accelerator, *shape: Any) -> float:
    return 1e6 * float(kernels.decode_time(kernel, device, Decode.of(*shape)))


class TestByHand:
    def test_whole_sequences(self, small: Accelerator) -> None:
        """Eight items on four cores, 16 padded query rows, 1,000 tokens; 4.1 MB beside them."""
        kernel = DecodeSet(shared=replace(SHARED, plan="whole", sequence=1e-7))
        token = 2 * 16 * 256 / 4e12 + 256 * 2 / 1e12  # of all cores
        items = 2 * (1.0 + 1000 * 4 * token * 1e6)
        found = microseconds(kernel, small, 8, 1000, 1, 1, 128, 128, 2.0)
        assert found == pytest.approx(1 + 8 * 0.1 + items)

    def test_short_sequences_pay_a_tile_of_64_tokens(self, small: Accelerator) -> None:
        kernel = DecodeSet(shared=replace(SHARED, plan="whole"))
        one, tile, more = (
            microseconds(kernel, small, 8, n, 1, 1, 128, 128, 2.0) for n in (1, 64, 65)
        )
        assert one == pytest.approx(tile, rel=1e-9)
        assert tile < more

    def test_latent_attention_in_two_splits(self, small: Accelerator) -> None:
        """Two sequences of 64 heads are two items; four cores take half a sequence each."""
        kernel = DecodeSet(shared=replace(SHARED, plan="latent", merge=1e-6))
        token = 2 * 64 * (576 + 512) / 4e12 + 576 * 2 / 1e12
        found = microseconds(kernel, small, 2, 1024, 64, 1, 576, 512, 2.0)
        assert found == pytest.approx(1 + 1 + 1 + 512 * 4 * token * 1e6)

    def test_the_cache_of_few_long_sequences_is_read_once(self, small: Accelerator) -> None:
        kernel = DecodeSet(shared=replace(SHARED, item=0.0, stream=FREE, compute=FREE))
        nbytes = 2 * 4096 * 8 * 256 * 2 + 2 * 2 * 32 * 256
        found = microseconds(kernel, small, 2, 4096, 32, 8, 128, 128, 2.0)
        assert found == pytest.approx(1 + nbytes / 1e6)

    @pytest.mark.parametrize(("filled", "missed"), [(0.5, 0.0), (1.5, 0.5), (3.0, 1.0)])
    def test_what_the_l2_cache_holds_is_not_read(
        self, small: Accelerator, filled: float, missed: float
    ) -> None:
        kernel = DecodeSet(shared=replace(SHARED, item=0.0, stream=FREE, compute=FREE, cached=0.5))
        nbytes = 2 * 4096 * 8 * 256 * 2 + 2 * 2 * 32 * 256
        device = replace(small, l2_cache=2 * nbytes / filled)
        found = microseconds(kernel, device, 2, 4096, 32, 8, 128, 128, 2.0)
        assert found == pytest.approx(1 + missed * nbytes / 1e6, abs=0.01)

    def test_every_head_for_itself(self, small: Accelerator) -> None:
        """32 heads on 16 places for blocks: two waves of 1,000 tokens at a sixteenth of 1 TB/s."""
        kernel = DecodeSet(shared=SHARED, own=OWN, least_group=2.0)
        found = microseconds(kernel, small, 8, 1000, 4, 4, 128, 128, 2.0)
        assert found == pytest.approx(1 + 2 * (1 + 1000 * 512 * 16 / 1e6))

    def test_one_head_alone_is_cut_into_blocks_of_512(self, small: Accelerator) -> None:
        kernel = DecodeSet(shared=SHARED, own=OWN)
        found = microseconds(kernel, small, 1, 1000, 1, 1, 128, 128, 2.0)
        assert found == pytest.approx(1 + 5 + 1 + 500 * 512 * 4 / 1e6)


class TestSplits:
    """The libraries' own rules on 132 cores, read off the cost of merging s splits."""

    @pytest.mark.parametrize(
        ("plan", "batch", "kv_len", "splits"),
        [
            ("fill", 1, 1024, 4),  # 256 tokens at least
            ("fill", 1, 65536, 16),  # floor(132 / 8 items)
            ("fill", 64, 65536, 1),
            ("flash3", 2, 65536, 8),
            ("whole", 1, 65536, 1),
            ("xqa", 1, 1024, 8),  # 128 tokens at least
            ("xqa", 1, 32768, 45),  # sqrt(8 x 256)
            ("xqa", 64, 32768, 2),  # 8 waves of 512 items at most
        ],
    )
    def test_of_eight_kv_heads(self, plan: str, batch: int, kv_len: int, splits: int) -> None:
        merging = SharedCacheSet(
            launch=0.0,
            memory=FREE,
            smoothness=12.0,
            item=0.0,
            slots=1.0,
            merge=1.0,
            stream=FREE,
            compute=FREE,
            plan=plan,
        )
        shape = Decode.of(batch, kv_len, 32, 8, 128, 128, 2.0)
        seconds = float(kernels.decode_time(DecodeSet(shared=merging), H100, shape))
        assert seconds**2 + 1 == pytest.approx(splits, abs=1e-3)

    @pytest.mark.parametrize(
        ("heads", "window", "merges"), [(32, 0, 2.0), (8, 0, 0.0), (32, 1024, 0.0)]
    )
    def test_flash_attention_2_splits_for_grouped_queries_alone(
        self, heads: int, window: int, merges: float
    ) -> None:
        """One merge of the splits, one to bring the heads back together."""
        costs = {"merge": 1.0, "stream": FREE, "compute": FREE}
        merging = replace(SHARED, launch=0.0, item=0.0, memory=FREE, plan="flash2", **costs)
        shape = Decode.of(4, 4096, heads, 8, 128, 128, 2.0, window)
        seconds = float(kernels.decode_time(DecodeSet(shared=merging), H100, shape))
        assert seconds == pytest.approx(merges, abs=1e-6)


class TestLibrarySwitch:
    KERNEL = kernels.parameters(H100, "attention_decode", "bf16", "tensorrt-llm")

    @pytest.mark.parametrize(
        ("heads", "kv_heads", "batch", "kv_len", "shares"),
        [
            (8, 8, 64, 1024, False),  # every head has its own cache
            (16, 8, 64, 1024, True),
            (256, 8, 64, 1024, True),
            (512, 8, 64, 1024, False),  # more than 32 heads a KV head
            (16, 4, 1, 128, False),  # 4 blocks for 132 cores
            (16, 4, 9, 128, True),  # 36 blocks, 33 are a quarter
        ],
    )
    def test_where_the_sources_say(
        self, heads: int, kv_heads: int, batch: int, kv_len: int, shares: bool
    ) -> None:
        shape = Decode.of(batch, kv_len, heads, kv_heads, 128, 128, 2.0)
        assert bool(shares_cache(self.KERNEL, H100, shape)) is shares
        alone = DecodeSet(shared=self.KERNEL.shared)
        found, shared = (kernels.decode_time(k, H100, shape) for k in (self.KERNEL, alone))
        assert bool(found == shared) is shares


def decode(*shape: Any, dtype: str = "bf16") -> float:
    return float(kernels.decode_attention(H100, dtype, Decode.of(*shape)))


class TestH100:
    def test_a_long_cache_is_read_at_the_memory_bandwidth(self) -> None:
        kernel = kernels.parameters(H100, "attention_decode", "bf16")
        nbytes = 256 * 32768 * 2 * 8 * 128 * 2
        rate = nbytes / decode(256, 32768, 32, 8, 128, 128, 2.0)
        assert 0.8 * BANDWIDTH < rate <= kernel.shared.memory * BANDWIDTH

    def test_a_short_one_costs_its_launch(self) -> None:
        launch = kernels.parameters(H100, "attention_decode", "bf16").shared.launch
        assert launch < decode(1, 64, 32, 8, 128, 128, 2.0) < 3 * launch

    def test_a_cache_in_8_bits_is_read_in_less_time(self) -> None:
        wide = decode(256, 32768, 32, 8, 128, 128, 2.0)
        assert 0.5 < decode(256, 32768, 32, 8, 128, 128, 1.0, dtype="fp8") / wide < 0.8

    def test_every_query_head_of_its_own_reads_more(self) -> None:
        grouped, own = (decode(64, 8192, 32, n, 128, 128, 2.0) for n in (8, 32))
        assert own > 2 * grouped

    def test_a_window_bounds_the_tokens(self) -> None:
        whole, short, same = (
            decode(64, 32768, 32, 8, 128, 128, 2.0, window) for window in (0.0, 1024.0, 65536.0)
        )
        assert short < 0.2 * whole
        assert same == whole

    def test_the_heads_of_latent_attention_share_one_read(self) -> None:
        """Latents of 576 values a token, where 128 heads of their own would have 32,768."""
        shape = Decode.of(128, 8192, np.array([16.0, 128.0]), 1, 576, 512, 2.0)
        few, many = kernels.decode_attention(H100, "bf16", shape, latent=True)
        read = 128 * 8192 * 576 * 2 / BANDWIDTH
        assert read < few < 1.3 * read
        assert few < many < 3 * few


@pytest.mark.parametrize("family", ["attention_decode", "mla_decode"])
@pytest.mark.parametrize("name", list_accelerators())
def test_no_library_reads_a_large_cache_faster_than_the_memory(name: str, family: str) -> None:
    device, random = find_accelerator(name), np.random.default_rng(0)
    batch, kv_len = np.exp(random.uniform([[0], [6]], [[7], [12]], (2, 500))).round()
    latent = family == "mla_decode"
    heads, kv_heads, dims = (128, 1, (576, 512)) if latent else (32, 8, (128, 128))
    for library, sets in device.kernels[family].items():
        for dtype in sets:
            size = 1.0 if dtype == "fp8" else 2.0
            nbytes = batch * kv_len * kv_heads * (576 if latent else 256) * size
            large = nbytes > 2.0 * device.l2_cache
            shape = Decode.of(batch, kv_len, heads, kv_heads, *dims, size)
            seconds = kernels.decode_attention(device, dtype, shape, library, latent)
            assert np.all((seconds * device.memory_bandwidth > nbytes)[large]), (library, dtype)
