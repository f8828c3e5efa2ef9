"""Time of a rank's experts: permute, grouped products, activation, weighted sum.

Every expert with a row is a product of its own, cut into tiles of 16, 64 or 128 rows; the library
takes about the fastest.  All tiles of a product run together over the cores.  Few rows are bound by
the weights of the experts that have any, many by the matrix units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.kernels.rates import OPERAND_BYTES, parameters, peak, smooth_maximum
from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import ExpertSet

ROW_TILES = (16.0, 64.0, 128.0)
COLUMN_TILE = 128.0


def experts(
    device: Accelerator,
    dtype: str,
    rows: Seconds,
    active: Seconds,
    local: Seconds,
    hidden: Seconds,
    width: Seconds,
    matrices: Seconds,
    all_rows: Seconds = 0.0,
    permute: bool = True,
    library: str | None = None,
    weight_bytes: float | None = None,
) -> Seconds:
    """Time of a rank's experts on a device [s]; see ``experts_time``."""
    kernel = parameters(device, "experts", dtype, library)
    shape = (rows, active, local, hidden, width, matrices, all_rows)
    return experts_time(kernel, device, dtype, *shape, permute=permute, weight_bytes=weight_bytes)


@term(
    "launch + e E/16 + moved + (T^p + (B / (b W))^p)^(1/p), T the fastest of three tiles",
    Ref("MegaBlocks, arXiv 2211.15841", "section 5; fitted to aiconfigurator-core 0.12.0 tables"),
)
def experts_time(
    kernel: ExpertSet,
    device: Accelerator,
    dtype: str,
    rows: Seconds,
    active: Seconds,
    local: Seconds,
    hidden: Seconds,
    width: Seconds,
    matrices: Seconds,
    all_rows: Seconds = 0.0,
    permute: bool = True,
    weight_bytes: float | None = None,
) -> Seconds:
    """Time of the feed-forward of all local experts [s]; shapes broadcast to ``(n,)``.

    Parameters
    ----------
    rows : float or (n,)
        Token copies that arrive, over all local experts.
    active, local : float or (n,)
        Local experts with at least one row, whose weights are read once, and all local ones.
    width : float or (n,)
        Width of one expert on this rank.
    matrices : float or (n,)
        3 for gated experts, else 2.
    all_rows : float or (n,)
        Token copies over all ranks that libraries without a dispatch pass over on every rank.
    permute : bool
        Whether the rows are brought into the experts' order and back here.
    weight_bytes : float
        Of an element of the weights, where it differs from the rows' (weight-only quantisation).

    B = M active s hidden width + rows ((2 s + 2) hidden + (M + 1) 2 width).

    Limits: rows are taken to be equal over the active experts of a rank.
    """
    rows, active, width = (np.asarray(part, dtype=float) for part in (rows, active, width))
    size, bandwidth = OPERAND_BYTES[dtype], device.memory_bandwidth
    rate = kernel.compute * peak(device, dtype) / device.cores
    load = kernel.cache * bandwidth / device.cores
    share = np.maximum(rows / np.maximum(active, 1e-9), 1.0)

    def product(tile: float, columns: Seconds, depth: Seconds) -> NDArray[np.float64]:
        tiles = np.ceil(share / tile) * active * np.ceil(np.asarray(columns) / COLUMN_TILE)
        step = max(
            2.0 * tile * COLUMN_TILE / (rate * (tile / 128.0) ** kernel.small_tile),
            (tile + COLUMN_TILE) * size / load,
        )
        waves = np.maximum(1.0, tiles / device.cores)
        return np.asarray(waves * (step * np.asarray(depth) + kernel.tile))

    fastest = np.minimum.reduce(
        [
            product(tile, (matrices - 1.0) * width, hidden) + product(tile, hidden, width)
            for tile in ROW_TILES
        ]
    )
    weight = size if weight_bytes is None else weight_bytes
    nbytes = matrices * active * weight * hidden * width
    nbytes = nbytes + rows * ((2.0 * size + 2.0) * hidden + (matrices + 1.0) * 2.0 * width)
    both = smooth_maximum(fastest, nbytes / (kernel.memory * bandwidth), kernel.smoothness)
    moved = kernel.moved * 6.0 * rows * hidden + kernel.passed * 2.0 * all_rows * (hidden + width)
    start = kernel.launch + kernel.expert * np.asarray(local) / 16.0
    return start + both + (moved / bandwidth if permute else 0.0)
