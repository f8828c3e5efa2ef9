"""How many of each column: copies of one, or two roles whose rates balance, by enumeration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from math import gcd

import numpy as np
from numpy.typing import NDArray

from planner.layers.inference import Array
from planner.search.space import divisors
from planner.serving.columns import Columns
from planner.serving.deployment import Deployment, Means, Part
from planner.serving.question import Question
from planner.serving.space import layout_of

ALTERNATIVES = 3
"""Layouts of one size that are paired; the first is the best, the others are worth showing."""


def copies(columns: Columns, means: Means, asked: Question) -> list[Deployment]:
    """The best batch of every layout, as often as the means allow or the rate needs."""
    held = asked.targets.hold(columns.ttft, columns.tpot, asked.osl) & (columns.requests > 0.0)
    most = _most(means, means.use(columns))
    many = np.where(columns.count > 0.0, columns.count, most)
    if asked.rate is not None:
        with np.errstate(divide="ignore"):
            many = np.ceil(asked.rate / columns.requests - 1e-9)
    many, held = _chosen(many, held & (many <= most) & (many >= 1.0), asked, "replicas")
    worth = columns.requests * np.where(columns.count > 0.0, many, 1.0 / columns.devices)
    return [
        Deployment(
            (Part(columns.row(index), int(many[index])),),
            float(columns.requests[index] * many[index]),
            float(columns.ttft[index]),
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


def pairs(
    first: Columns, second: Columns, means: Means, asked: Question, *, same_node: bool = False
) -> Iterator[Deployment]:
    """Every pair of a prefill and a decode layout with the counts that serve most requests."""
    one, other = means.use(first), means.use(second)
    for p, behind in _matches(first, second, asked):
        for d in behind:
            rates = float(first.requests[p]), float(second.requests[d])
            counts = balance(rates, (one[:, p], other[:, d]), means, asked)
            if counts is None:
                continue
            parts = Part(first.row(p), counts[0]), Part(second.row(d), counts[1])
            served = min(counts[0] * rates[0], counts[1] * rates[1])
            yield Deployment(parts, served, float(first.ttft[p]), float(second.tpot[d]), same_node)


def _matches(first: Columns, second: Columns, asked: Question) -> Iterator[tuple[int, list[int]]]:
    """Every prefill column worth pairing, and the decode columns that meet the targets with it."""
    targets = asked.targets
    apart = not np.isfinite(targets.end_to_end)  # no target joins the two times
    once = strongest(second, second.tpot <= targets.tpot) if apart else []
    for p in strongest(first, (first.requests > 0.0) & (first.ttft <= targets.ttft)):
        if apart:
            yield p, once
        else:
            yield p, strongest(second, targets.hold(first.ttft[p], second.tpot, asked.osl))


def balance(
    rates: tuple[float, float], use: tuple[Array, Array], means: Means, asked: Question
) -> tuple[int, int] | None:
    """Prefill and decode replicas: the fewest for the rate, or the best use of the means.

    Parameters
    ----------
    rates : (float, float)
        Requests per second of one replica of each.
    use : two (fleets + 1,) arrays
        What one replica of each takes of the means.
    """
    first, second = rates
    limits = means.limits
    if asked.rate is not None:
        many = np.array([np.ceil(asked.rate / first - 1e-9)])
        more = np.array([np.ceil(asked.rate / second - 1e-9)])
    else:
        most = _most(means, use[1][:, np.newaxis])[0]
        more = np.arange(1.0, most + 1.0)
        left = limits[:, np.newaxis] - more * use[1][:, np.newaxis]
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(use[0][:, np.newaxis] > 0.0, left / use[0][:, np.newaxis], np.inf)
        room = np.floor(room.min(axis=0) + 1e-9)
        needed = np.ceil(more * second / first - 1e-9)
        tried = [needed] if means.whole else [needed, needed - 1.0]  # decoding may wait
        tried = [np.full_like(more, n) for n in asked.fixed.get("prefill_replicas", ())] or tried
        many = np.concatenate([np.minimum(room, number) for number in tried])
        more = np.tile(more, len(tried))
    legal = (many >= 1.0) & (more >= 1.0)
    for name, number in (("prefill_replicas", many), ("replicas", more)):
        if name in asked.fixed:
            legal &= np.isin(number, asked.fixed[name])
    taken = use[0][:, np.newaxis] * many + use[1][:, np.newaxis] * more
    legal &= np.all(taken <= limits[:, np.newaxis] * (1.0 + 1e-9), axis=0)
    if not legal.any():
        return None
    served = np.minimum(many * first, more * second)
    worth = served if means.whole else served / taken[:-1].sum(axis=0)
    best = int(np.where(legal, worth, -1.0).argmax())
    return int(many[best]), int(more[best])


def strongest(columns: Columns, allowed: NDArray[np.bool_]) -> list[int]:
    """The best columns of every size of a replica: no other can be part of the best pair."""
    found = _best(columns, allowed, columns.requests / columns.devices)
    found.sort(key=lambda index: (columns.devices[index], -columns.requests[index]))
    sizes = groupby(found, key=lambda index: columns.devices[index])
    return [index for _, group in sizes for index in islice(group, ALTERNATIVES)]


def _best(columns: Columns, allowed: NDArray[np.bool_], worth: Array) -> list[int]:
    """The allowed column of every layout that is worth most."""
    layouts: Sequence[tuple[float, ...]] = layout_of(columns.replica)
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
    for p, behind in _matches(first, second, asked):
        for d in behind:
            stages = gcd(int(first.replica.pp[p]), int(second.replica.pp[d]))
            found = [
                one
                for segments in divisors(stages)
                if (one := _pattern(first.row(p), second.row(d), domain, segments, means, asked))
            ]
            if found:
                yield max(found, key=lambda one: one.requests)


def _pattern(
    first: Columns, second: Columns, domain: int, segments: int, means: Means, asked: Question
) -> Deployment | None:
    """One pair over ``segments`` nodes, repeated; None where it does not fit."""
    sizes = float(first.devices[0]) / segments, float(second.devices[0]) / segments
    rates = float(first.requests[0]), float(second.requests[0])
    inside = _fill(rates, sizes, domain)
    if inside is None:
        return None
    served = min(inside[0] * rates[0], inside[1] * rates[1])
    times = _patterns(served, float(domain * segments), first, means, asked)
    if not times:
        return None
    parts = Part(first, inside[0] * times), Part(second, inside[1] * times)
    return Deployment(parts, served * times, float(first.ttft[0]), float(second.tpot[0]), True)


def _fill(
    rates: tuple[float, float], sizes: tuple[float, float], domain: int
) -> tuple[int, int] | None:
    """Prefill and decode segments of one node that serve most."""
    more = np.arange(1.0, domain // sizes[1] + 1.0)
    many = np.floor((domain - more * sizes[1]) / sizes[0])
    served = np.minimum(many * rates[0], more * rates[1])
    if not len(served) or served.max() <= 0.0:
        return None
    best = int(served.argmax())
    return int(min(many[best], np.ceil(served[best] / rates[0] - 1e-9))), int(more[best])


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
