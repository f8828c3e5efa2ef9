"""Attention ranks that step together, because they share their experts.

Every rank has a batch of its own; an iteration ends for all when the busiest is done, and the
experts compute the tokens of all.  Iterations that only decode are made many at once: as many as
pass until a sequence ends, a cache is full or a prompt arrives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from planner.serving.batching import Lane, Request
from planner.serving.step_table import StepTable


@dataclass(eq=False)
class Ranks:
    """The attention ranks of one replica and pipeline stage."""

    table: StepTable
    lanes: list[Lane]
    spans: list[tuple[float, float]] = field(default_factory=list)
    """Start and end of what was computed [s]."""
    end: float = math.nan
    """When what is being computed ends [s]; nan where nothing is."""
    _start: float = 0.0
    _steps: int = 0
    """Decode steps that are being computed."""

    @property
    def least(self) -> int:
        """Requests of the rank that has fewest."""
        return min(lane.load for lane in self.lanes)

    def put(self, request: Request, now: float) -> None:
        """Give a request to the rank with fewest; steps planned beyond now are cut short for it."""
        lane = min(self.lanes, key=lambda lane: lane.load)
        if lane.put(request) and self._steps > 1:
            each = (self.end - self._start) / self._steps
            self._steps = min(max(math.ceil((now - self._start) / each), 1), self._steps)
            self.end = max(self._start + self._steps * self._seconds(), now)

    def begin(self, now: float) -> None:
        """Start the next iterations, if there is anything to compute."""
        self._start, self._steps, self.end = now, 0, math.nan
        for lane in self.lanes:
            lane.take(now)
        decoding = [lane for lane in self.lanes if lane.running]
        if any(lane.pieces for lane in self.lanes):
            self._steps = 1 if decoding and decoding[0].engine.mixes else 0
            self.end = now + self._seconds()
        elif decoding:
            self._steps = min(lane.plan() for lane in decoding)
            self.end = now + self._steps * self._seconds()

    def finish(self) -> list[Request]:
        """End what was being computed: the requests that are done here."""
        self.spans.append((self._start, self.end))
        done = [one for lane in self.lanes for one in lane.advance(self._steps, self.end)]
        self.end, self._steps = math.nan, 0
        return done

    def _seconds(self) -> float:
        """Time of an iteration, the mean of those that are being computed [s]."""
        contents = [lane.contents(self._steps) for lane in self.lanes]
        tokens = sum(one[0] + one[3] for one in contents) / len(contents)
        return max(self.table.own(*one) for one in contents) + self.table.experts(tokens)
