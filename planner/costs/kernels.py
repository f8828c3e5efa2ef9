"""Time of one operator on one device: the smooth maximum of compute and memory time.

Parameters come from the device's measured block, one set per kernel family and datatype.  A
datatype without parameters of its own takes those of the next wider one, and so does its error.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.errors import PlannerError
from planner.specs.hardware import Accelerator, SmoothRoofline

ELEMENT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.03, "mxfp8": 1.03, "nvfp4": 0.5625}
"""Bytes of one operand element with its share of the scales (one fp32 per 128, one e8m0 per 32,
one e4m3 per 16)."""

OPERAND_BITS = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "fp8_block": 8,
    "int8": 8,
    "mxfp8": 8,
    "nvfp4": 4,
}

ATTENTION_TILE = 128
"""Rows of a causal tile: the diagonal tiles are computed whole."""

_WIDER = {"nvfp4": "mxfp8", "mxfp8": "fp8", "fp8": "bf16", "fp16": "bf16", "fp32": "bf16"}
_PEAK = {"mxfp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}

TABLES = Ref("aiconfigurator-core 0.12.0 measured tables (Apache-2.0)", "gemm, attention, moe")


def peak(device: Accelerator, dtype: str) -> float:
    """Dense peak of a datatype [FLOP/s]; an error when the device does not have it."""
    name = _PEAK.get(dtype, dtype)
    if name not in device.peak:
        have = ", ".join(sorted(device.peak))
        raise PlannerError(f"{device.name} has no {name} matrix units; it has {have}.")
    return device.peak[name]


SUSTAINED_FLOPS_PER_WATT = 1.1e12
"""16-bit FLOP/s for each watt of the power limit that matrix units hold for hours.

Median of 140 long GEMMs on a 1,000 W B200 in SimuMax's system file (configs/system/
b200_bf16_ceperm.json, Apache-2.0): 0.49 of 2,250 TFLOP/s, where a short benchmark reaches 0.67.
The H100's best 0.78 of 989 TFLOP/s at 700 W is the same 1.1.  Older chips stay below it."""


@term(
    "rate <= 1.1 TFLOP/s per W x 16 / bits",
    Ref("MooreThreads/SimuMax", "configs/system/b200_bf16_ceperm.json"),
)
def sustained(device: Accelerator) -> Accelerator:
    """The device as it runs for hours: compute efficiencies limited by its power.

    A training step keeps the matrix units busy without pause, so a chip at its power limit lowers
    its clock below that of a short benchmark.
    """
    if device.power is None:
        return device
    limit = SUSTAINED_FLOPS_PER_WATT * device.power

    def limited(kernel: SmoothRoofline, dtype: str) -> SmoothRoofline:
        if _PEAK.get(dtype, dtype) not in device.peak:  # borrowed from a relative that has it
            return kernel
        rate = limit * 16.0 / OPERAND_BITS[dtype]
        return replace(kernel, compute=min(kernel.compute, rate / peak(device, dtype)))

    kernels = {
        family: (
            table
            if family == "elementwise"
            else {dtype: limited(kernel, dtype) for dtype, kernel in table.items()}
        )
        for family, table in device.kernels.items()
    }
    return replace(device, kernels=kernels)


def parameters(device: Accelerator, family: str, dtype: str) -> SmoothRoofline:
    """The fitted parameters of a kernel family, from the nearest datatype that was measured."""
    table = device.kernels[family]
    while dtype not in table:
        dtype = _WIDER[dtype]
    return table[dtype]


@term(
    "launch + ((F/(e P))^p + (B/(b W))^p)^(1/p)",
    Ref("Williams, Waterman, Patterson 2009, CACM 52(4)", "roofline; the smooth maximum is fitted"),
)
def smooth_roofline(
    device: Accelerator, kernel: SmoothRoofline, dtype: str, flops: Seconds, nbytes: Seconds
) -> Seconds:
    """launch + ((F/(e P))^p + (B/(b W))^p)^(1/p) [s] for ``flops`` [FLOP] and ``nbytes`` [B]."""
    compute = flops / (kernel.compute * peak(device, dtype))
    memory = nbytes / (kernel.memory * device.memory_bandwidth)
    longer = np.maximum(compute, memory)
    shorter = np.minimum(compute, memory)
    ratio = shorter / np.maximum(longer, 1e-30)
    return kernel.launch + longer * (1.0 + ratio**kernel.smoothness) ** (1.0 / kernel.smoothness)


