"""What a deployment must serve: lengths, arrivals, targets, and what may be spent on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from planner.layers.inference import Array
from planner.serving.aggregated import Load
from planner.serving.lengths import Lengths

WAVES = 10.0
"""Requests that a place serves in a closed loop, the first of which come all at once; benchmarks
such as InferenceX send ten for every request in flight."""


@dataclass(frozen=True)
class Targets:
    """Longest times that are allowed [s]."""

    ttft: float = np.inf
    """To the first token."""
    tpot: float = np.inf
    """Of an output token."""
    end_to_end: float = np.inf
    """From arrival to the last token, on the mean."""


@dataclass(frozen=True)
class Question:
    """Traffic, targets and means."""

    lengths: Lengths
    """Input and output tokens of requests."""
    hit: float = 0.0
    """Part of the input that is in the prefix cache."""
    drafts: float = 0.0
    """Tokens that a step drafts for every sequence (speculative decoding, multi-token heads)."""
    acceptance: float = 0.0
    """Chance that a drafted token is the right one."""
    variation: float = 1.0
    """Coefficient of variation of the times between arrivals; 1 is Poisson's."""
    targets: Targets = Targets()
    percentile: float | None = None
    """Share of the requests that must meet the targets on ttft and tpot, each; None for means."""
    rate: float | None = None
    """Requests per second that must be served; None for as many as the devices can."""
    concurrency: float | None = None
    """Requests in flight over the whole deployment (closed loop); None for an open loop."""
    whole: bool = True
    """Whether all devices of the fleets count, the idle ones too, or those that are used."""
    fixed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Values that an axis of the deployment may take."""

    @property
    def isl(self) -> float:
        """Mean input tokens."""
        return float(self.lengths.mean(self.lengths.isl))

    @property
    def osl(self) -> float:
        """Mean output tokens."""
        return float(self.lengths.mean(self.lengths.osl))

    def load(self, concurrency: Array) -> Load:
        """So many requests in flight on a replica: spread over time, or in a closed loop."""
        one = np.ones_like(concurrency)
        closed, alike = self.concurrency is not None, len(self.lengths.weight) == 1
        waves, fixed = WAVES if closed else np.inf, float(closed and alike)
        return Load(
            self.isl * one,
            self.osl * one,
            concurrency,
            self.hit * one,
            waves * one,
            fixed * one,
            self.drafts * one,
            self.acceptance * one,
        )
