"""Time of fused attention over many query tokens: causal tiles, one a core at a time.

A tile takes up to 128 query rows through all keys that they see, whole tiles counted.  The mean
core's work and the longest tile's decide together; beside them runs the traffic to memory.  A
library with small tiles takes the fastest; one that packs lets the query heads of a KV head share
a tile, which counts when sequences are short.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.kernels.rates import parameters, peak, smooth_maximum
from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import PrefillSet

Array = NDArray[np.float64]

QUERY_TILES = (16.0, 64.0, 128.0)
KEY_TILE = 128.0
"""Width of a tile of keys, of which at least half is computed."""


@term(
    "keys of a tile: causal C + (i tq); window w: at most w + edge; mean over tiles i",
    Ref("FlashAttention-2, arXiv 2307.08691", "section 3.1"),
)
def seen_keys(
    queries: Seconds, cached: Seconds, rows: Seconds, reach: Seconds
) -> tuple[Array, Array]:
    """Mean and largest number of keys over the query tiles of a causal sequence.

    Parameters
    ----------
    queries, cached : float or (n,)
        New tokens of the sequence, and those before them in the cache.
    rows : float or (n,)
        Query tokens of a tile.
    reach : float or (n,)
        Most keys that a tile sees: infinite without a sliding window.
    """
    tiles = np.ceil(np.asarray(queries) / rows)
    room = np.maximum(np.asarray(reach) - cached, 0.0)
    growing = np.clip(np.floor(np.minimum(room, tiles * rows) / rows), 0.0, tiles)
    full = growing * cached + rows * growing * (growing + 1.0) / 2.0
    limited = np.where(growing < tiles, np.minimum(reach, cached + tiles * rows), 0.0)
    mean = (full + (tiles - growing) * limited) / tiles
    return mean, np.minimum(cached + tiles * rows, reach)


def prefill_attention(
    device: Accelerator,
    dtype: str,
    batch: Seconds,
    queries: Seconds,
    heads: Seconds,
    kv_heads: Seconds,
    key_dim: Seconds,
    value_dim: Seconds,
    *,
    cached: Seconds = 0.0,
    window: Seconds = np.inf,
    causal: bool = True,
    kv_bytes: Seconds = 2.0,
    passes: float = 1.0,
    library: str | None = None,
    family: str = "attention_prefill",
) -> Seconds:
    """Time of fused attention on a device [s]; see ``prefill_time``."""
    kernel = parameters(device, family, dtype, library)
    shape = (batch, queries, heads, kv_heads, key_dim, value_dim)
    return prefill_time(kernel, device, dtype, *shape, cached, window, causal, kv_bytes, passes)


@term(
    "launch + ((W^b + L^b)^(q/b) + (B / (b W))^q)^(1/q)",
    Ref("FlashAttention-2, arXiv 2307.08691", "section 3; fitted to aiconfigurator-core 0.12.0"),
)
def prefill_time(
    kernel: PrefillSet,
    device: Accelerator,
    dtype: str,
    batch: Seconds,
    queries: Seconds,
    heads: Seconds,
    kv_heads: Seconds,
    key_dim: Seconds,
    value_dim: Seconds,
    cached: Seconds = 0.0,
    window: Seconds = np.inf,
    causal: bool = True,
    kv_bytes: Seconds = 2.0,
    passes: float = 1.0,
) -> Seconds:
    """Time of a fused attention kernel [s]; all shapes broadcast to ``(n,)``.

    With tq query rows a tile, n tiles, K keys of the mean tile, r = compute P / cores for heads of
    128 and tiles of 128 rows:

    W = n 2 tq K (key_dim + value_dim) / (r cores)    (all cores' mean work)
    L = 2 tq K_last (key_dim + value_dim) / r         (the longest tile)
    and tile n / cores after them, the starts and stores of the tiles;
    B = queries, outputs, keys and values read once, new keys and values written

    Parameters
    ----------
    dtype : str
        Of the products, after a dash the cache's where it differs: ``bf16-fp8``.
    cached : float or (n,)
        Tokens of the sequence that are in the cache already.
    window : float or (n,)
        Tokens that a query sees at most; infinite or 0 for all.
    passes : float
        Work relative to the forward pass's two products, at the forward pass's rate.

    Limits: equal lengths in a batch; more than 20,000 tokens are extrapolated by the rate.
    """
    matrix = dtype.partition("-")[0]
    batch, queries, heads, kv_heads, cached = (
        np.asarray(part, dtype=float) for part in (batch, queries, heads, kv_heads, cached)
    )
    widths = np.asarray(key_dim, dtype=float) + value_dim
    narrow, wide = np.minimum(1.0, widths / 256.0), np.minimum(1.0, 256.0 / widths)
    shaped = narrow**kernel.narrow * wide**kernel.wide / passes
    rate = kernel.compute * peak(device, matrix) / device.cores * shaped
    limit = np.where((np.asarray(window) > 0) & np.isfinite(window), window + kernel.edge, np.inf)
    group = heads / kv_heads if kernel.packs == "yes" else np.ones_like(heads / kv_heads)
    best = np.full(np.broadcast_shapes(batch.shape, queries.shape, widths.shape), np.inf)
    for rows in QUERY_TILES:
        tiles = batch * (heads / group) * np.ceil(queries * group / rows)
        if causal:
            mean, longest = seen_keys(queries, cached, rows, limit)
        else:
            mean = longest = queries + cached
        one = 2.0 * rows * widths / rate * (128.0 / rows) ** kernel.small_tile
        mean, longest = (np.maximum(keys, KEY_TILE / 2.0) * one for keys in (mean, longest))
        work = smooth_maximum(tiles * mean / device.cores, longest, kernel.balance)
        best = np.minimum(best, work + kernel.tile * tiles / device.cores)
    size = 1.0 if matrix == "fp8" else 2.0
    nbytes = batch * queries * heads * widths * (size + 2.0) / 2.0
    nbytes = nbytes + batch * (queries + cached) * kv_heads * widths * size
    nbytes = passes * (nbytes + batch * queries * kv_heads * widths * kv_bytes)
    memory = nbytes / (kernel.memory * device.memory_bandwidth)
    return kernel.launch + smooth_maximum(best, memory, kernel.smoothness)
