"""How many of each column: copies of one, or two roles whose rates balance, by enumeration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from planner.layers.inference import Array
from planner.search.space import divisors
from planner.serving.columns import Columns
from planner.serving.deployment import Deployment, Means, Part
from planner.serving.question import Question
from planner.serving.times import prompt_held, queued, tokens_held, whole_held

SIZES = 24
"""Numbers of prefill replicas whose rates are found; those between are interpolated."""
PARTS = (1.0, 0.75, 0.5, 0.25)
"""Of the longest step that is allowed, within which the strongest decode columns are found."""
LEVELS = 8
"""Of what passes besides waiting, prompt and transfer: the rates are found for so many."""
HALVINGS = 20
"""Of the utilisation of prefill replicas."""
BUSIEST = 0.95
"""Utilisation that prefill replicas are loaded to at most."""
ALTERNATIVES = 3
"""Columns that may replace one which is still tried: they show what else is nearly as good."""


def copies(columns: Columns, means: Means, asked: Question) -> list[Deployment]:
    """The best batch of every layout, as often as the means allow or the rate needs."""
    held = prompt_held(columns.times, asked) & tokens_held(columns.times, columns.tpot, asked)
    held &= whole_held(columns.ttft, columns.tpot, asked) & (columns.requests > 0.0)
    most = _most(means, means.use(columns))
    many = np.where(columns.count > 0.0, columns.count, most)
    if asked.rate is not None:
        with np.errstate(divide="ignore"):
            many = np.ceil(asked.rate / columns.requests - 1e-9)
    many, held = _chosen(many, held & (many <= most) & (many >= 1.0), asked, "replicas")
    worth = columns.requests * np.where(columns.count > 0.0, many, 1.0 / columns.devices)
    ttft = columns.ttft
    return [
        Deployment(
            (Part(columns.row(index), int(many[index])),),
            float(columns.requests[index] * many[index]),
            float(ttft[index]),
            float(columns.tpot[index]),
        )
        for index in _best(columns, held, worth)
    ]


def _most(means: Means, use: Array) -> Array:
    """Replicas that the means allow; ``use`` ``(fleets + 1, n)``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(use > 0.0, means.limits[:, np.newaxis] / use, np.inf)
    return np.asarray(np.floor(each.min(axis=0) + 1e-9))


def _chosen(
    many: Array, held: NDArray[np.bool_], asked: Question, name: str
) -> tuple[Array, NDArray[np.bool_]]:
    """The numbers that the question allows: one that is fixed stands if it is enough."""
    if name not in asked.fixed:
        return many, held
    number = float(max(asked.fixed[name]))
    enough = many <= number if asked.rate is not None else many >= number
    return np.full_like(many, number), held & enough


def pairs(first: Columns, second: Columns, means: Means, asked: Question) -> Iterator[Deployment]:
    """Every pair of a prefill and a decode layout with the counts that serve most requests."""
    one, other = means.use(first), means.use(second)
    decoding = cache(second.row)
    for p, behind in _matches(first, second, asked):
        row, (late, level) = first.row(p), _late(second, behind)
        tables = prefill_rates(row, int(_most(means, one[:, [p]])[0]), asked, late)
        for d, able in zip(behind, tables[level], strict=True):
            each = float(second.requests[d])
            counts = balance(able, each, (one[:, p], other[:, d]), means, asked)
            if counts is not None:
                served = min(able[counts[0] - 1], counts[1] * each)
                yield _pair(row, decoding(d), counts, float(served))


def _pair(
    first: Columns, second: Columns, counts: tuple[int, int], served: float, same: bool = False
) -> Deployment:
    parts = Part(first, counts[0]), Part(second, counts[1])
    return Deployment(parts, served, float(first.ttft[0]), float(second.tpot[0]), same)


def _late(second: Columns, rows: list[int]) -> tuple[Array, NDArray[np.int64]]:
    """What passes until decode engines read a request and send its first token, on few levels.

    The levels [s], none below what it stands for, and which is that of each row.
    """
    late = second.fleet.run.engine.waits * second.tpot[rows]
    if not len(rows) or not late.max() > 0.0:
        return np.zeros(1), np.zeros(len(rows), dtype=np.int64)
    level = np.ceil(LEVELS * late / late.max() - 1e-9).astype(np.int64)
    return np.arange(LEVELS + 1.0) / LEVELS * late.max(), level


