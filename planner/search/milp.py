"""Mixed-integer programs on HiGHS, or on CBC where HiGHS is missing: the one file that uses PuLP.

A program is built from blocks of NumPy arrays.  `Program.variables` returns the numbers of new
columns in the shape that was asked for, `Program.rows` takes one row of columns and weights for
each constraint, and an answer is read back by the same column numbers::

    program = Program("packing")
    x = program.variables("x", (experts, devices), high=1.0, integer=True)
    z = program.variables("z", (1,), cost=1.0)
    program.rows("once", (x, 1.0), low=1.0, high=1.0)              # sum over g of x_eg = 1
    program.rows("load", (x.T, loads), (z, -1.0), high=0.0)        # sum over e of w_e x_eg <= z
    solved = solve(program, time_limit=5.0, incumbent=1.02, bound=1.0)

Give a program numbers near 1: a million tokens beside a 1 are beyond a solver's tolerances.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pulp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GAP = 1e-6
"""Relative difference below which two objectives are equal; a solver's own tolerance."""
OVERRUN = 0.1
"""Part of the time limit that a solver may not plan with: it looks at the clock now and then."""
DEAF = 3e-5
"""Time for each number of the rows that a solver may work without looking at the clock, at the
root of HiGHS and in the files of CBC [s]."""


@dataclass(frozen=True)
class Rows:
    """A block of m constraints."""

    name: str
    terms: list[tuple[Ints, Floats]]
    """Columns and their weights, each (m, k)."""
    low: Floats
    high: Floats


@dataclass
class Program:
    """A linear program to minimise, some of whose variables may be whole numbers."""

    name: str
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    blocks: list[Rows] = field(default_factory=list)

    def variables(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        low: ArrayLike = 0.0,
        high: ArrayLike = np.inf,
        integer: bool = False,
        cost: ArrayLike = 0.0,
    ) -> Ints:
        """Add variables and return their column numbers in ``shape``.

        ``low``, ``high`` and ``cost`` broadcast to the shape.
        """
        first, count = len(self.low), int(np.prod(shape))
        for values, new in ((self.low, low), (self.high, high), (self.cost, cost)):
            values.extend(np.broadcast_to(np.asarray(new, dtype=float), shape).ravel().tolist())
        self.integer.extend([integer] * count)
        return np.arange(first, first + count).reshape(shape)

    def rows(
        self,
        name: str,
        *terms: tuple[Ints, ArrayLike],
        low: ArrayLike = -np.inf,
        high: ArrayLike = np.inf,
    ) -> None:
        """Add constraints: low <= sum of weight * column over the terms <= high.

        Parameters
        ----------
        terms
            Columns ``(m, k)`` and weights that broadcast to them; ``(k,)`` columns are shared by
            all m constraints.
        low, high
            Broadcast to ``(m,)``.
        """
        m = max(len(np.atleast_2d(columns)) for columns, _ in terms)
        whole = []
        for columns, weights in terms:
            wide = np.atleast_2d(columns)
            wide = np.broadcast_to(wide, (m, wide.shape[1]))
            whole.append((wide, np.broadcast_to(np.asarray(weights, dtype=float), wide.shape)))
        lows, highs = (np.broadcast_to(np.asarray(end, dtype=float), (m,)) for end in (low, high))
        self.blocks.append(Rows(name, whole, lows, highs))


@dataclass(frozen=True)
class Solved:
    """What a solver found, and what it proved."""

    status: str
    """optimal (proved within the gap), feasible (stopped by the limit with a solution, its own or
    the incumbent), infeasible, or none (stopped by the limit with nothing)."""
    objective: float
    """Of the best solution known, the incumbent included; inf where there is none."""
    bound: float
    """No solution has a smaller objective; -inf where nothing is known."""
    gap: float
    """(objective - bound) / |objective|; inf where one is unknown."""
    seconds: float
    values: Floats | None
    """Of all columns; None where the solver found nothing better than the incumbent."""
    solver: str


def available() -> str:
    """The solver that is used: ``HiGHS``, or ``CBC``."""
    return "HiGHS" if find_spec("highspy") else "CBC"


def solve(
    program: Program,
    *,
    time_limit: float,
    incumbent: float | None = None,
    bound: float | None = None,
    gap: float = GAP,
    solver: str | None = None,
) -> Solved:
    """Minimise a program, never longer than the limit.

    One thread and a fixed seed: the same program has the same answer, unless the limit stops it.

    Parameters
    ----------
    time_limit
        For building and solving together [s].
    incumbent
        Objective of a solution at hand; only better ones are looked for, and a proof that there
        is none makes the incumbent optimal.
    bound
        Known lower bound of the objective.
    gap
        Relative gap at which to stop.
    solver
        ``HiGHS`` or ``CBC`` instead of the one that is available.
    """
    start = time.perf_counter()
    solver = solver or available()
    gap = gap if any(program.integer) else 0.0
    known = -np.inf if bound is None else bound
    best = np.inf if incumbent is None else incumbent
    least = best - gap * abs(best) if best < np.inf else np.inf
    if least <= known < np.inf:
        return _answer("optimal", best, known, start, None, solver)
    deaf = DEAF * sum(values.size for block in program.blocks for _, values in block.terms)
    if (1.0 - OVERRUN) * time_limit <= deaf:  # too large to stop in time
        return _answer("none", best, known, start, None, solver)
    problem, columns = _built(program, least, known)
    left = (1.0 - OVERRUN) * time_limit - (time.perf_counter() - start)
    left -= deaf if solver == "CBC" else 0.0
    proved = _run(problem, max(left, 0.0), gap, solver)
    known = max(known, proved) if any(program.integer) else known
    return _read(problem, columns, program, best, known, gap, start, solver)


