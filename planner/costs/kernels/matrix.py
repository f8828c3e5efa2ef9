"""Time of one matrix product: the best of a menu of tiles and split-K factors.

A library cuts C[m,n] = A[m,k] B[k,n] into tiles, one a core at a time, and may cut k into parts
that run side by side.  Each step along k costs the longer of the matrix units' time and of bringing
both operands on chip; each tile costs a start and a store.  The library's heuristic takes about the
fastest choice, so we take the minimum.  Traffic to memory goes on beside all this (a smooth
maximum), and a kernel that runs for milliseconds meets the chip's power limit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.kernels.rates import (
    OPERAND_BITS,
    OPERAND_BYTES,
    parameters,
    peak,
    smooth_maximum,
)
from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import GemmSet

OUTPUT_BYTES = 2.0
"""The result is 16 bits wide whatever the operands are."""

TILES = (
    (256, 128), (128, 256), (128, 128), (256, 64), (64, 256),
    (128, 64), (64, 128), (64, 64), (64, 32), (64, 16),
)  # fmt: skip
"""Rows and columns of C that one core computes at a time."""

FP4_TILES = ((256, 256), (256, 128), (128, 256), (128, 128))
"""Block-scaled 4-bit matrix instructions take no fewer than 128 rows; two cores may pair up."""

LARGEST_TILE = 256 * 128

SPLITS = (1, 2, 3, 4, 6, 8, 16)
"""Parts of k that run side by side; their partial sums are added afterwards."""

STEP_BITS = 1024
"""Bits of k in one step of a tile's main loop (64 elements of bf16, 128 of fp8)."""

SMOOTHNESS = 3.0
"""Exponent of the smooth maximum; free, it fits between 2.4 (A100) and 4 (H100) to no gain."""

BLOCK = 512
"""Products whose menus are compared at a time, so that they stay in the processor's cache."""

HEAT_TIME = 3e-3
"""Length of a kernel [s] at which half of the power limit's slowdown shows; fits give 3-10 ms."""


def gemm(
    device: Accelerator,
    dtype: str,
    m: Seconds,
    n: Seconds,
    k: Seconds,
    library: str | None = None,
    weight_bytes: float | None = None,
) -> Seconds:
    """Time of C[m,n] = A[m,k] B[k,n] on a device [s]; see ``gemm_time``."""
    kernel = parameters(device, "gemm", dtype, library)
    return gemm_time(kernel, device, dtype, m, n, k, weight_bytes)


@term(
    "launch + q m k / W + (T^3 + (s (m k + k n) + 2 m n)^3 / (b W)^3)^(1/3)",
    Ref("Stream-K, arXiv 2301.03598", "section 2; fitted to aiconfigurator-core 0.12.0 tables"),
)
def gemm_time(
    kernel: GemmSet,
    device: Accelerator,
    dtype: str,
    m: Seconds,
    n: Seconds,
    k: Seconds,
    weight_bytes: float | None = None,
) -> Seconds:
    """Time of C[m,n] = A[m,k] B[k,n] with a 16-bit result [s]; m, n, k broadcast to ``(n,)``.

    ``weight_bytes`` of an element of B differ from A's in weight-only quantisation.

    t = launch + quantise m k / W + (T^3 + (B / (memory W))^3)^(1/3), with
    T = c (1 + heat c / (c + 3 ms)) of the tiles' time c (``on_chip``), B = s (m k + n k) + 2 m n
    with s bytes an operand element.

    Grows with m, n and k.  Small products take launch + tile; large ones approach the rate
    compute P / (1 + heat), with P the dense peak.  Operands come from memory, not from cache.

    Limits: alignment is not modelled (a library may take another kernel when m, n or k is no
    multiple of 8 or 128), and neither are host-bound launches.
    """
    m, n, k = (np.asarray(part, dtype=float) for part in (m, n, k))
    tiles = on_chip(kernel, device, dtype, m, n, k)
    tiles = tiles * (1.0 + kernel.heat * tiles / (tiles + HEAT_TIME))
    size = OPERAND_BYTES[dtype]
    weight = size if weight_bytes is None else weight_bytes
    nbytes = size * m * k + weight * n * k + OUTPUT_BYTES * m * n
    traffic = nbytes / (kernel.memory * device.memory_bandwidth)
    joint = smooth_maximum(tiles, traffic, SMOOTHNESS)
    return kernel.launch + kernel.quantise * m * k / device.memory_bandwidth + joint


def on_chip(
    kernel: GemmSet,
    device: Accelerator,
    dtype: str,
    m: NDArray[np.float64],
    n: NDArray[np.float64],
    k: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Time of the tiles with all data in cache, the fastest of the menu [s].

    t = w (i c + tile a) + [split + 2 m n p / W], minimised over tiles and parts p, with
    a = tm tn / (256 128), i = ceil(k / p in steps), x = ceil(m / tm) ceil(n / tn) p / cores,
    c = max(2 tm tn step / (compute a^small_tile P), step (tm + tn) s / (cache W)) x cores and
    w = max(1, x + wave (ceil(x) - x)).
    """
    shape = np.broadcast_shapes(m.shape, n.shape, k.shape)
    m, n, k = (np.broadcast_to(part, shape).ravel() for part in (m, n, k))
    found = np.empty(m.size)
    for start in range(0, m.size, BLOCK):
        here = slice(start, start + BLOCK)
        found[here] = _fastest(kernel, device, dtype, m[here], n[here], k[here])
    return found.reshape(shape)


def _fastest(
    kernel: GemmSet,
    device: Accelerator,
    dtype: str,
    m: NDArray[np.float64],
    n: NDArray[np.float64],
    k: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The least time over tiles and parts, the two leading axes of the arrays."""
    tiles = np.array(FP4_TILES if dtype == "nvfp4" else TILES, dtype=float)
    rows, columns = tiles.T[:, :, np.newaxis]
    parts = np.array(SPLITS, dtype=float)[:, np.newaxis]
    area = rows * columns / LARGEST_TILE
    step = STEP_BITS / OPERAND_BITS[dtype]
    rate = kernel.compute * peak(device, dtype) / device.cores * area**kernel.small_tile
    load = kernel.cache * device.memory_bandwidth / device.cores
    loop = np.maximum(
        2.0 * rows * columns * step / rate, step * (rows + columns) * OPERAND_BYTES[dtype] / load
    )
    share = np.ceil(m / rows) * np.ceil(n / columns) / device.cores
    rounds = share[:, np.newaxis] * parts
    rounds += kernel.wave * (np.ceil(rounds) - rounds)
    np.maximum(rounds, 1.0, out=rounds)
    times = np.ceil(k / (step * parts)) * loop[:, np.newaxis]
    times += (kernel.tile * area)[:, np.newaxis]
    times *= rounds
    sums = OUTPUT_BYTES * m * n / device.memory_bandwidth
    times += np.where(parts > 1.0, kernel.split + parts * sums, 0.0)
    return np.asarray(times.min(axis=(0, 1)))