def prefill_rates(row: Columns, most: int, asked: Question, late: Array | float = 0.0) -> Array:
    """Requests per second that 1 to ``most`` prefill replicas serve within the target.

    The more replicas a router can choose from, the busier each may be.

    Parameters
    ----------
    late : (k,)
        What passes besides waiting, prompt and transfer [s].

    Returns
    -------
    Array of shape ``(k, most)``, or ``(most,)`` for one number.
    """
    sizes = np.unique(np.round(np.geomspace(1.0, max(most, 1.0), SIZES)))
    levels = np.atleast_1d(np.asarray(late, dtype=float))
    tried, added = np.tile(sizes, len(levels)), np.repeat(levels, len(sizes))
    rows = row.rows(np.zeros(len(tried), dtype=np.int64))
    servers, service = tried * row.lanes, rows.service
    low, high = np.zeros_like(tried), np.full_like(tried, BUSIEST)
    for _ in range(HALVINGS):
        busy = 0.5 * (low + high)
        rate = busy * servers / service
        times = queued(rows.times, asked, rate, service, rows.variation, servers)
        held = prompt_held(replace(times, fixed=times.fixed + added), asked)
        low, high = np.where(held, busy, low), np.where(held, high, busy)
    if not np.isfinite(asked.targets.ttft):
        low = np.full_like(low, BUSIEST)
    every = np.arange(1.0, max(most, 1.0) + 1.0)
    found = np.array([np.interp(every, sizes, part) for part in low.reshape(len(levels), -1)])
    found = found * every * row.lanes / row.service
    return np.asarray(found if np.ndim(late) else found[0])


def _matches(first: Columns, second: Columns, asked: Question) -> Iterator[tuple[int, list[int]]]:
    """Every prefill column worth pairing, and the decode columns that meet the targets with it."""
    tokens = tokens_held(second.times, second.tpot, asked)
    apart = not np.isfinite(asked.targets.end_to_end)  # no target joins the two times
    once = _quick(second, tokens, asked) if apart else []
    for p in strongest(first, prompt_held(first.times, asked)):
        if apart:
            yield p, once
        else:
            held = whole_held(first.ttft[p], second.tpot, asked)
            yield p, _quick(second, tokens & held, asked)


def _quick(second: Columns, allowed: NDArray[np.bool_], asked: Question) -> list[int]:
    """The strongest decode columns, and the strongest of quicker ones.

    Where an engine takes some of its steps to read a request, a quicker step leaves prompts more of
    the target on the first token.
    """
    longest = second.tpot[allowed].max(initial=0.0)
    parts = PARTS if np.isfinite(asked.targets.ttft) and second.fleet.run.engine.waits else (1.0,)
    found = [strongest(second, allowed & (second.tpot <= part * longest)) for part in parts]
    return sorted({row for rows in found for row in rows})


def balance(
    able: Array, second: float, use: tuple[Array, Array], means: Means, asked: Question
) -> tuple[int, int] | None:
    """Prefill and decode replicas: the fewest for the rate, or the best use of the means.

    Parameters
    ----------
    able : (most,)
        Requests per second of 1, 2 ... prefill replicas together.
    second : float
        Requests per second of one decode replica.
    use : two (fleets + 1,) arrays
        What one replica of each takes of the means.
    """
    limits = means.limits
    if asked.rate is not None:
        many = 1.0 + np.searchsorted(able, np.array([asked.rate * (1.0 - 1e-9)]))
        more = np.array([np.ceil(asked.rate / second - 1e-9)])
    else:
        most = _most(means, use[1][:, np.newaxis])[0]
        more = np.arange(1.0, most + 1.0)
        left = limits[:, np.newaxis] - more * use[1][:, np.newaxis]
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(use[0][:, np.newaxis] > 0.0, left / use[0][:, np.newaxis], np.inf)
        room = np.floor(room.min(axis=0) + 1e-9)
        needed = 1.0 + np.searchsorted(able, more * second * (1.0 - 1e-9))
        tried = [needed, needed - 1.0] if means.each else [needed]  # decoding may wait
        tried = [np.full_like(more, n) for n in asked.fixed.get("prefill_replicas", ())] or tried
        many = np.concatenate([np.minimum(room, number) for number in tried])
        more = np.tile(more, len(tried))
    legal = (many >= 1.0) & (many <= len(able)) & (more >= 1.0)
    for name, number in (("prefill_replicas", many), ("replicas", more)):
        if name in asked.fixed:
            legal &= np.isin(number, asked.fixed[name])
    taken = use[0][:, np.newaxis] * many + use[1][:, np.newaxis] * more
    legal &= np.all(taken <= limits[:, np.newaxis] * (1.0 + 1e-9), axis=0)
    taken_in = able[np.clip(many, 1, len(able)).astype(int) - 1]
    legal &= taken_in > 0.0
    if not legal.any():
        return None
    served = np.minimum(taken_in, more * second)
    worth = served / taken[:-1].sum(axis=0) if means.each else served
    best = int(np.where(legal, worth, -1.0).argmax())
    return int(many[best]), int(more[best])


