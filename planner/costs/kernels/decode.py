"""Time of attention with one query token a sequence, which reads the whole key-value cache.

A kernel cuts the batch into work items, one a sequence and KV head (or query head), and long
sequences into splits that are merged at the end.  An item costs a fixed time and a time a token;
beside the items runs the read of the cache from memory.  Which kernel runs and how often it splits
are the libraries' own documented rules, so that only costs are fitted.  The rules of a set's
``plan``:

xqa
    TensorRT-LLM's splits (decoderXQAImplCommon.h, computeMultiBlockCount).
fill
    Splits until every core has an item, of 256 tokens or more.
flash2
    The same, but a KV head is shared and split only for grouped queries without a window
    (flash_api.cpp, mha_varlen_fwd: seqlenq_ngroups_swapped; vLLM on A100 and L40S).
flash3
    ``fill`` with a scheduler that visits each of up to 992 sequences (hopper/flash_api.cpp).
whole
    No splits.
latent, latent_whole
    ``fill`` and ``whole`` for latent attention, whose values are part of its keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.kernels.rates import parameters, peak, smooth_maximum
from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import DecodeSet, OwnCacheSet, SharedCacheSet

Array = NDArray[np.float64]

WINDOW_TILE = 128
"""A sliding window starts inside a tile of this many tokens, which is read whole."""

ITEM_TOKENS = 64
"""Tokens that the smallest work item pays for: one tile."""

SCHEDULED = 992.0
"""Sequences that FlashAttention-3's scheduler visits one by one."""

MOST_SHARED = 32
"""Query heads a KV head that TensorRT-LLM's shared kernel serves at most."""


@dataclass(frozen=True)
class Decode:
    """Shapes of a decode attention, broadcast to ``(n,)``."""

    batch: Array
    kv_len: Array
    """Tokens in the cache of each sequence."""
    heads: Array
    kv_heads: Array
    key_dim: Array
    value_dim: Array
    kv_bytes: Array
    """Bytes of one cache element."""
    window: Array
    """Tokens a query sees at most; 0 is all."""

    @classmethod
    def of(
        cls,
        batch: Seconds,
        kv_len: Seconds,
        heads: Seconds,
        kv_heads: Seconds,
        key_dim: Seconds,
        value_dim: Seconds,
        kv_bytes: Seconds,
        window: Seconds = 0.0,
    ) -> Decode:
        """Bring all parts to one shape."""
        parts = (batch, kv_len, heads, kv_heads, key_dim, value_dim, kv_bytes, window)
        return cls(*np.broadcast_arrays(*(np.asarray(part, dtype=float) for part in parts)))

    @property
    def token_bytes(self) -> Array:
        """Keys and values of a token and KV head [B]."""
        return (self.key_dim + self.value_dim) * self.kv_bytes

    @property
    def in_and_out(self) -> Array:
        """Bytes of queries and outputs."""
        return 2.0 * self.batch * self.heads * (self.key_dim + self.value_dim)


def decode_attention(
    device: Accelerator, dtype: str, shape: Decode, library: str | None = None, latent: bool = False
) -> Seconds:
    """Time of one decode attention on a device [s]; ``dtype`` is the cache's.

    ``latent`` takes the kernels of latent attention, whose values are part of the keys.
    """
    family = "mla_decode" if latent else "attention_decode"
    return decode_time(parameters(device, family, dtype, library), device, shape)


@term(
    "launch + merge sqrt(s - 1) + sequence b + (items^p + (miss B / (b W))^p)^(1/p)",
    Ref(
        "FlashAttention, arXiv 2205.14135; Flash-Decoding",
        "split keys; fitted to aiconfigurator-core 0.12.0 tables",
    ),
)
def decode_time(kernel: DecodeSet, device: Accelerator, shape: Decode) -> Seconds:
    """Time of one decode attention [s].

    With s splits of L tokens, c items (splits) a core, w bytes of a token's keys and values, r
    padded query rows of an item, B bytes read, P and W the device's 16-bit peak and bandwidth:

    items = item max(1, c (1 + r key_dim / crowd) / slots)
            + cores max(1, c) max(L, 64) (2 r (key_dim + value_dim) / (compute P) + w / (stream W))
    miss = min(1, max(0, B / (cached L2) - 1))

    Limits: key_dim at most 256 (latent: 576); one query token; equal lengths in a batch.
    """
    together = _shared(kernel.shared, device, shape)
    if kernel.own is None:
        return together
    return np.where(shares_cache(kernel, device, shape), together, _own(kernel.own, device, shape))


