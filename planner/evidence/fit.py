"""Fit the few parameters of the training model, and test the fit on sources left out of it.

The parameters are the constants of ``planner.training.fitted`` and ``traffic`` and ``host`` of each
software family; none belongs to a source, a model or a row.  The fit minimises

    sum over time rows of w rho(log(predicted / measured) / s),   rho soft-L1, s = 0.1

with w = 1 / sqrt(rows of the source), so that neither one large table nor many small ones decide.
Leaving a source out repeats the fit without it and scores it with what the others say.

``python -m planner.evidence.fit`` prints a fit; with ``--leave-one-out`` it writes ``fit.json``,
which the validation page prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.evidence.cases import Library, NotModelled, case_of
from planner.evidence.defaults import software_name
from planner.evidence.predict import run_case, value
from planner.evidence.score import SET_A
from planner.evidence.tables import DATA, TIME_METRICS, Row, read_training
from planner.specs.workload import SOFTWARE, Software
from planner.training import fitted

RESULT = Path(__file__).with_name("fit.json")

FAMILIES = {
    "megatron": ("megatron", "megatron-bridge"),
    "megatron-2022": ("megatron-2022",),
    "fsdp": ("fsdp",),
    "vtrain": ("vtrain",),
}
"""Software families and the entries of ``SOFTWARE`` that share a family's parameters."""

SCALE = 0.1
"""Log error beyond which a row pulls linearly, not quadratically."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One fitted number: ``fitted.NAME`` or ``family.traffic`` or ``family.host``."""

    name: str
    value: float
    low: float
    high: float

    @property
    def family(self) -> str:
        """The software family that it belongs to, or ``""``."""
        return "" if self.name.startswith("fitted.") else self.name.split(".")[0]


def parameters() -> list[Parameter]:
    """Every fitted parameter with the value that the code has now."""
    found = []
    for name in sorted(vars(fitted)):
        number = getattr(fitted, name)
        if name.isupper() and isinstance(number, float):
            found.append(Parameter(f"fitted.{name}", number, 0.0, max(4.0 * number, 0.1)))
    for family, members in FAMILIES.items():
        software = SOFTWARE[members[0]]
        found.append(Parameter(f"{family}.traffic", software.traffic, 0.5, 5.0))
        found.append(Parameter(f"{family}.host", software.host, 0.0, 5e-3))
    return found


@contextmanager
def applied(values: Mapping[str, float]) -> Iterator[dict[str, Software]]:
    """Set parameters by name for the duration of a block; yields the software families to use."""
    before: dict[str, float] = {}
    software = dict(SOFTWARE)
    for name, number in values.items():
        family, item = name.split(".")
        if family == "fitted":
            before[item] = getattr(fitted, item)
            setattr(fitted, item, number)
        else:
            for member in FAMILIES[family]:
                changed: dict[str, Any] = {item: number}
                software[member] = replace(software[member], **changed)
    try:
        yield software
    finally:
        for item, number in before.items():
            setattr(fitted, item, number)


@dataclass(frozen=True)
class Problem:
    """The rows to fit, and how to predict them."""

    rows: Sequence[Row]
    library: Library

    def residuals(self, values: Mapping[str, float], index: Sequence[int] | None = None) -> Array:
        """log(predicted / measured) of time, of all rows or those at ``index``."""
        chosen = range(len(self.rows)) if index is None else index
        with applied(values) as software:
            library = replace(self.library, software=software)
            runs: dict[str, Any] = {}
            found = []
            for i in chosen:
                row = self.rows[i]
                if row.id not in runs:
                    runs[row.id] = run_case(case_of(row, library))
                sign = 1.0 if row.metric == "iteration_s" else -1.0
                found.append(sign * np.log(value(row, runs[row.id]) / row.value))
        return np.array(found)

    def touched(self, parameter: Parameter) -> list[int]:
        """The rows that a parameter can move."""
        members = FAMILIES.get(parameter.family)
        return [
            i for i, row in enumerate(self.rows) if members is None or software_name(row) in members
        ]

    def weights(self) -> Array:
        """1 / sqrt(rows of the source), for every row, scaled to a mean of one."""
        sources = [row.source for row in self.rows]
        weights = np.array([sources.count(source) ** -0.5 for source in sources])
        return np.asarray(weights / weights.mean())