def strongest(columns: Columns, allowed: NDArray[np.bool_]) -> list[int]:
    """The best columns of every layout but those that several others replace.

    One replaces another if as many as fit into its devices serve no less: a best pair needs none
    that is replaced, and a few of them are worth showing.
    """
    found = np.array(_best(columns, allowed, columns.requests / columns.devices), dtype=np.int64)
    served = columns.requests[found]
    fits = np.full((len(found), len(found)), np.inf)
    for _, devices in columns.devices_by_fleet:
        own = devices[found]
        fits = np.minimum(fits, np.floor(own[np.newaxis] / own[:, np.newaxis] + 1e-9))
    instead = fits * served[:, np.newaxis] * (1.0 + 1e-12)
    first = np.arange(len(found))[:, np.newaxis] < np.arange(len(found))
    mutual = (instead >= served) & (instead >= served).T  # the first of equals stays
    replaced = (instead >= served) & ~(mutual & ~first)
    np.fill_diagonal(replaced, False)
    kept = found[replaced.sum(axis=0) < ALTERNATIVES]
    order = np.lexsort((-columns.requests[kept], columns.devices[kept]))
    return [int(index) for index in kept[order]]


def _best(columns: Columns, allowed: NDArray[np.bool_], worth: Array) -> list[int]:
    """The allowed column of every layout that is worth most."""
    layouts: Sequence[tuple[float, ...]] = columns.layouts
    best: dict[tuple[float, ...], int] = {}
    for index in map(int, np.flatnonzero(allowed)):
        kept = best.get(layouts[index])
        if kept is None or worth[index] > worth[kept] * (1.0 + 1e-12):
            best[layouts[index]] = index
    return list(best.values())


def node_pairs(
    first: Columns, second: Columns, domain: int, means: Means, asked: Question
) -> Iterator[Deployment]:
    """Pairs that share nodes of ``domain`` devices: the cache of a layer never leaves its node.

    Both pipelines are cut into as many segments as nodes; every node holds as many prefill and
    decode segments as balance best, and the pattern is repeated.
    Source: DistServe, arXiv 2401.09670, algorithm 2.
    """
    decoding = cache(second.row)
    for p, behind in _matches(first, second, asked):
        row, stages = first.row(p), int(first.replica.pp[p])
        most = int(domain * stages // first.devices[p])
        late, level = _late(second, behind)
        tables = prefill_rates(row, most, asked, late)
        for d, able in zip(behind, tables[level], strict=True):
            segments = divisors(gcd(stages, int(second.replica.pp[d])))
            tried = (_pattern(row, decoding(d), able, domain, n, means, asked) for n in segments)
            best = max(filter(None, tried), key=lambda one: one.requests, default=None)
            if best is not None:
                yield best


def _pattern(
    first: Columns,
    second: Columns,
    able: Array,
    domain: int,
    segments: int,
    means: Means,
    asked: Question,
) -> Deployment | None:
    """One pair over ``segments`` nodes, repeated; None where it does not fit."""
    sizes = float(first.devices[0]) / segments, float(second.devices[0]) / segments
    each = float(second.requests[0])
    more = np.arange(1.0, domain // sizes[1] + 1.0)
    many = np.floor((domain - more * sizes[1]) / sizes[0])
    more, many = more[many >= 1.0], many[many >= 1.0]
    if not len(more) or not able[-1] > 0.0:
        return None
    together = np.minimum(able[many.astype(int) - 1], more * each)
    best = int(together.argmax())
    served = float(together[best])
    times = _patterns(served, float(domain * segments), first, means, asked)
    if not times:
        return None
    fewest = 1 + int(np.searchsorted(able, served * (1.0 - 1e-9)))
    counts = fewest * times, int(more[best]) * times
    return _pair(first, second, counts, served * times, True)


def _patterns(
    served: float, devices: float, columns: Columns, means: Means, asked: Question
) -> int:
    """How often the pattern of ``devices`` is repeated; 0 where it cannot be."""
    use = means.use(columns.row(0))[:, :1] / columns.devices[0] * devices
    most = int(_most(means, use)[0])
    if asked.rate is None:
        return most
    needed = int(np.ceil(asked.rate / served - 1e-9))
    return needed if needed <= most else 0