def _built(program: Program, cutoff: float, bound: float) -> tuple[pulp.LpProblem, list[Any]]:
    """The same program in PuLP, with the objective between its bounds."""
    import pulp

    problem = pulp.LpProblem(program.name, pulp.LpMinimize)
    columns = [
        problem.add_variable(
            f"x{i}",
            None if low == -np.inf else low,
            None if high == np.inf else high,
            pulp.LpInteger if whole else pulp.LpContinuous,
        )
        for i, (low, high, whole) in enumerate(
            zip(program.low, program.high, program.integer, strict=True)
        )
    ]
    costs = {columns[i]: cost for i, cost in enumerate(program.cost) if cost}
    problem.setObjective(pulp.LpAffineExpression(costs))
    for block in program.blocks:
        ends = zip(block.low.tolist(), block.high.tolist(), strict=True)
        for row, (low, high) in enumerate(ends):
            weights: dict[Any, float] = {}
            for numbers, values in block.terms:
                for column, weight in zip(numbers[row].tolist(), values[row].tolist(), strict=True):
                    weights[columns[column]] = weights.get(columns[column], 0.0) + weight
            _constrain(problem, f"{block.name}_{row}", weights, low, high)
    _constrain(problem, "objective", costs, bound, cutoff)
    return problem, columns


def _constrain(
    problem: pulp.LpProblem, name: str, weights: dict[Any, float], low: float, high: float
) -> None:
    """One row with one or two ends."""
    import pulp

    senses = [
        (pulp.LpConstraintEQ, low, low == high),
        (pulp.LpConstraintGE, low, low != high and low != -np.inf),
        (pulp.LpConstraintLE, high, low != high and high != np.inf),
    ]
    for sense, end, given in senses:
        if given:
            row = pulp.LpConstraint(pulp.LpAffineExpression(weights), sense, rhs=end)
            problem.addConstraint(row, f"{name}_{'ge' if sense > 0 else 'le' if sense else 'eq'}")


def _run(problem: pulp.LpProblem, seconds: float, gap: float, solver: str) -> float:
    """Solve in place; the lower bound that was proved, -inf where the solver does not tell it."""
    import pulp

    if solver == "HiGHS":
        _quieten()
        limits = {"timeLimit": seconds, "gapRel": gap, "threads": 1, "random_seed": 0}
        problem.solve(pulp.HiGHS(msg=False, **limits))
        return float(problem.solverModel.getInfo().mip_dual_bound)
    own = pulp.COIN_CMD(msg=False)
    path = own.path if own.available() else pulp.PULP_CBC_CMD.pulp_cbc_path
    limits = {"timeLimit": seconds, "gapRel": gap, "threads": 1}
    problem.solve(pulp.COIN_CMD(path=path, msg=False, **limits))
    return -np.inf


@cache
def _quieten() -> None:
    """Have HiGHS greet now, where nobody reads it, and forget another user's number of threads."""
    import highspy

    with _nowhere():  # 1.16 writes its version to stdout once, before it takes options
        highspy.Highs()  # type: ignore[no-untyped-call]
    highspy.Highs.resetGlobalScheduler(True)


@contextmanager
def _nowhere() -> Iterator[None]:
    """What native code writes to stdout is dropped."""
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # there is no stdout to protect
        yield
        return
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


def _read(
    problem: pulp.LpProblem,
    columns: list[Any],
    program: Program,
    best: float,
    bound: float,
    gap: float,
    start: float,
    solver: str,
) -> Solved:
    """The answer from the solution's status; ``problem.status`` calls an incumbent optimal."""
    import pulp

    if problem.status == pulp.LpStatusInfeasible:  # CBC's solution status says "not found"
        if best == np.inf:
            return _answer("infeasible", best, np.inf, start, None, solver)
        return _answer("optimal", best, best - gap * abs(best), start, None, solver)
    if problem.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return _answer("none", best, bound, start, None, solver)
    values = np.array([v.varValue for v in columns], dtype=float)
    values = np.where(np.isnan(values), program.low, values)  # in no row and without a cost
    values = np.where(program.integer, np.round(values), values)
    objective = float(values @ np.array(program.cost))
    if problem.sol_status == pulp.LpSolutionOptimal:
        proved = max(bound, objective - gap * abs(objective))
        return _answer("optimal", objective, proved, start, values, solver)
    return _answer("feasible", objective, bound, start, values, solver)


def _answer(
    status: str,
    objective: float,
    bound: float,
    start: float,
    values: Floats | None,
    solver: str,
) -> Solved:
    """Put together; a limit without a better solution leaves the incumbent."""
    if status == "none" and objective < np.inf:
        status = "feasible"
    bound = min(bound, objective)
    known = np.isfinite(objective) and np.isfinite(bound)
    gap = (objective - bound) / max(abs(objective), 1e-12) if known else np.inf
    seconds = time.perf_counter() - start
    return Solved(status, objective, bound, float(gap), seconds, values, solver)
