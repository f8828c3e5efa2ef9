"""Continuous batching, followed iteration by iteration: one batch in flight on one attention rank.

Prompts are taken in first come, first served, in pieces that the token budget has room for, beside
the decoding sequences or before them; a sequence enters when the cache has room for it, and the
last to enter is evicted when it has not.  Iterations that only decode are made many at once: as
many as pass until a sequence ends, the cache is full or a prompt arrives.

Source: Orca, OSDI 2022 (iterations); vLLM, arXiv 2309.06180 (eviction by recomputation);
Sarathi-Serve, arXiv 2403.02310 (pieces beside decoding).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from planner.serving.step_table import StepTable
from planner.specs.engine import Engine

LEAST = 256
"""Prompt tokens that an iteration has room for beside any number of decoding sequences."""


@dataclass(slots=True, eq=False)
class Request:
    """One request, where it is and when it got there."""

    number: int
    context: int
    """Tokens that its cache holds once its prompt is taken in."""
    fresh: int
    """Those of them that are still to be computed."""
    due: int
    """Tokens to generate here after the first."""
    sent: float = 0.0
    first: float = math.nan
    """When its first token came [s]."""
    finished: float = math.nan
    held: float = 0.0
    """Part of the cache that it took when it entered; 0 outside."""
    growth: float = 0.0
    """Part of the cache that each of its tokens adds."""
    until: int = 0
    """Decode step of the lane that makes its last token."""

    def move(self, due: int) -> None:
        """Leave for a decode rank, which sends the first token and ``due`` others."""
        self.due, self.held, self.first = due, 0.0, math.nan


@dataclass(eq=False)
class Lane:
    """A batch in flight on one attention rank: its queue, its sequences, its part of the cache."""

    table: StepTable
    engine: Engine
    cells: list[float]
    """Part of the cache that a sequence of so many tokens takes."""
    places: int
    """Sequences that may run at a time."""
    load: int = 0
    """Requests that wait or run."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """Start and end of what was computed [s]."""
    end: float = math.nan
    """When what is being computed ends [s]; nan where nothing is."""
    _start: float = 0.0
    _count: int = 0
    """Decode steps that are being computed."""
    _steps: int = 0
    """Decode steps made."""
    _tokens: int = 0
    """Context of all running sequences."""
    _used: float = 0.0
    _growth: float = 0.0
    _inside: int = 0
    """Sequences that hold cache."""
    _waiting: deque[Request] = field(default_factory=deque)
    _running: dict[int, Request] = field(default_factory=dict)
    """In the order in which they entered."""
    _ends: list[tuple[int, int, Request]] = field(default_factory=list)
    _pieces: list[tuple[Request, int]] = field(default_factory=list)
    """Prompts that are being taken in, and how many tokens of each."""

    def put(self, request: Request, now: float) -> None:
        """Queue a request; decode steps that were planned beyond now are cut short for it."""
        self.load += 1
        self._waiting.append(request)
        if len(self._waiting) == 1 and self._count > 1:
            each = (self.end - self._start) / self._count
            self._count = min(max(math.ceil((now - self._start) / each), 1), self._count)
            self.end = max(self._start + self._count * self._decode(self._count), now)

    def begin(self, now: float) -> None:
        """Start the next iterations, if there is anything to compute."""
        self._start, self._count, self._pieces = now, 0, []
        if not self._evict():
            self._admit(now)
        decodes = len(self._running) if self.engine.mixes or not self._pieces else 0
        if self._pieces:
            self._count = min(decodes, 1)
            self.end = now + self._mixed(decodes)
        elif decodes:
            self._count = self._plan()
            self.end = now + self._count * self._decode(self._count)
        else:
            self.end = math.nan

    def finish(self) -> list[Request]:
        """End what was being computed: the requests that are done here."""
        now, done = self.end, []
        self.spans.append((self._start, now))
        self._steps += self._count
        self._tokens += self._count * len(self._running)
        self._used += self._count * self._growth
        while self._ends and self._ends[0][0] <= self._steps:
            until, number, request = heappop(self._ends)
            if self._running.get(number) is request and request.until == until:
                self._leave(request)
                done.append(request)
        for request, piece in self._pieces:
            request.fresh -= piece
            if not request.fresh:
                if self._join(request, now):
                    continue
                self._release(request.held)
                done.append(request)
        self.load -= len(done)
        self.end, self._count = math.nan, 0
        return done

    def _evict(self) -> bool:
        """Throw out the sequences that entered last until the next step has room."""
        full = False
        while len(self._running) > 1 and self._used + self._growth > 1.0 + 1e-9:
            request = self._running[next(reversed(self._running))]
            left = request.until - self._steps
            self._leave(request)
            request.context += request.due - left + 1  # taking it in again makes a token
            request.fresh, request.due, request.held = request.context, left - 1, 0.0
            self._waiting.insert(1 if self._waiting and self._waiting[0].held else 0, request)
            full = True
        return full

    def _admit(self, now: float) -> None:
        """Take in prompts, as many tokens as the budget has room for."""
        budget = self.engine.chunk
        if self.engine.mixes:
            budget = max(budget - len(self._running), LEAST)
        while self._waiting and budget:
            request = self._waiting[0]
            if not request.held and not self._enter(request):
                return
            piece = min(request.fresh, budget)
            budget -= piece
            if piece:
                self._pieces.append((request, piece))
            else:  # computed elsewhere
                self._join(request, now)
            if piece < request.fresh:
                return
            self._waiting.popleft()

    def _enter(self, request: Request) -> bool:
        """Give a request its part of the cache, if there is room."""
        end = self.cells[request.context + request.due]
        need = end if self.engine.reserves else self.cells[request.context]
        if self._inside >= self.places or self._used + self._growth + need > 1.0 + 1e-9:
            return False
        request.held, request.growth = need, (end - need) / max(request.due, 1)
        self._used += need
        self._inside += 1
        return True

    def _join(self, request: Request, now: float) -> bool:
        """Its prompt is in the cache and its first token there; whether others are due."""
        if math.isnan(request.first):
            request.first = now
        if request.due:
            request.until = self._steps + request.due
            heappush(self._ends, (request.until, request.number, request))
            self._running[request.number] = request
            self._tokens += request.context
            self._growth += request.growth
        return request.due > 0

    def _leave(self, request: Request) -> None:
        """Take a running sequence out."""
        del self._running[request.number]
        made = request.due - (request.until - self._steps)
        self._tokens -= request.context + made
        self._growth -= request.growth
        self._release(request.held + made * request.growth)

    def _release(self, part: float) -> None:
        self._inside -= 1
        self._used = self._used - part if self._inside else 0.0
        if not self._running:
            self._growth = 0.0

    def _plan(self) -> int:
        """Decode steps until a sequence ends or the cache is full."""
        while True:
            until, number, request = self._ends[0]
            if self._running.get(number) is request and request.until == until:
                break
            heappop(self._ends)
        steps = until - self._steps
        if self._growth > 0.0 and self._used + steps * self._growth > 1.0:
            steps = min(steps, max(int((1.0 - self._used) / self._growth), 1))
        return steps

    def _decode(self, steps: int) -> float:
        """Time of a decode step, the mean of the next ``steps`` [s]."""
        decodes = len(self._running)
        return self.table(0.0, 0.0, 0, decodes, self._tokens / decodes + 0.5 * (steps + 1))

    def _mixed(self, decodes: int) -> float:
        """Time of an iteration with the pieces and ``decodes`` sequences [s]."""
        tokens = sum(piece for _, piece in self._pieces)
        seen = sum(
            piece * (request.context - request.fresh + 0.5 * piece)
            for request, piece in self._pieces
        )
        context = self._tokens / decodes + 1.0 if decodes else 0.0
        return self.table(tokens, seen / tokens, len(self._pieces), decodes, context)
