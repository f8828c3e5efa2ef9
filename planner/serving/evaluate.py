"""A deployment evaluated again as a whole, at the load that it really gets.

Columns are evaluated at their own capacity.  In a deployment one role waits for the other, or all
wait for requests: the batch is what Little's law leaves, and prompts queue less.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.layers.inference import Array
from planner.serving.columns import decode_rows, prefill_rows, state_rows
from planner.serving.deployment import Deployment, Part
from planner.serving.fleet import Fleet
from planner.serving.question import Question
from planner.serving.transfer import link_between, link_inside
from planner.specs.model import ModelSpec

ROUNDS = 4
"""Steps of b <- b rate / f(b), which falls to the batch that serves the rate: more requests in
flight never serve fewer, and never more than in proportion."""
ENOUGH = 0.999
"""Part of what a column serves from which it need not be eased."""


def whole(found: Deployment, model: ModelSpec, asked: Question) -> Deployment:
    """The deployment with its times, batches and requests per second at its real load."""
    served = found.requests if asked.rate is None else min(asked.rate, found.requests)
    found = replace(found, idle=_idle(found, served))
    if asked.concurrency is not None:
        return found
    ahead, behind = found.part("prefill"), found.part("decode")
    if ahead is None or behind is None:
        if asked.rate is None:
            return found
        parts = [_eased(part, found, served, model, asked) for part in found.parts]
        return _mean(found, served, parts)
    source, sink = ahead.column.fleet, behind.column.fleet
    link = link_inside(source) if found.same_node else link_between(source, sink)
    each = np.array([served / ahead.count])
    first = prefill_rows(source, model, asked, ahead.column.replica, link, each)
    second = behind.column
    for _ in range(ROUNDS):
        less = served / behind.count / float(second.requests[0])
        if less > ENOUGH:
            break
        second = decode_rows(sink, model, asked, second.replica, second.batch * less)
    parts = [Part(first, ahead.count), Part(second, behind.count)]
    ttft, tpot = float(first.ttft[0]), float(second.tpot[0])
    return replace(found, parts=tuple(parts), requests=served, ttft=ttft, tpot=tpot)


def _idle(found: Deployment, served: float) -> dict[str, float]:
    """Of every role, the part of what it could serve that is not asked of it."""
    able: dict[str, float] = {}
    for part in found.parts:
        most = part.count * float(part.column.requests[0] / part.column.busy[0])
        able[part.column.role] = able.get(part.column.role, 0.0) + most
    return {role: max(0.0, 1.0 - served / most) for role, most in able.items()}


def _eased(part: Part, found: Deployment, served: float, model: ModelSpec, asked: Question) -> Part:
    """A part that takes its share of the requests: in proportion to what it could serve."""
    column = part.column
    share = served / found.requests * float(column.requests[0])
    for _ in range(ROUNDS):
        less = share / float(column.requests[0])
        if less > ENOUGH:
            break
        same = column.role, column.fleet, model, asked, column.replica
        column = state_rows(*same, column.batch * less, column.share)
    return Part(column, part.count)


def _mean(found: Deployment, served: float, parts: list[Part]) -> Deployment:
    """Times of parts side by side, by the requests that each serves."""
    weight = np.array([part.count * part.column.requests[0] for part in parts])

    def mean(values: Array) -> float:
        return float(np.sum(weight * values) / np.sum(weight))

    ttft, tpot = (
        mean(np.array([getattr(part.column, name)[0] for part in parts]))
        for name in ("ttft", "tpot")
    )
    return replace(found, parts=tuple(parts), requests=served, ttft=ttft, tpot=tpot)


def tpot_on(found: Part, model: ModelSpec, asked: Question, fleet: Fleet) -> float:
    """Time of an output token of a part that generates, at its batch but on another fleet [s]."""
    old = found.column
    if old.role == "decode":
        new = decode_rows(fleet, model, asked, old.replica, old.batch)
    else:
        new = state_rows(old.role, fleet, model, asked, old.replica, old.batch, old.share)
    return float(new.tpot[0])