def problem(rows: Sequence[Row], library: Library) -> Problem:
    """The time rows that can be predicted; runs with two time metrics count once."""
    seen: set[str] = set()
    kept = []
    for row in rows:
        if row.metric not in TIME_METRICS or row.id in seen:
            continue
        try:
            run_case(case_of(row, library))
        except (NotModelled, PlannerError):
            continue
        seen.add(row.id)
        kept.append(row)
    return Problem(kept, library)


def jacobian(at: Problem, values: Mapping[str, float], free: Sequence[Parameter]) -> Array:
    """Derivative of every residual to every parameter, in units of a parameter's range."""
    base = at.residuals(values)
    columns = np.zeros((len(base), len(free)))
    for j, parameter in enumerate(free):
        index = at.touched(parameter)
        if not index:
            continue
        span = parameter.high - parameter.low
        step = 1e-3 if values[parameter.name] + 1e-3 * span <= parameter.high else -1e-3
        moved = {**values, parameter.name: values[parameter.name] + step * span}
        columns[index, j] = (at.residuals(moved, index) - base[index]) / step
    return columns


GRID = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
"""Shares of a parameter's range that a scan tries: a parameter that binds only above some value
has no slope below it."""


def scan(at: Problem, values: Mapping[str, float], free: Sequence[Parameter]) -> dict[str, float]:
    """The best of a few values of each parameter, one after the other."""
    weights = at.weights()
    current = dict(values)
    for p in free:
        index = at.touched(p)
        if not index:
            continue
        tried = [current[p.name], *(p.low + share * (p.high - p.low) for share in GRID)]
        losses = [
            loss(at.residuals({**current, p.name: number}, index), weights[index])
            for number in tried
        ]
        current[p.name] = tried[int(np.argmin(losses))]
    return current


def solve(
    at: Problem,
    values: Mapping[str, float],
    free: Sequence[Parameter],
    *,
    keep: NDArray[np.bool_] | None = None,
    rounds: int = 4,
    slope: Array | None = None,
    base: Array | None = None,
) -> dict[str, float]:
    """Gauss-Newton rounds of a bounded robust fit, on the rows where ``keep``.

    With ``slope`` and ``base`` (the Jacobian and residuals at ``values``) it takes one linear
    step without evaluating the model.
    """
    from scipy.optimize import lsq_linear

    weights = at.weights()
    rows = np.ones(len(weights), dtype=bool) if keep is None else keep
    current = dict(values)
    for _ in range(1 if slope is not None else rounds):
        errors = at.residuals(current) if base is None else base
        slopes = jacobian(at, current, free) if slope is None else slope
        start = np.array([(current[p.name] - p.low) / (p.high - p.low) for p in free])
        moved = np.zeros(len(free))
        for _ in range(20):  # reweighting towards soft-L1
            predicted = errors + slopes @ moved
            robust = weights * (1.0 + (predicted / SCALE) ** 2) ** -0.5
            root = np.sqrt(robust[rows])[:, None]
            system = np.vstack([root * slopes[rows], 1e-2 * np.eye(len(free))])
            target = np.concatenate([-(root[:, 0] * errors[rows]), np.zeros(len(free))])
            bounds = (-start - 1e-12, 1.0 - start + 1e-12)
            moved = lsq_linear(system, target, bounds).x
        if slope is not None:
            return _moved(current, free, start + moved)
        before = loss(errors[rows], weights[rows])
        for shrink in (1.0, 0.5, 0.25, 0.1):  # take the step only as far as it helps
            tried = _moved(current, free, start + shrink * moved)
            if loss(at.residuals(tried)[rows], weights[rows]) < before:
                break
        else:
            break
        current = tried
    return current


