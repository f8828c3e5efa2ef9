"""Arrays of shapes: as fast as a search needs, and each row as if it were alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.costs import collectives, kernels
from planner.costs.topology import network
from planner.specs.catalog import find_accelerator, find_cluster

H100 = find_accelerator("h100-sxm")
NET = network(find_cluster("dgx-h100"), 1024)
POINTS = 100_000
MICROSECONDS = 3.0
"""Of the processor for a point; a fifth of it is usual."""

Array = NDArray[np.float64]
Form = Callable[..., Array]


def decode(library: str | None, latent: bool = False) -> Form:
    dims = (576, 512) if latent else (128, 128)

    def form(batch: Array, kv_len: Array, heads: Array, kv_heads: Array) -> Array:
        own = 1.0 if latent else kv_heads
        shape = kernels.Decode.of(batch, kv_len, heads * own, own, *dims, 2.0)
        return np.asarray(kernels.decode_attention(H100, "bf16", shape, library, latent))

    return form


def prefill(batch: Array, queries: Array, heads: Array, cached: Array, window: Array) -> Array:
    shape = (batch, queries, heads, heads, 128, 128)
    return np.asarray(kernels.prefill_attention(H100, "bf16", *shape, cached=cached, window=window))


FORMS: dict[str, tuple[Form, tuple[tuple[float, float], ...]]] = {
    "gemm": (
        lambda m, n, k: np.asarray(kernels.gemm(H100, "bf16", m, n, k)),
        ((1, 32768), (32, 65536), (32, 65536)),
    ),
    "prefill": (prefill, ((1, 64), (1, 16384), (1, 96), (1, 8192), (1, 8192))),
    "experts": (
        lambda *shape: np.asarray(kernels.experts(H100, "bf16", *shape, 3.0)),
        ((1, 1e5), (1, 32), (32, 64), (1024, 8192), (512, 16384)),
    ),
    **{
        f"decode {library or 'latent'}": (
            decode(library, library is None),
            ((1, 1024), (1, 131072), (1, 64), (1, 8)),
        )
        for library in ("vllm", "tensorrt-llm", "sglang", None)
    },
    **{
        one.__name__: (
            lambda size, stride, nbytes, one=one: np.asarray(
                one(NET, 2 ** np.rint(np.log2(size)), 2 ** np.rint(np.log2(stride)), nbytes)
            ),
            ((1, 128), (1, 8), (1, 1e10)),
        )
        for one in (
            collectives.all_reduce,
            collectives.all_gather,
            collectives.reduce_scatter,
            collectives.all_to_all,
            collectives.broadcast,
        )
    },
}
"""Every form with the ranges of its arguments, drawn log-uniformly."""


def points(ranges: tuple[tuple[float, float], ...], number: int) -> Array:
    lows, highs = np.log(np.array(ranges)).T[:, :, np.newaxis]
    return np.floor(np.exp(np.random.default_rng(0).uniform(lows, highs, (len(ranges), number))))


@pytest.mark.parametrize("name", FORMS)
def test_a_hundred_thousand_points_take_microseconds_each(name: str) -> None:
    form, ranges = FORMS[name]
    shapes = points(ranges, POINTS)
    start = time.process_time()
    seconds = form(*shapes)
    elapsed = time.process_time() - start
    assert seconds.shape == (POINTS,)
    assert np.all(np.isfinite(seconds)) and np.all(seconds >= 0.0)
    assert elapsed < POINTS * MICROSECONDS * 1e-6


@pytest.mark.parametrize("name", FORMS)
def test_a_row_is_as_if_it_were_alone(name: str) -> None:
    form, ranges = FORMS[name]
    shapes = points(ranges, 100)
    alone = [float(form(*(float(part) for part in row))) for row in shapes.T]
    np.testing.assert_allclose(form(*shapes), alone, rtol=1e-12)
