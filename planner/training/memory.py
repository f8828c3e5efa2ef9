"""The memory of a pipeline's devices: states under ZeRO, activations in flight, workspace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.costs import memory
from planner.costs.tree import Seconds
from planner.layers.part import Array, Setting
from planner.training.pipeline import Held, largest
from planner.training.spread import Spread


@dataclass(frozen=True)
class Memory:
    """Bytes on the device of the pipeline that needs most, by kind, arrays ``(n,)``."""

    weights: Array
    gradients: Array
    optimizer: Array
    activations: Array
    workspace: Array
    overhead: Array

    @property
    def total(self) -> Array:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.workspace
            + self.overhead
        )


def _state_bytes(setting: Setting, where: Spread, zero: int) -> list[tuple[Seconds, ...]]:
    """Bytes a parameter by kind of state, for dense and for expert parameters."""
    software = setting.job.software
    sizes = (software.weight_bytes, software.gradient_bytes, software.optimizer_bytes)
    return [
        memory.state_bytes(shards, zero, *sizes) for shards in (where.shards, where.expert_shards)
    ]


def device_memory(setting: Setting, where: Spread, zero: int, stage: Held) -> Memory:
    """Peak bytes on one device of the pipeline, by kind."""
    dense, experts = _state_bytes(setting, where, zero)
    weights, gradients, optimizer = (
        stage.parameters * d + stage.expert_parameters * e
        for d, e in zip(dense, experts, strict=True)
    )
    workspace = stage.workspace
    if zero == 3:
        workspace = workspace + unsharded_bytes(setting, stage)
    overhead = np.full_like(stage.activations, memory.FRAMEWORK_BYTES)
    return Memory(weights, gradients, optimizer, stage.activations, workspace, overhead)


def unsharded_bytes(setting: Setting, stage: Held) -> Array:
    """Gathered weights and unreduced gradients of the layer in work and the next [B]."""
    whole = stage.parameters + stage.expert_parameters
    layers = max(1, sum(stage.device.layers))
    return 2.0 * (2.0 + setting.job.software.gradient_bytes) * whole / layers


def worst_memory(setting: Setting, where: Spread, zero: int, stages: list[Held]) -> Array:
    """Peak bytes of the device that needs most, the quantity that must fit.

    The same sum as ``device_memory``, kinds added up first.
    """
    dense, experts = (sum(kinds) for kinds in _state_bytes(setting, where, zero))
    needs = []
    for stage in stages:
        total = stage.unsharded + stage.parameters * dense + stage.expert_parameters * experts
        needs.append(total + unsharded_bytes(setting, stage) if zero == 3 else total)
    return largest(needs)