def shares_cache(kernel: DecodeSet, device: Accelerator, shape: Decode) -> NDArray[np.bool_]:
    """Whether TensorRT-LLM takes the kernel that shares a KV head (decoderXQAImplJIT.cpp).

    It does for groups of ``least_group`` to 32 query heads whose blocks of 128 tokens are at least
    a quarter of ``cores_to_fill`` of the cores.
    """
    group = shape.heads / shape.kv_heads
    blocks = shape.kv_heads * shape.batch * np.maximum(1.0, (shape.kv_len - 1.0) // 128.0)
    fills = 4.0 * blocks >= kernel.cores_to_fill * device.cores
    return (group >= kernel.least_group) & (group <= MOST_SHARED) & fills


def _xqa_splits(kv_len: Array, items: Array, batch: Array, cores: int) -> Array:
    """128 tokens a split or more, about sqrt(8 x that), at most 8 waves of items.

    TensorRT-LLM, decoderXQAImplCommon.h, the count of blocks of a sequence.
    """
    splits = kv_len // 128.0
    splits = np.maximum(1.0, np.minimum(splits, np.round(np.sqrt(8.0 * splits))))
    waves = items * splits / (8.0 * cores)
    splits = np.maximum(1.0, np.floor(splits / np.maximum(1.0, waves)))
    return np.maximum(1.0, np.minimum(splits, 6000.0 // batch))


def _miss(nbytes: Array, device: Accelerator, cached: float) -> Array:
    """Part of the bytes that memory serves when a part of the L2 cache holds them already."""
    kept = max(cached * (device.l2_cache or 0.0), 1.0)
    return np.clip(nbytes / kept - 1.0, 0.0, 1.0)


def _items(k: SharedCacheSet, shape: Decode, cores: int) -> tuple[Array, Array, Array, Array]:
    """Work items, splits of each, splits that do work, and items whose heads are regrouped."""
    group, batch, kv_len = shape.heads / shape.kv_heads, shape.batch, shape.kv_len
    items = batch * shape.kv_heads * np.ceil(group / _tile(k))
    seen = _seen(k, shape)
    regrouped = np.zeros_like(items)
    if k.plan == "xqa":
        splits = _xqa_splits(kv_len, items, batch, cores)
        working = np.ceil(seen / (kv_len / splits))  # splits before the window leave at once
        return items, splits, working, regrouped
    splits = np.maximum(1.0, np.minimum(np.floor(cores / items), np.ceil(seen / 256.0)))
    if k.plan == "flash2":
        shared = (group > 1) & (shape.window == 0)
        regrouped = 1.0 * (shared & (batch > 1))
        items, splits = np.where(shared, items, batch * shape.heads), np.where(shared, splits, 1.0)
    if k.plan in ("whole", "latent_whole"):
        splits = np.ones_like(items)
    return items, splits, splits, regrouped


def _tile(k: SharedCacheSet) -> float:
    """Query rows that one work item serves at most."""
    return 32.0 if k.plan == "xqa" else 64.0


def _seen(k: SharedCacheSet, shape: Decode) -> Array:
    """Tokens that a query reads."""
    edge = 0.0 if k.plan in ("xqa", "whole") else WINDOW_TILE
    return np.where(shape.window > 0, np.minimum(shape.kv_len, shape.window + edge), shape.kv_len)


def _shared(k: SharedCacheSet, device: Accelerator, shape: Decode) -> Array:
    """Query heads of a KV head share one read of the cache."""
    cores, bandwidth = device.cores, device.memory_bandwidth
    latent = k.plan in ("latent", "latent_whole")
    rows = np.minimum(16.0 * np.ceil(shape.heads / shape.kv_heads / 16.0), _tile(k))
    if k.plan == "latent_whole":
        rows = np.full_like(rows, _tile(k))
    items, splits, working, regrouped = _items(k, shape, cores)
    seen = _seen(k, shape)
    key_pad, value_pad, width = shape.key_dim, shape.value_dim, shape.key_dim
    if not latent:
        key_pad, value_pad = 2.0 ** np.ceil(np.log2([shape.key_dim, shape.value_dim]))
        width = shape.key_dim + shape.value_dim
    token = 2.0 * rows * (key_pad + value_pad) / (k.compute * peak(device, "bf16"))
    token = (token + width * shape.kv_bytes / (k.stream * bandwidth)) * cores
    crowd = 1.0 + rows * key_pad / k.crowd
    work = k.item * np.maximum(1.0, items * splits * crowd / (cores * k.slots))
    tokens = np.maximum(seen / working, ITEM_TOKENS)
    work = work + np.maximum(1.0, items * working / cores) * tokens * token
    merged = (splits > 1) + regrouped if k.plan == "flash2" else np.sqrt(splits - 1.0)
    scheduled = np.minimum(shape.batch, SCHEDULED)
    if k.plan == "flash3":
        scheduled = shape.batch * (shape.batch <= SCHEDULED)
    nbytes = shape.batch * shape.kv_heads * seen * width * shape.kv_bytes + shape.in_and_out
    memory = nbytes * _miss(nbytes, device, k.cached) / (k.memory * bandwidth)
    start = k.launch + k.merge * merged + k.sequence * scheduled
    return np.asarray(start + smooth_maximum(work, memory, k.smoothness))


def _own(k: OwnCacheSet, device: Accelerator, shape: Decode) -> Array:
    """Every query head reads for itself, in blocks of 256, 512 or 1,024 threads.

    decoderMaskedMultiheadAttentionLaunch.h: larger blocks while heads do not fill the cores, then
    more blocks a head; whole waves of blocks.
    """
    cores, bandwidth = device.cores, device.memory_bandwidth
    window = shape.window
    seen = np.where(window > 0, np.minimum(shape.kv_len, window), shape.kv_len)
    items = shape.batch * shape.heads
    factor = np.ceil(4.0 * cores / items)
    resident = np.where(factor >= 4, 1.0, np.where(factor >= 2, 2.0, 4.0))
    loop = 64.0 * 1024.0 / resident / 2.0 ** np.ceil(np.log2(shape.key_dim))
    places = cores * resident
    splits = np.maximum(1.0, np.minimum(np.ceil(places / items), np.ceil((seen + 1.0) / loop)))
    block = k.item + seen / splits * shape.token_bytes * places / (k.stream * bandwidth)
    work = np.ceil(items * splits / places) * block
    nbytes = shape.batch * shape.kv_heads * seen * shape.token_bytes + shape.in_and_out
    memory = nbytes * _miss(nbytes, device, k.cached) / (k.memory * bandwidth)
    start = k.launch + k.merge * (splits > 1)
    return np.asarray(start + smooth_maximum(work, memory, k.smoothness))
