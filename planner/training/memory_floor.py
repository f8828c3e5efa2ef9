"""A lower bound of memory, to drop rows before they are combined with schedules and ZeRO stages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs import memory
from planner.layers.part import Array, Setting
from planner.specs.model import ModelSpec
from planner.training.columns import Columns, Rows
from planner.training.pipeline import added
from planner.training.stages import distinct_layers


@dataclass(frozen=True)
class MemoryFloor:
    """Sums over the whole model that bound a device's memory from below, arrays ``(n,)``."""

    parameters: Array
    expert_parameters: Array
    kept: Array
    """Activation bytes of all layers for one micro-batch."""
    workspace: Array
    """Bytes of the leanest layer's backward pass, and what every device loses."""
    state_bytes: float
    global_batch: int

    @classmethod
    def of(cls, setting: Setting, model: ModelSpec, columns: Columns) -> MemoryFloor:
        """Add up the layers of the model once for all numbers of stages."""
        counts = [model.layers.count(layer) for layer in distinct_layers(model.layers)]
        pairs = list(zip(counts, columns.layers, strict=True))
        software = setting.job.software
        workspace = np.min([layer.workspace for layer in columns.layers], axis=0)
        return cls(
            added([n * layer.parameters for n, layer in pairs]),
            added([n * layer.expert_parameters for n, layer in pairs]),
            added([n * layer.kept for n, layer in pairs]),
            workspace + memory.FRAMEWORK_BYTES,
            software.weight_bytes + software.gradient_bytes + software.optimizer_bytes,
            setting.job.global_batch,
        )

    def least(self, rows: Rows, dp: NDArray[np.int64], p: int, devices: int) -> Array:
        """Bytes that some device needs at least, whatever the schedule and ZeRO stage.

        States are those of ZeRO stage 3, s_d on device d, S in all.  Of its layers' activations
        k_d, K in all, the device keeps f_d = min(m, p - d) micro-batches under 1F1B.  The largest
        s_d + f_d k_d is at least the mean with weights 1 / f_d, however the layers are spread:

        (sum s_d / f_d + K) / sum 1 / f_d >= (S / min(m, p) + K) / sum 1 / f_d

        Every other schedule keeps at least as many micro-batches on each device, or as many on all
        of them, with a smaller sum of 1 / f_d: p / 2 + 1 (V-Half), (p + 1) / 2 of two stages
        (DualPipe).
        """
        m = np.maximum(1, self.global_batch // (dp * rows.micro_batch))
        most = np.minimum(m, p)
        harmonic = np.cumsum(1.0 / np.arange(1, p + 1))[most - 1] + (p - most) / m
        experts = np.maximum(1, devices // (rows.ep * rows.etp * p))
        states = self.parameters / (dp * rows.cp) + self.expert_parameters / experts
        least: Array = (states * self.state_bytes / most + self.kept) / harmonic + self.workspace
        return least
