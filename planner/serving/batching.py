"""Continuous batching, followed iteration by iteration: one batch on one attention rank.

Prompts are taken in first come, first served, in pieces that the token budget has room for, beside
the decoding sequences or before them; a sequence enters when the cache has room for it, and the
last to enter is evicted when it has not.

Source: Orca, OSDI 2022 (iterations); vLLM, arXiv 2309.06180 (eviction by recomputation);
Sarathi-Serve, arXiv 2403.02310 (pieces beside decoding).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

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

    engine: Engine
    cells: list[float]
    """Part of the cache that a sequence of so many tokens takes."""
    places: int
    """Sequences that may run at a time."""
    load: int = 0
    """Requests that wait or run."""
    pieces: list[tuple[Request, int]] = field(default_factory=list)
    """Prompts that are being taken in, and how many tokens of each."""
    running: dict[int, Request] = field(default_factory=dict)
    """Sequences that generate, in the order in which they entered."""
    _waiting: deque[Request] = field(default_factory=deque)
    _steps: int = 0
    """Decode steps made."""
    _tokens: int = 0
    """Context of all running sequences."""
    _used: float = 0.0
    _growth: float = 0.0
    _inside: int = 0
    """Sequences that hold cache."""
    _ends: list[tuple[int, int, Request]] = field(default_factory=list)

    def put(self, request: Request) -> bool:
        """Queue a request; whether no other waits."""
        self.load += 1
        self._waiting.append(request)
        return len(self._waiting) == 1

    def take(self, now: float) -> None:
        """Choose the prompts of the next iteration."""
        self.pieces = []
        self._evict()
        self._admit(now)

    def contents(self, steps: int) -> tuple[float, float, int, int, float]:
        """Arguments of ``StepTable.own`` for the pieces and the mean of ``steps`` decode steps."""
        tokens = sum(piece for _, piece in self.pieces)
        seen = sum(
            piece * (request.context - request.fresh + 0.5 * piece)
            for request, piece in self.pieces
        )
        decodes = len(self.running) if steps else 0
        context = self._tokens / decodes + 0.5 * (steps + 1) if decodes else 0.0
        return tokens, seen / tokens if tokens else 0.0, len(self.pieces), decodes, context

    def plan(self) -> int:
        """Decode steps until a sequence ends or the cache is full."""
        steps = int(self._next_end()) - self._steps
        if self._growth > 0.0 and self._used + steps * self._growth > 1.0:
            steps = min(steps, max(int((1.0 - self._used) / self._growth), 1))
        return steps

    def advance(self, steps: int, now: float) -> list[Request]:
        """Make the pieces and ``steps`` decode steps: the requests that are done here."""
        done = []
        self._steps += steps
        self._tokens += steps * len(self.running)
        self._used += steps * self._growth
        while self._next_end() <= self._steps:
            _, _, request = heappop(self._ends)
            self._leave(request)
            done.append(request)
        for request, piece in self.pieces:
            request.fresh -= piece
            if not request.fresh and not self._join(request, now):
                self._release(request.held)
                done.append(request)
        self.load -= len(done)
        return done

    def _next_end(self) -> float:
        """Decode step at which the next sequence ends; those evicted since are forgotten."""
        while self._ends:
            until, number, request = self._ends[0]
            if self.running.get(number) is request and request.until == until:
                return until
            heappop(self._ends)
        return math.inf

    def _evict(self) -> None:
        """Throw out the sequences that entered last until the next step has room.

        Each waits first, but behind a prompt that is half taken in; it has no room before others
        end.
        """
        while len(self.running) > 1 and self._used + self._growth > 1.0 + 1e-9:
            request = self.running[next(reversed(self.running))]
            left = request.until - self._steps
            self._leave(request)
            request.context += request.due - left + 1  # taking it in again makes a token
            request.fresh, request.due, request.held = request.context, left - 1, 0.0
            self._waiting.insert(1 if self._waiting and self._waiting[0].held else 0, request)

    def _admit(self, now: float) -> None:
        """Take in prompts, as many tokens as the budget has room for."""
        budget = self.engine.chunk
        if self.engine.mixes:
            budget = max(budget - len(self.running), LEAST)
        while self._waiting and budget:
            request = self._waiting[0]
            if not request.held and not self._enter(request):
                return
            piece = min(request.fresh, budget)
            budget -= piece
            if piece:
                self.pieces.append((request, piece))
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
            self.running[request.number] = request
            self._tokens += request.context
            self._growth += request.growth
        return request.due > 0

    def _leave(self, request: Request) -> None:
        """Take a running sequence out."""
        del self.running[request.number]
        made = request.due - (request.until - self._steps)
        self._tokens -= request.context + made
        self._growth -= request.growth
        self._release(request.held + made * request.growth)

    def _release(self, part: float) -> None:
        self._inside -= 1
        self._used = self._used - part if self._inside else 0.0
        if not self.running:
            self._growth = 0.0
