"""What every kernel form needs: the peak of a datatype, sizes, and the set of a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.errors import PlannerError
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import KernelSet

OPERAND_BITS = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "fp8_block": 8,
    "int8": 8,
    "mxfp8": 8,
    "nvfp4": 4,
    "mxfp4": 4,
    "int4": 4,
}

OPERAND_BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp8_block": 1.0 + 4.0 / 128.0,
    "mxfp8": 1.0 + 1.0 / 32.0,
    "nvfp4": 0.5 + 1.0 / 16.0,
    "mxfp4": 0.5 + 1.0 / 32.0,
    "int4": 0.5 + 2.0 / 128.0,
}
"""Bytes of one operand element with its share of the scales (one fp32 per 128, one e8m0 per 32,
one e4m3 per 16, one bf16 per 128 of int4)."""

_WIDER = {
    "nvfp4": "mxfp8",
    "mxfp8": "fp8_block",
    "fp8_block": "fp8",
    "int8": "fp8",
    "fp8": "bf16",
    "fp16": "bf16",
    "fp32": "bf16",
}
_PEAK = {"mxfp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}

TABLES = Ref("aiconfigurator-core 0.12.0 measured tables (Apache-2.0)", "gemm, attention, moe")


def peak(device: Accelerator, dtype: str) -> float:
    """Dense peak of a datatype [FLOP/s]; an error when the device does not have it."""
    name = _PEAK.get(dtype, dtype)
    if name not in device.peak:
        have = ", ".join(sorted(device.peak))
        raise PlannerError(f"{device.name} has no {name} matrix units; it has {have}.")
    return device.peak[name]


def parameters(device: Accelerator, family: str, dtype: str, library: str | None = None) -> Any:
    """The parameter set of a kernel family on a device.

    Without a library, that of the first library that has the datatype, which is the user's own
    calibration where there is one.  A datatype that no library has takes the next wider one.

    Raises
    ------
    PlannerError
        If the device has no set of the family, or none of that library.
    """
    libraries: Mapping[str, Mapping[str, KernelSet]] = device.kernels.get(family, {})
    if library is not None:
        if library not in libraries:
            have = ", ".join(libraries) or "none"
            raise PlannerError(
                f"{device.name} has no {family} kernels of {library}; it has those of: {have}."
            )
        libraries = {library: libraries[library]}
    wanted: str | None = dtype
    while wanted is not None:
        for sets in libraries.values():
            if wanted in sets:
                return sets[wanted]
        wanted = _WIDER.get(wanted)
    raise PlannerError(f"{device.name} has no {family} kernels for {dtype}.")


def smooth_maximum(a: Seconds, b: Seconds, exponent: Seconds) -> Seconds:
    """(a^p + b^p)^(1/p) for positive times [s]: the maximum for large p, the sum for p = 1."""
    longer, shorter = np.maximum(a, b), np.minimum(a, b)
    ratio = shorter / np.maximum(longer, 1e-30)
    joint: Seconds = longer * (1.0 + ratio**exponent) ** (1.0 / exponent)
    return joint


@term(
    "launch + ((F/(e P))^2 + (B/(b W))^2)^(1/2)",
    Ref("Williams, Waterman, Patterson 2009, CACM 52(4)", "roofline, with a smooth maximum"),
)
def roofline(
    device: Accelerator, kernel: Any, dtype: str, flops: Seconds, nbytes: Seconds
) -> Seconds:
    """Time of a kernel without a form of its own [s], at the efficiencies of a set.

    ``kernel`` has ``launch`` [s], ``compute`` and ``memory``; ``flops`` in FLOP, ``nbytes`` in B.
    """
    compute = flops / (kernel.compute * peak(device, dtype))
    memory = nbytes / (kernel.memory * device.memory_bandwidth)
    seconds: Seconds = kernel.launch + smooth_maximum(compute, memory, 2.0)
    return seconds


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

    def limited(kernel: Any, dtype: str) -> Any:
        dtype = dtype.partition("-")[0]
        if not hasattr(kernel, "compute") or _PEAK.get(dtype, dtype) not in device.peak:
            return kernel
        most = limit * 16.0 / OPERAND_BITS[dtype] / peak(device, dtype)
        if hasattr(kernel, "heat"):  # a step is long enough to be hot throughout
            slower = 1.0 + kernel.heat
            return replace(
                kernel,
                compute=min(kernel.compute / slower, most),
                cache=kernel.cache / slower,
                tile=kernel.tile * slower,
                heat=0.0,
            )
        return replace(kernel, compute=min(kernel.compute, most))

    kernels = {
        family: {
            library: {dtype: limited(kernel, dtype) for dtype, kernel in sets.items()}
            for library, sets in libraries.items()
        }
        for family, libraries in device.kernels.items()
    }
    return replace(device, kernels=kernels)
