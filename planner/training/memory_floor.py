"""A lower bound of memory, to drop rows before they are combined with schedules and ZeRO stages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """Activation bytes of the leanest layer times the number of layers."""
    state_bytes: float
    global_batch: int

    @classmethod
    def of(cls, setting: Setting, model: ModelSpec, columns: Columns) -> MemoryFloor:
        """Add up the layers of the model once for all numbers of stages."""
        counts = [model.layers.count(layer) for layer in distinct_layers(model.layers)]
        pairs = list(zip(counts, columns.layers, strict=True))
        software = setting.job.software
        return cls(
            added([n * layer.parameters for n, layer in pairs]),
            added([n * layer.expert_parameters for n, layer in pairs]),
            model.num_layers * np.min([layer.kept for layer in columns.layers], axis=0),
            software.weight_bytes + software.gradient_bytes + software.optimizer_bytes,
            setting.job.global_batch,
        )

    def least(self, rows: Rows, dp: NDArray[np.int64], p: int, devices: int) -> Array:
        """Bytes that some device needs at least, whatever the schedule and ZeRO stage.

        States: the mean over devices under ZeRO stage 3.  Activations: the first device with
        layers (0, or 1 where the end has none) holds at least half its even share of them
        (``floor(x) >= x / 2``), and every schedule keeps at least ``min(m, p) / 2`` micro-batches
        there.
        """
        experts = np.maximum(1, devices // (rows.ep * rows.etp * p))
        states = self.parameters / (dp * rows.cp) + self.expert_parameters / experts
        in_flight = np.minimum(p, self.global_batch / (dp * rows.micro_batch)) / 2.0
        least: Array = states * self.state_bytes / p + self.kept / (2.0 * p) * in_flight
        return least
