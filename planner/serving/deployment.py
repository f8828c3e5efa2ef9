"""A deployment: how many of which columns, and what they serve together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.layers.inference import Array
from planner.serving.columns import Columns
from planner.serving.fleet import Fleet
from planner.serving.percentiles import Times

ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "aggregated": ("any",),
    "shared-device": ("shared",),
    "disaggregated": ("prefill", "decode"),
    "attention-ffn": ("prefill", "attention"),
}
"""The roles of each architecture."""


@dataclass(frozen=True)
class Part:
    """So many replicas of one column."""

    column: Columns
    """One row."""
    count: int


@dataclass(frozen=True)
class Deployment:
    """Parts that serve together."""

    parts: tuple[Part, ...]
    requests: float
    """Requests per second of the whole."""
    ttft: float
    tpot: float
    same_node: bool = False
    """Whether prefill and decode replicas are paired inside nodes."""
    times: Times | None = None
    """What varies about the means; known once evaluated whole."""
    idle: Mapping[str, float] = field(default_factory=dict)
    """Part of what each role could serve that is not asked of it; known once evaluated whole."""

    @property
    def architecture(self) -> str:
        """Its name, which follows from the roles."""
        roles = {part.column.role for part in self.parts}
        names = (name for name, needed in ARCHITECTURES.items() if roles <= set(needed))
        return next(names, "mixed")

    def part(self, role: str) -> Part | None:
        """The part of that role, the largest if there are several; None if there is none."""
        found = [one for one in self.parts if one.column.role == role]
        return max(found, key=lambda one: one.count * float(one.column.devices[0]), default=None)


@dataclass(frozen=True)
class Means:
    """What a deployment may use: the devices of every fleet, and money."""

    fleets: tuple[Fleet, ...]
    budget: float = np.inf
    """US dollars per hour."""
    whole: bool = True
    """Whether all devices of the fleets count, or those that are used."""
    each: bool = False
    """Whether a deployment is worth what it serves for each device, or in all."""

    @property
    def prices(self) -> Array:
        """US dollars per device-hour of every fleet; 0 where unknown."""
        return np.array([fleet.price or 0.0 for fleet in self.fleets])

    @property
    def devices(self) -> int:
        """Devices of all fleets."""
        return sum(fleet.devices for fleet in self.fleets)

    @property
    def limits(self) -> Array:
        """Devices of every fleet, and money; shape ``(fleets + 1,)``."""
        return np.array([*(float(fleet.devices) for fleet in self.fleets), self.budget])

    def use(self, columns: Columns) -> Array:
        """What one replica of every column takes of each limit; shape ``(fleets + 1, n)``."""
        found = np.zeros((len(self.fleets) + 1, len(columns)))
        for fleet, devices in columns.devices_by_fleet:
            row = self.fleets.index(fleet)
            found[row] += devices
            found[-1] += devices * (fleet.price or 0.0)
        return found

    def used(self, parts: Sequence[Part]) -> Array:
        """What parts take of each limit."""
        taken = [part.count * self.use(part.column)[:, 0] for part in parts]
        return np.asarray(np.sum(taken, axis=0))

    def counted(self, parts: Sequence[Part]) -> float:
        """Devices that a deployment answers for."""
        return float(self.devices if self.whole else self.used(parts)[:-1].sum())

    def cost(self, parts: Sequence[Part]) -> float | None:
        """US dollars per hour of those devices; None where a price is missing."""
        if any(fleet.price is None for fleet in self.fleets):
            return None
        if self.whole:
            return sum(fleet.devices * (fleet.price or 0.0) for fleet in self.fleets)
        return float(self.used(parts)[-1])