def loss(errors: Array, weights: Array) -> float:
    """The weighted soft-L1 sum that a fit minimises."""
    return float(np.sum(weights * (np.sqrt(1.0 + (errors / SCALE) ** 2) - 1.0)))


def _moved(
    values: Mapping[str, float], free: Sequence[Parameter], shares: Array
) -> dict[str, float]:
    """``values`` with the free ones at these shares of their range."""
    found = dict(values)
    for p, share in zip(free, shares, strict=True):
        found[p.name] = float(np.clip(p.low + share * (p.high - p.low), p.low, p.high))
    return found


def leave_one_out(at: Problem, free: Sequence[Parameter]) -> dict[str, dict[str, float | int]]:
    """For every source, its median error with the parameters of the code, and with parameters
    fitted on all other sources."""
    values = {p.name: p.value for p in free}
    base = at.residuals(values)
    slope = jacobian(at, values, free)
    sources = np.array([row.source for row in at.rows])
    found: dict[str, dict[str, float | int]] = {}
    for source in dict.fromkeys(sources):
        inside = sources == source
        others = solve(at, values, free, keep=~inside, slope=slope, base=base)
        index = [int(i) for i in np.flatnonzero(inside)]
        left_out = at.residuals(others, index)
        found[str(source)] = {
            "rows": len(index),
            "fitted": float(np.median(np.abs(np.expm1(base[inside])))),
            "left_out": float(np.median(np.abs(np.expm1(left_out)))),
        }
    return found


def report(at: Problem, free: Sequence[Parameter], rounds: int = 4) -> str:
    """A fit as text: every parameter, and the error of every source before and after."""
    values = {p.name: p.value for p in free}
    best = solve(at, scan(at, values, free), free, rounds=rounds)
    before, after = np.abs(at.residuals(values)), np.abs(at.residuals(best))
    lines = [f"{p.name:32s} {p.value:10.5g} -> {best[p.name]:10.5g}" for p in free]
    lines.append("median |log error| of time, before and after")
    for source in ["", *dict.fromkeys(row.source for row in at.rows)]:
        inside = np.array([row.source.startswith(source) for row in at.rows])
        first, last = np.median(before[inside]), np.median(after[inside])
        lines.append(f"  {first:6.3f} -> {last:6.3f}  {inside.sum():4d}  {source or 'all'}")
    return "\n".join(lines)


def write_left_out(at: Problem, path: Path = RESULT) -> str:
    """Leave every source out once, write what the validation page prints, and say it as text."""
    free = parameters()
    found = leave_one_out(at, free)
    result = {"parameters": {p.name: p.value for p in free}, "sources": found}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return "\n".join(
        f"{errors['fitted']:6.1%} -> {errors['left_out']:6.1%}  {source}"
        for source, errors in found.items()
    )


def main(arguments: Sequence[str]) -> str:
    """What ``python -m planner.evidence.fit`` says; see the top of this file."""
    import argparse

    from planner.evidence.validate import packaged_library

    parser = argparse.ArgumentParser(prog="planner.evidence.fit")
    parser.add_argument("--leave-one-out", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", nargs="*", help="names of the parameters to move")
    parser.add_argument("--set", choices=("a", "all"), default="all", help="rows to fit")
    options = parser.parse_args(arguments)
    rows = read_training(DATA / "training.csv")
    if options.set == "a":
        rows = [row for row in rows if row.assumed <= SET_A]
    at = problem(rows, packaged_library())
    if options.leave_one_out:
        return write_left_out(at)
    free = [p for p in parameters() if not options.only or p.name in options.only]
    return report(at, free, options.rounds)


if __name__ == "__main__":
    import sys

    sys.stdout.write(main(sys.argv[1:]) + "\n")