@term("F = 2 m n k; B = s (m k + n k) + 2 m n", TABLES)
def gemm(device: Accelerator, dtype: str, m: Seconds, n: Seconds, k: Seconds) -> Seconds:
    """Time of C[m,n] = A[m,k] B[k,n] with a 16-bit result [s]; m, n, k broadcast to ``(n,)``."""
    size = ELEMENT_BYTES[dtype]
    nbytes = size * (m * k + n * k) + 2.0 * m * n
    kernel = parameters(device, "gemm", dtype)
    return smooth_roofline(device, kernel, dtype, 2.0 * m * n * k, nbytes)


@term("F = 2 M r h f; B = M s E h f + r (2 s h + (M + 1) 2 f + 2 h)", TABLES)
def expert_feedforward(
    device: Accelerator,
    dtype: str,
    rows: Seconds,
    experts: Seconds,
    hidden: int,
    width: Seconds,
    matrices: int,
) -> Seconds:
    """Time of all local experts' feed-forward: the grouped GEMMs and the activation between [s].

    Parameters
    ----------
    rows : float or (n,)
        Token copies that arrive, over all local experts.
    experts : float or (n,)
        Local experts with at least one row; their weights are read once.
    width : float or (n,)
        Width of one expert on this device.
    matrices : int
        3 for gated experts, else 2.
    """
    size = ELEMENT_BYTES[dtype]
    flops = 2.0 * matrices * rows * hidden * width
    nbytes = matrices * size * experts * hidden * width
    nbytes = nbytes + rows * ((2.0 * size + 2.0) * hidden + (matrices + 1) * 2.0 * width)
    kernel = parameters(device, "grouped_gemm", dtype)
    return smooth_roofline(device, kernel, dtype, flops, nbytes)


@term(
    "F = 2 (d_qk + d_v) b h S A; B = 2 b S (h (d_qk + d_v) + k (d_qk + d_v))",
    Ref("FlashAttention-2, arXiv 2307.08691", "section 3.1; tiles: kernel tables"),
)
def attention(
    device: Accelerator,
    batch: Seconds,
    heads: Seconds,
    kv_heads: Seconds,
    queries: Seconds,
    attended: Seconds,
    key_dim: int,
    value_dim: int,
    passes: float = 1.0,
) -> Seconds:
    """Time of a fused attention kernel over ``queries`` tokens a sequence [s].

    Parameters
    ----------
    attended : float or (n,)
        Keys that an average query attends to, whole tiles counted (``attended_keys``).
    passes : float
        Work relative to the forward pass's two matrix products, at the forward pass's rate.
    """
    kernel = parameters(device, "attention", "bf16")
    width = key_dim + value_dim
    narrow = min(1.0, width / 256.0) ** kernel.head_dim_exponent
    flops = passes * 2.0 * width * batch * heads * queries * attended / narrow
    nbytes = passes * 2.0 * batch * queries * width * (heads + kv_heads)
    return smooth_roofline(device, kernel, "bf16", flops, nbytes)


@term("causal: (S + T) / 2; window w: w - w^2 / (2 S) + T / 2", TABLES)
def attended_keys(seq_len: Seconds, window: int | None, causal: bool = True) -> Seconds:
    """Keys that an average query attends to, with the diagonal tiles of T rows counted whole."""
    if not causal:
        return seq_len
    if window is None:
        return (seq_len + ATTENTION_TILE) / 2.0
    reach = np.minimum(window, seq_len)
    return reach - reach**2 / (2.0 * np.asarray(seq_len)) + ATTENTION_TILE / 2.0


@term("launch + B / (b W)", TABLES)
def elementwise(device: Accelerator, nbytes: Seconds, kernels: float = 1.0) -> Seconds:
    """Time of ``kernels`` memory-bound kernels that move ``nbytes`` in all [s]."""
    kernel = device.kernels["elementwise"]["bf16"]
    return kernels * kernel.launch + nbytes / (kernel.memory * device.memory_bandwidth)
