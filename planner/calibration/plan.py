"""Which shapes a calibration measures: few, spread over what language models run.

Every list covers small shapes, where the launch counts, shapes bound by memory and shapes bound by
compute, so that each parameter of the closed forms is seen by several rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

Shape = dict[str, int]

_ROWS = (1, 4, 16, 48, 128, 320, 768, 2048, 4096, 8192, 16384)
_WEIGHTS = (
    (512, 7168), (1536, 1536), (2048, 1024), (2560, 8192), (4096, 4096), (5120, 5120),
    (6144, 2048), (7168, 2048), (8192, 3584), (8192, 8192), (14336, 4096), (28672, 8192),
)  # fmt: skip
_HEADS = ((32, 8, 128), (64, 8, 128), (8, 1, 128), (16, 16, 128), (32, 4, 64))
_EXPERTS = (
    (2048, 768, 8, 128), (2880, 2880, 4, 32), (4096, 1536, 8, 128), (4096, 14336, 2, 8),
    (7168, 2048, 8, 256),
)  # fmt: skip

MEMORY_LIMIT = 24e9
"""Bytes of operands of one measurement; larger shapes are left out."""


def gemm() -> Iterator[Shape]:
    """C[m,n] = A[m,k] B[k,n]: few to many rows against the weights of common layers."""
    for m, (n, k) in product(_ROWS, _WEIGHTS):
        yield {"m": m, "n": n, "k": k}


def attention_prefill() -> Iterator[Shape]:
    """Causal attention over whole prompts."""
    for (heads, kv_heads, head_dim), batch, query_len in product(
        _HEADS, (1, 4, 16), (128, 512, 1024, 2048, 4096, 8192)
    ):
        if batch * query_len <= 65536:
            yield {
                "batch": batch,
                "query_len": query_len,
                "cached_len": 0,
                "heads": heads,
                "kv_heads": kv_heads,
                "head_dim": head_dim,
            }


def attention_decode() -> Iterator[Shape]:
    """One new token for every sequence of a batch."""
    for (heads, kv_heads, head_dim), batch, kv_len in product(
        _HEADS, (1, 8, 32, 128, 512), (64, 512, 2048, 8192, 32768)
    ):
        if 4.0 * batch * kv_len * kv_heads * head_dim <= MEMORY_LIMIT:
            yield {
                "batch": batch,
                "kv_len": kv_len,
                "heads": heads,
                "kv_heads": kv_heads,
                "head_dim": head_dim,
            }


def moe() -> Iterator[Shape]:
    """The experts of one rank of a balanced layer; ``tokens`` are those of all its ranks."""
    for (hidden, width, topk, experts), ep, tokens in product(
        _EXPERTS, (1, 8), (1, 8, 64, 512, 2048, 8192, 32768)
    ):
        local = experts // ep
        if 6.0 * local * hidden * width <= MEMORY_LIMIT:
            yield {
                "tokens": tokens,
                "hidden": hidden,
                "expert_width": width,
                "topk": topk,
                "experts": experts,
                "moe_tp": 1,
                "ep": ep,
            }


def memory() -> Iterator[Shape]:
    """An elementwise kernel that reads and writes ``bytes`` in all."""
    for power in range(12, 33):
        yield {"bytes": 2**power}


def collectives() -> Iterator[int]:
    """Buffer sizes [B]."""
    for power in range(10, 30):
        yield 2**power
