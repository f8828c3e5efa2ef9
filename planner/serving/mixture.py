"""The best mixture of columns: how many of each, by an integer program over all of them.

Enumeration finds the best copies of one column and the best pair; several kinds of replicas side by
side can use what these leave: devices of different types, the rest of a budget, a last odd device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from planner.layers.inference import Array
from planner.search.milp import Program, Solved, solve
from planner.serving.columns import Columns
from planner.serving.compose import prefill_rates, strongest
from planner.serving.deployment import Deployment, Means, Part
from planner.serving.question import Question
from planner.serving.search import Tables
from planner.serving.times import prompt_held, tokens_held, whole_held

TIME_LIMIT = 0.4
"""For the program [s]."""
GAP = 1e-3
"""Relative difference to the bound at which the solver may stop."""


def mixture(
    found: Tables, means: Means, asked: Question, best: Sequence[Deployment], by_price: bool
) -> tuple[Deployment | None, Solved]:
    """The best mixture if it beats the best deployment that enumeration found, and the proof.

    With a rate it takes the fewest devices, or the least money; without, it serves most requests.
    """
    rows = list(_rows(found, means, asked))
    use = np.array([means.use(row)[:, 0] for row, _ in rows])
    rate = np.array([each for _, each in rows])
    prices = means.prices if by_price else np.ones(len(means.fleets))
    cost = use[:, :-1] @ prices
    top = asked.rate or max(d.requests for d in best)
    spent = max(1.0, max((float(means.used(d.parts)[:-1] @ prices) for d in best), default=1.0))
    program = Program("mixture")
    minimise = asked.rate is not None
    most = np.floor(np.min(_ratio(means.limits, use), axis=1) + 1e-9)
    counts = program.variables(
        "replicas",
        (len(rows),),
        high=most,
        integer=True,
        cost=cost / spent if minimise else 1e-9 * cost / spent,
    )
    worth = 0.0 if minimise else -1.0
    alone, joined = (program.variables(name, (1,), cost=worth) for name in ("alone", "joined"))
    for name, flow, roles in (
        ("alone", alone, ("any", "shared")),
        ("begun", joined, ("prefill",)),
        ("ended", joined, ("decode", "attention")),
    ):
        does = np.array([row.role in roles for row, _ in rows], dtype=float)
        program.rows(name, (counts, does * rate / top), (flow, -1.0), low=0.0)
    for number, (limit, taken) in enumerate(zip(means.limits, use.T, strict=True)):
        if np.isfinite(limit):
            program.rows(f"limit{number}", (counts, taken / limit), high=1.0)
    if minimise:
        program.rows("rate", (np.concatenate([alone, joined]), 1.0), low=1.0)
    incumbent = _incumbent(best, means, prices, spent, top, minimise)
    solved = solve(program, time_limit=TIME_LIMIT, incumbent=incumbent, gap=GAP)
    if solved.values is None:
        return None, solved
    numbers = solved.values[counts].astype(int)
    flows = {role: float(solved.values[joined[0]]) * top for role in ("prefill", "decode")}
    numbers = _needed(rows, numbers, flows)
    parts = tuple(Part(rows[i][0], int(n)) for i, n in enumerate(numbers) if n)
    served = float(solved.values[alone[0]] + solved.values[joined[0]]) * top
    return _together(parts, served), solved


def _needed(
    rows: Sequence[tuple[Columns, float]], numbers: NDArray[np.int64], flows: Mapping[str, float]
) -> NDArray[np.int64]:
    """The counts without replicas that no request needs: a solver within its gap leaves some."""
    found = numbers.copy()
    worst = sorted(range(len(rows)), key=lambda i: rows[i][1] / float(rows[i][0].devices[0]))
    for roles in (("prefill",), ("decode", "attention")):
        group = [i for i in worst if rows[i][0].role in roles]
        spare = sum(found[i] * rows[i][1] for i in group) - flows[roles[0]]
        for i in group:
            less = min(int(found[i]), int((spare + 1e-9) // rows[i][1])) if spare > 0.0 else 0
            found[i] -= less
            spare -= less * rows[i][1]
    return found


def _ratio(limits: Array, use: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(use > 0.0, limits / use, np.inf)


def _incumbent(
    best: Sequence[Deployment],
    means: Means,
    prices: Array,
    spent: float,
    top: float,
    minimise: bool,
) -> float:
    """Objective of the best deployment at hand."""
    costs = [float(means.used(d.parts)[:-1] @ prices) / spent for d in best]
    if minimise:
        return min(costs)
    return min(1e-9 * cost - d.requests / top for cost, d in zip(costs, best, strict=True))


def _rows(found: Tables, means: Means, asked: Question) -> Iterator[tuple[Columns, float]]:
    """The strongest columns of every role and fleet, and the requests per second of each."""
    for columns in found.both:
        held = tokens_held(columns.times, columns.tpot, asked) & prompt_held(columns.times, asked)
        held &= whole_held(columns.ttft, columns.tpot, asked) & (columns.requests > 0.0)
        yield from ((columns.row(i), float(columns.requests[i])) for i in strongest(columns, held))
    seen: set[int] = set()
    for first, second, link in found.joined:
        if link.inside:
            continue
        if id(first.fleet) not in seen:
            seen.add(id(first.fleet))
            for i in strongest(first, prompt_held(first.times, asked)):
                row = first.row(i)
                most = int(np.min(_ratio(means.limits, means.use(row)[:, 0])))
                able = prefill_rates(row, most, asked)
                half = max(1, len(able) // 2)  # as many as may well be behind one router
                yield row, float(able[half - 1]) / half
        if id(second) not in seen:
            seen.add(id(second))
            tokens = tokens_held(second.times, second.tpot, asked)
            for i in strongest(second, tokens):
                yield second.row(i), float(second.requests[i])


def _together(parts: tuple[Part, ...], served: float) -> Deployment:
    """A deployment whose times are not known yet: means by what each part serves."""
    ahead = [part for part in parts if part.column.role == "prefill"]
    behind = [part for part in parts if part.column.role != "prefill"]

    def mean(some: list[Part], name: str) -> float:
        weight = [part.count * float(part.column.requests[0]) for part in some]
        values = [float(getattr(part.column, name)[0]) for part in some]
        return float(np.average(values, weights=weight)) if some else 0.0

    first = [part for part in behind if part.column.role in ("any", "shared")] or ahead
    return Deployment(parts, served, mean(first, "ttft"), mean(behind, "tpot"))
