"""A closed loop over prefill and decode replicas: both counts are tried, the batch follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from planner.layers.inference import Array
from planner.serving.columns import Columns
from planner.serving.compose import strongest
from planner.serving.deployment import Deployment, Means, Part
from planner.serving.disaggregated import Pool, disaggregated
from planner.serving.question import Question
from planner.serving.space import pick
from planner.serving.times import whole_held
from planner.specs.model import ModelSpec

COUNTS = 8
"""Numbers of decode replicas that are tried for a pair of layouts."""


def closed_pairs(
    first: Columns, second: Columns, model: ModelSpec, means: Means, asked: Question
) -> Iterator[Deployment]:
    """The best counts of every pair of layouts for the requests in flight."""
    ahead = strongest(first, first.requests > 0.0)
    behind = strongest(second, second.requests > 0.0)
    rows = [
        (p, d, many, more)
        for p, d in product(ahead, behind)
        for many, more in _splits(first.row(p), second.row(d), means, asked)
    ]
    if not rows:
        return
    p, d, many, more = np.array(rows).T
    one, other = first.rows(p), second.rows(d)
    batch, ttft, tpot, requests = _evaluated(one, other, (many, more), model, asked)
    targets = asked.targets
    held = (ttft <= targets.ttft) & (tpot <= targets.tpot) & whole_held(ttft, tpot, asked)
    used = many * one.devices + more * other.devices
    worth = np.where(held, requests / (used if means.each else 1.0), 0.0)
    best: dict[tuple[int, int], int] = {}
    for index in map(int, np.flatnonzero(held)):
        kept = best.setdefault((p[index], d[index]), index)
        if worth[index] > worth[kept]:
            best[p[index], d[index]] = index
    for index in best.values():
        decoding = replace(other.row(index), batch=batch[[index]])
        parts = Part(one.row(index), int(many[index])), Part(decoding, int(more[index]))
        yield Deployment(parts, float(requests[index]), float(ttft[index]), float(tpot[index]))


def _splits(
    first: Columns, second: Columns, means: Means, asked: Question
) -> Iterator[tuple[int, int]]:
    """Numbers of prefill and decode replicas that fill the means, or part of them."""
    one, other = means.use(first)[:, 0], means.use(second)[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        most = np.floor(np.where(other > 0.0, (means.limits - one) / other, np.inf).min())
    tried = asked.fixed.get("replicas") or np.unique(
        np.round(np.geomspace(1.0, max(most, 1.0), COUNTS))
    )
    for more in tried:
        left = means.limits - more * other
        if np.any(left < one):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.floor(np.where(one > 0.0, left / one, np.inf).min())
        balanced = np.ceil(more * second.requests[0] / first.requests[0])
        most_useful = int(min(room, balanced) if means.each else room)
        for many in asked.fixed.get("prefill_replicas", (most_useful,)):
            if 1 <= many <= room:
                yield int(many), int(more)


def _evaluated(
    first: Columns,
    second: Columns,
    counts: tuple[Array, Array],
    model: ModelSpec,
    asked: Question,
) -> tuple[Array, Array, Array, Array]:
    """Batch of a decode replica, ttft, tpot and requests per second of every row."""
    assert asked.concurrency is not None
    batch, ttft, tpot, requests = (np.zeros(len(first)) for _ in range(4))
    for source, ahead in first.fleet.grouped(first.replica):
        for sink, behind in second.fleet.grouped(second.replica):
            rows = np.intersect1d(ahead, behind)
            fill = Pool(source, pick(first.replica, rows), counts[0][rows])
            drain = Pool(sink, pick(second.replica, rows), counts[1][rows])
            load = asked.load(np.full(len(rows), asked.concurrency))
            state = disaggregated(fill, drain, model, load)
            lanes = second.replica.split.attention_dp[rows] * second.replica.pp[rows]
            batch[rows], requests[rows] = state.running * lanes, state.throughput / asked.osl
            ttft[rows], tpot[rows] = state.ttft, state.tpot
    return batch, ttft, tpot, requests
