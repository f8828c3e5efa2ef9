"""What a deployment must serve: lengths, arrivals, targets, and what may be spent on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.layers.inference import Array
from planner.serving.aggregated import Load

WAVES = 10.0
"""Requests that a place serves in a closed loop, the first of which come all at once; benchmarks
such as InferenceX send ten for every request in flight."""


@dataclass(frozen=True)
class Targets:
    """Longest times that are allowed [s]; of the mean request, or of a share of all."""

    ttft: float = np.inf
    """To the first token."""
    tpot: float = np.inf
    """Of an output token."""
    end_to_end: float = np.inf
    """From arrival to the last token."""

    def hold(self, ttft: Array, tpot: Array, osl: float) -> NDArray[np.bool_]:
        """Where times ``(n,)`` meet all targets."""
        whole = ttft + (osl - 1.0) * tpot
        met: NDArray[np.bool_] = (
            (ttft <= self.ttft) & (tpot <= self.tpot) & (whole <= self.end_to_end)
        )
        return met


@dataclass(frozen=True)
class Question:
    """Traffic, targets and means."""

    isl: float
    """Mean input tokens."""
    osl: float
    """Mean output tokens."""
    hit: float = 0.0
    """Part of the input that is in the prefix cache."""
    targets: Targets = Targets()
    rate: float | None = None
    """Requests per second that must be served; None for as many as the devices can."""
    concurrency: float | None = None
    """Requests in flight over the whole deployment (closed loop); None for an open loop."""
    whole: bool = True
    """Whether all devices of the fleets count, the idle ones too, or those that are used."""
    fixed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Values that an axis of the deployment may take."""

    def load(self, concurrency: Array) -> Load:
        """So many requests in flight on a replica: spread over time, or in a closed loop."""
        one = np.ones_like(concurrency)
        waves, fixed = (np.inf, 0.0) if self.concurrency is None else (WAVES, 1.0)
        return Load(
            self.isl * one, self.osl * one, concurrency, self.hit * one, waves * one, fixed * one
        )
