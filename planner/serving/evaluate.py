"""A deployment evaluated again as a whole, at the load that it really gets.

Columns are evaluated at their own capacity.  In a deployment one role waits for the other, or all
wait for requests: the batch is what Little's law leaves, and prompts queue less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.serving.columns import Columns, decode_rows, state_rows, unit_rows
from planner.serving.deployment import Deployment, Part
from planner.serving.fleet import Fleet
from planner.serving.percentiles import Times
from planner.serving.question import Question
from planner.serving.times import mean_ttft, queued
from planner.serving.transfer import unit_link
from planner.specs.model import ModelSpec

ROUNDS = 4
"""Steps of b <- b rate / f(b), which falls to the batch that serves the rate: more requests in
flight never serve fewer, and never more than in proportion."""
ENOUGH = 0.999
"""Part of what a column serves from which it need not be eased."""

WHOLE, AHEAD = ("any", "shared"), ("prefill",)
"""Roles that take requests from beginning to end, and those that begin them."""


def whole(found: Deployment, model: ModelSpec, asked: Question) -> Deployment:
    """The deployment with its times, batches and requests per second at its real load."""
    if asked.concurrency is not None:
        return replace(found, times=_closed(found), idle=_idle(found.parts, found.requests))
    alone, ahead, behind = _groups(found.parts)
    able = [_able(group) for group in (alone, behind)]
    joined = min(able[1], found.requests - able[0]) if behind else 0.0
    most = able[0] + joined
    served = most if asked.rate is None else min(asked.rate, most)
    less = served / most
    parts = [_eased(part, less * _able([part]), model, asked) for part in alone]
    times = [part.column.times for part in parts]
    first = [_queue(part, less * joined * _able([part]) / _able(ahead), asked) for part in ahead]
    second = [
        _eased(part, less * joined * _able([part]) / able[1], model, asked) for part in behind
    ]
    times += [_joined(first, ahead, part.column.times) for part in second]
    new = (*parts, *ahead, *second)
    serving = [part for part in new if part.column.role not in AHEAD]
    weight = [_able([part]) for part in serving]
    return replace(
        found,
        parts=new,
        requests=served,
        ttft=float(np.average([mean_ttft(one)[0] for one in times], weights=weight)),
        tpot=float(np.average([part.column.tpot[0] for part in serving], weights=weight)),
        times=times[int(np.argmax(weight))],
        idle=_idle(found.parts, served),
    )


def _groups(parts: Sequence[Part]) -> tuple[list[Part], list[Part], list[Part]]:
    """Parts that serve alone, those that prefill, and those that generate for them."""
    alone = [part for part in parts if part.column.role in WHOLE]
    ahead = [part for part in parts if part.column.role in AHEAD]
    return alone, ahead, [part for part in parts if part not in alone and part not in ahead]


def _able(parts: Sequence[Part]) -> float:
    """Requests per second of parts that are busy all the time."""
    return sum(part.count * float(part.column.requests[0]) for part in parts)


def _queue(part: Part, rate: float, asked: Question) -> Times:
    """What prompts wait for the replicas of a part that share one queue."""
    column = part.column
    servers = part.count * column.lanes
    return queued(column.times, asked, np.array([rate]), column.service, column.variation, servers)


def _joined(first: Sequence[Times], ahead: Sequence[Part], tokens: Times) -> Times:
    """First tokens of the largest prefill part, further tokens of another."""
    largest = int(np.argmax([_able([part]) for part in ahead]))
    one, waits = first[largest], ahead[0].column.fleet.run.engine.waits
    fixed = one.fixed + waits * tokens.step  # before the engine reads it, and sends a first token
    return replace(tokens, fixed=fixed, wait=one.wait, waits=one.waits, prompt=one.prompt)


def _eased(part: Part, served: float, model: ModelSpec, asked: Question) -> Part:
    """A part at the batch with which it serves so many requests per second."""
    column = part.column
    for _ in range(ROUNDS):
        less = served / part.count / float(column.requests[0])
        if less > ENOUGH:
            break
        column = _at(column, column.fleet, column.batch * less, model, asked)
    return Part(column, part.count)


def _at(
    column: Columns, fleet: Fleet, batch: np.ndarray, model: ModelSpec, asked: Question
) -> Columns:
    """A column that generates, on a fleet and at a batch."""
    if column.experts is not None:
        pools = fleet, fleet if column.experts.fleet is column.fleet else column.experts.fleet
        link = unit_link(pools)
        return unit_rows(pools, model, asked, link, column.experts.unit, batch)
    if column.role == "decode":
        return decode_rows(fleet, model, asked, column.replica, batch)
    return state_rows(column.role, fleet, model, asked, column.replica, batch, column.share)


def _closed(found: Deployment) -> Times:
    """The distributions of a closed loop, whose wait is what the mean leaves."""
    ahead = found.part("prefill")
    tokens = found.parts[-1].column.times
    if ahead is None:
        return tokens
    first = ahead.column.times
    own = first.lengths.mean(first.prompt)
    wait = np.maximum(found.ttft - first.fixed - own, 0.0)
    waits = 2.0 * wait / (own + 2.0 * wait)
    return replace(tokens, fixed=first.fixed, prompt=first.prompt, wait=wait, waits=waits)


def _idle(parts: Sequence[Part], served: float) -> dict[str, float]:
    """Of every role, the part of what it could serve that is not asked of it."""
    alone, ahead, behind = _groups(parts)
    joined = min(_able(ahead), _able(behind))
    share = served / (_able(alone) + joined)
    done = [(alone, share * _able(alone)), (ahead, share * joined), (behind, share * joined)]
    return {
        group[0].column.role: max(0.0, 1.0 - asked / _able(group)) for group, asked in done if group
    }


def tpot_on(found: Part, model: ModelSpec, asked: Question, fleet: Fleet) -> float:
    """Time of an output token of a part that generates, at its batch but on another fleet [s]."""
    column = found.column
    return float(_at(column, fleet, column.batch, model, asked).tpot[0])
