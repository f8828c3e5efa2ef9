"""Fit a parameter set to measured times: least absolute log error within physical ranges.

The set that the device has already, or its relative's, is where the search starts and what a few
rows cannot move it far from: every parameter is held by a spring worth a fiftieth of a row's error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.specs.kernel_sets import parameters_of

Array = NDArray[np.float64]
Path = tuple[str, ...]

ROWS_A_PARAMETER = 2
"""Fewest rows for each parameter."""
MOST_ROWS = 3000
SPRING = 0.02
LARGE = 10.0
"""Log error of a prediction that is not a number."""


@dataclass(frozen=True)
class Parameters:
    """The numbers of a set, as a vector of logarithms within their ranges."""

    paths: tuple[Path, ...]
    values: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, start: Any) -> Parameters:
        """The free parameters of a set; zeros by default stay zero, words stay as they are."""
        found = list(_walk(start))
        paths, values, low, high = zip(*found, strict=True)
        ends = np.log(low), np.log(high)
        inside = np.clip(np.log(values), ends[0] + 1e-6, ends[1] - 1e-6)
        return cls(paths, inside, *ends)

    def put(self, start: Any, vector: Array) -> Any:
        """The set with other numbers."""
        found = start
        for path, value in zip(
            self.paths, np.exp(np.clip(vector, self.low, self.high)), strict=True
        ):
            found = _replace(found, path, float(value))
        return found

    def at_an_end(self, vector: Array) -> list[str]:
        """Names of the parameters that left their physical range but for the limit."""
        out = (vector <= self.low + 1e-3) | (vector >= self.high - 1e-3)
        return [".".join(path) for path, one in zip(self.paths, out, strict=True) if one]


def _walk(one: Any, prefix: Path = ()) -> Any:
    for field in parameters_of(type(one)):
        about, value = field.metadata, getattr(one, field.name)
        if "set" in about:
            if value is not None:
                yield from _walk(value, (*prefix, field.name))
        elif "low" in about and value > 0.0 and about["high"] > about["low"] > 0.0:
            yield (*prefix, field.name), value, about["low"], about["high"]


def _replace(one: Any, path: Path, value: float) -> Any:
    head, *rest = path
    inner = _replace(getattr(one, head), tuple(rest), value) if rest else value
    return replace(one, **{head: inner})


def fit(
    name: str, start: Any, measured: Array, predict: Callable[[Any], Array], *, starts: int = 2
) -> Any:
    """The set of ``start``'s kind with the least mean |log(predicted / measured)|.

    Parameters
    ----------
    name
        What is fitted, for messages.
    start
        A parameter set.
    measured
        Times [s], shape ``(n,)``.
    predict
        From a set to times of the same rows [s].

    Raises
    ------
    PlannerError
        If there are too few rows, or the search does not settle, or a time or a rate ends at the
        limit of its physical range.
    """
    from scipy.optimize import least_squares, minimize

    free = Parameters.of(start)
    least = ROWS_A_PARAMETER * len(free.paths)
    if len(measured) < least:
        raise PlannerError(
            f"{name}: found {len(measured)} rows, expected at least {least} for "
            f"{len(free.paths)} parameters"
        )

    def error(vector: Array) -> Array:
        with np.errstate(all="ignore"):
            found = np.log(predict(free.put(start, vector)) / measured)
        return np.where(np.isfinite(found), found, LARGE)

    def pulled(vector: Array) -> Array:
        return np.concatenate([error(vector), SPRING * (vector - free.values)])

    def loss(vector: Array) -> float:
        moved = np.abs(np.clip(vector, free.low, free.high) - free.values).sum()
        return float(np.abs(error(vector)).mean() + SPRING * moved / len(measured))

    random, best = np.random.default_rng(0), None
    for number in range(starts):
        spread = 0.3 * random.standard_normal(len(free.values)) if number else 0.0
        point = np.clip(free.values + spread, free.low + 1e-6, free.high - 1e-6)
        first = least_squares(
            pulled, point, bounds=(free.low, free.high), loss="soft_l1", f_scale=0.05, max_nfev=200
        )
        options = {"maxiter": 1500, "xatol": 1e-3, "fatol": 1e-5}
        found = minimize(loss, first.x, method="Nelder-Mead", options=options)
        if best is None or found.fun < best.fun:
            best = found
    assert best is not None
    vector = np.clip(best.x, free.low, free.high)
    if not np.isfinite(best.fun) or best.fun > 1.0:
        raise PlannerError(
            f"{name}: the fit does not settle (mean log error {best.fun:.2g}); the times do not "
            f"follow the shapes"
        )
    return free.put(start, vector)
