"""Small programs with known answers, on both solvers: what is found, what is proved, and when."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.search.milp import DEAF, OVERRUN, Program, Solved, available, solve

SOLVERS = ("HiGHS", "CBC")


def packing(loads: NDArray[np.float64], bins: int) -> tuple[Program, NDArray[np.int64]]:
    """Equal counts of items to bins; the heaviest bin is minimised, the mean is 1."""
    items = len(loads)
    program = Program("packing")
    first = np.arange(bins) <= np.arange(items)[:, np.newaxis]  # bins are interchangeable
    x = program.variables("x", (items, bins), high=first, integer=True)
    z = program.variables("z", (1,), cost=1.0)
    program.rows("once", (x, 1.0), low=1.0, high=1.0)
    program.rows("count", (x.T, 1.0), low=items // bins, high=items // bins)
    program.rows("load", (x.T, loads / loads.sum() * bins), (z, -1.0), high=0.0)
    return program, x


def knapsack(**limits: float) -> Solved:
    """Max 5a + 4b + 3c for 2a + 3b + c <= 5: 9 with a and b."""
    program = Program("knapsack")
    x = program.variables("x", (3,), high=1.0, integer=True, cost=[-5.0, -4.0, -3.0])
    program.rows("weight", (x, [2.0, 3.0, 1.0]), high=5.0)
    return solve(program, time_limit=5.0, **limits)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_packing_agrees_with_exhaustive_search(solver: str) -> None:
    loads = np.random.default_rng(5).lognormal(0.0, 1.0, 8)
    program, x = packing(loads, 4)
    solved = solve(program, time_limit=10.0, solver=solver)
    orders = (np.array(o) for o in itertools.permutations(range(8)))
    best = min(float(loads[o].reshape(4, 2).sum(axis=1).max()) for o in orders)
    assert solved.status == "optimal"
    assert solved.objective == pytest.approx(best / loads.mean() / 2.0, rel=1e-6)
    assert solved.values is not None
    assert (solved.values[x].sum(axis=0) == 2).all() and (solved.values[x].sum(axis=1) == 1).all()
    assert solved.gap <= 1e-6


def test_a_sum_of_costs_is_minimised() -> None:
    solved = knapsack()
    assert (solved.status, solved.objective) == ("optimal", -9.0)
    assert solved.values is not None and solved.values.tolist() == [1.0, 1.0, 0.0]


def test_a_linear_program_needs_no_whole_numbers() -> None:
    program = Program("mix")
    x = program.variables("x", (2,), cost=[1.0, 2.0])
    program.rows("enough", (x, [1.0, 1.0]), low=1.5)
    program.rows("first", (x[:1], 1.0), high=1.0)
    solved = solve(program, time_limit=5.0)
    assert solved.status == "optimal"
    assert solved.objective == pytest.approx(2.0) and solved.bound == pytest.approx(2.0)


def test_a_column_without_rows_stays_at_its_lower_end() -> None:
    program = Program("idle")
    idle = program.variables("idle", (1,), low=3.0)
    used = program.variables("used", (1,), low=1.0, cost=1.0)
    solved = solve(program, time_limit=5.0)
    assert solved.values is not None
    assert solved.values[idle] == 3.0 and solved.values[used] == 1.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_cannot_be_is_infeasible(solver: str) -> None:
    program = Program("impossible")
    x = program.variables("x", (2,), high=1.0, integer=True, cost=1.0)
    program.rows("sum", (x, 1.0), low=3.0)
    solved = solve(program, time_limit=5.0, solver=solver)
    assert (solved.status, solved.values) == ("infeasible", None)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_incumbent_that_cannot_be_beaten_is_proved(solver: str) -> None:
    loads = np.random.default_rng(1).lognormal(0.0, 1.0, 16)
    program, _ = packing(loads, 8)
    best = solve(program, time_limit=10.0).objective
    solved = solve(program, time_limit=10.0, incumbent=best, solver=solver)
    assert (solved.status, solved.objective, solved.values) == ("optimal", best, None)
    assert solved.bound == pytest.approx(best, rel=2e-6) and solved.bound <= best


def test_an_incumbent_at_its_bound_needs_no_solver() -> None:
    solved = knapsack(incumbent=-9.0, bound=-9.0)
    assert (solved.status, solved.objective, solved.gap) == ("optimal", -9.0, 0.0)
    assert solved.seconds < 0.01


def test_an_incumbent_is_improved_on() -> None:
    solved = knapsack(incumbent=-5.0)
    assert (solved.status, solved.objective) == ("optimal", -9.0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_limit_is_kept_and_the_answer_is_not_called_optimal(solver: str) -> None:
    loads = np.random.default_rng(1).lognormal(0.0, 1.0, 128)
    program, x = packing(loads, 16)
    solved = solve(program, time_limit=0.7, bound=1.0, solver=solver)
    assert solved.status == "feasible"
    assert solved.seconds <= 0.7
    assert solved.values is not None and (solved.values[x].sum(axis=1) == 1).all()
    assert 1.0 <= solved.bound < solved.objective and solved.gap > 1e-4


def test_a_limit_that_is_too_short_leaves_the_incumbent() -> None:
    loads = np.random.default_rng(1).lognormal(0.0, 1.0, 128)
    program, _ = packing(loads, 16)
    assert 3 * 128 * 16 * DEAF > 0.15 * (1.0 - OVERRUN)
    alone = solve(program, time_limit=0.15)
    assert (alone.status, alone.objective, alone.values) == ("none", np.inf, None)
    beside = solve(program, time_limit=0.15, incumbent=1.02, bound=1.0)
    assert (beside.status, beside.objective, beside.values) == ("feasible", 1.02, None)
    assert beside.gap == pytest.approx(0.02 / 1.02)


def test_the_same_program_has_the_same_answer() -> None:
    loads = np.random.default_rng(3).lognormal(0.0, 1.0, 16)
    first, second = (solve(packing(loads, 4)[0], time_limit=10.0) for _ in range(2))
    assert first.values is not None and second.values is not None
    assert (first.values == second.values).all()


def test_highs_is_preferred_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available() == "HiGHS"
    monkeypatch.setattr("planner.search.milp.find_spec", lambda name: None)
    assert available() == "CBC"
    assert knapsack().solver == "CBC"


def test_nothing_is_written_to_stdout() -> None:
    code = (
        "from planner.search.milp import Program, solve\n"
        "p = Program('quiet')\n"
        "x = p.variables('x', (2,), high=1.0, integer=True, cost=-1.0)\n"
        "p.rows('sum', (x, 1.0), high=1.5)\n"
        "assert solve(p, time_limit=5.0).objective == -1.0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
