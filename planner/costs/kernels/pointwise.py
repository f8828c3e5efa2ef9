"""Kernels bound by memory: norms, activations, copies, permutations, optimizer updates."""

from __future__ import annotations

from planner.costs.kernels.rates import parameters
from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.specs.hardware import Accelerator


@term(
    "launch + B / (b W)",
    Ref("aiconfigurator-core 0.12.0 system files", "memory-bound operations"),
)
def elementwise(device: Accelerator, nbytes: Seconds, kernels: float = 1.0) -> Seconds:
    """Time of ``kernels`` memory-bound kernels that move ``nbytes`` in all [s]."""
    kernel = parameters(device, "elementwise", "bf16")
    rate = kernel.memory * device.memory_bandwidth
    seconds: Seconds = kernels * kernel.launch + nbytes / rate
    return seconds
