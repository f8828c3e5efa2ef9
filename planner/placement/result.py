"""A placement as its user gets it: the map, what it gains, what it costs, how sure it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.placement.certificate import Certificate
from planner.placement.export import export_text
from planner.placement.reads import Reads

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VERSION = 1


@dataclass(frozen=True)
class Drift:
    """What the placement is worth on another day."""

    deviation: float
    """Standard deviation of the logarithm of an expert's load from one day to the other."""
    measured: bool
    """From the windows of the record, or assumed."""
    balance: float
    """Busiest device over the mean, replicas sharing equally; mean over layers and days."""
    balance_split: float
    """The same where tokens split between replicas as is best for that day."""


@dataclass(frozen=True)
class LayerResult:
    """One layer."""

    layer: int
    balance_before: float
    balance_after: float
    bound: float
    gap: float
    most_replicas: int
    time_before_s: float | None
    time_after_s: float | None


@dataclass(frozen=True)
class Placement:
    """Experts on devices; balances are busiest device over the mean, averaged over layers."""

    slots: Ints = field(repr=False)
    """Expert of every slot, by device, shape (L, S)."""
    device: Ints = field(repr=False)
    """Device of every slot, shape (L, S)."""
    device_loads: Floats = field(repr=False)
    """Load of every device over the mean, shape (L, G)."""
    device_loads_before: Floats = field(repr=False)
    experts: int
    model_layers: int | None
    method: str
    """What made it: eplb, lpt, milp, affinity, unequal, kept (few changes to the current one)."""
    objective: str
    balance_before: float
    balance_after: float
    bound: float
    gap: float
    """Mean over layers of balance / bound - 1."""
    worst_gap: float
    by_layer: tuple[LayerResult, ...] = field(repr=False)
    layer_time_before_s: float | None
    layer_time_after_s: float | None
    reads: Reads | None
    """Experts that the busiest device reads in a decode step."""
    bytes_by_tier: Mapping[str, float] | None
    """What a device sends over each tier in one layer's dispatch [B]."""
    bytes_by_tier_before: Mapping[str, float] | None
    hops_before: float | None
    """Tiers that a token climbs from one layer to the next, where transitions are known."""
    hops_after: float | None
    local_before: float | None
    """Part of the steps between layers that stay on their device."""
    local_after: float | None
    moved_experts: int | None
    """Copies of an expert that devices have to fetch."""
    moved_bytes: float | None
    move_time_s: float | None
    drift: Drift
    rebalance_every_s: float | None
    """Time between two placements for the least loss, where a window's length is known."""
    certificate: Certificate | None
    inputs: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...]
    seconds: float

    @property
    def devices(self) -> int:
        return int(self.device_loads.shape[1])

    @property
    def layers(self) -> tuple[int, ...]:
        """Number of each layer in the model."""
        return tuple(one.layer for one in self.by_layer)

    @property
    def proved(self) -> bool:
        """Whether every layer is at its bound."""
        return self.worst_gap <= 1e-3

    @property
    def imbalance(self) -> float:
        """What a planner takes for the busiest device over the mean: after drift."""
        return self.drift.balance

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        names = (
            "method", "objective", "balance_before", "balance_after", "bound", "gap", "worst_gap",
            "layer_time_before_s", "layer_time_after_s", "bytes_by_tier", "bytes_by_tier_before",
            "hops_before", "hops_after", "local_before", "local_after", "moved_experts",
            "moved_bytes", "move_time_s", "rebalance_every_s", "experts", "model_layers",
        )  # fmt: skip
        return {
            "version": VERSION,
            "kind": "placement",
            "inputs": dict(self.inputs),
            **{name: getattr(self, name) for name in names},
            "drift": asdict(self.drift),
            "reads": None if self.reads is None else asdict(self.reads),
            "certificate": None if self.certificate is None else asdict(self.certificate),
            "notes": list(self.notes),
            "seconds": self.seconds,
            "by_layer": [asdict(one) for one in self.by_layer],
            "device_loads": np.round(self.device_loads, 6).tolist(),
            "physical_to_logical_map": self.slots.tolist(),
            "device_of_slot": self.device.tolist(),
        }

    def to_json(self) -> str:
        """The result file; its keys but ``seconds`` are the same for the same question."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def export(self, system: str) -> str:
        """The file of a serving system: ``sglang``, ``vllm`` or ``tensorrt-llm``.

        Raises
        ------
        PlannerError
            If the devices hold unequal numbers, which no system can read.
        """
        counts = np.array([np.bincount(row, minlength=self.devices) for row in self.device])
        if counts.min() != counts.max():
            raise PlannerError(
                f"export: found {counts.min()} to {counts.max()} experts on a device, expected"
                f" equal counts for {system}; place with counts='equal'."
            )
        return export_text(system, self.slots, self.experts, self.layers, self.model_layers)
