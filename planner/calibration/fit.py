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
SPRING = 0.02
LARGE = 10.0
"""Log error of a prediction that is not a number."""
BEYOND = np.log(1.5)
"""How far past a physical limit a fit is tried that ends there ..."""
GAIN = 0.02
"""... and by how much of the mean log error it must not get better."""
UNSETTLED = 0.7
"""Mean log error, a factor of 2, of times that do not follow their shapes."""


@dataclass(frozen=True)
class Parameters:
    """The numbers of a set as a vector of logarithms, and their physical ranges."""

    paths: tuple[Path, ...]
    values: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, start: Any) -> Parameters:
        """The free parameters of a set: not neutral defaults, words and a library's rules."""
        found = list(_walk(start))
        paths, values, low, high = zip(*found, strict=True)
        ends = np.log(low), np.log(high)
        inside = np.clip(np.log(values), ends[0] + 1e-6, ends[1] - 1e-6)
        return cls(paths, inside, *ends)

    def put(self, start: Any, vector: Array) -> Any:
        """The set with other numbers."""
        found = start
        for path, value in zip(self.paths, np.exp(vector), strict=True):
            found = _replace(found, path, float(value))
        return found

    def ends(self, vector: Array) -> NDArray[np.int64]:
        """-1, 0 or 1 for every parameter: at its lower limit, inside, at its upper limit."""
        return np.where(vector >= self.high - 1e-3, 1, np.where(vector <= self.low + 1e-3, -1, 0))


def _walk(one: Any, prefix: Path = ()) -> Any:
    for field in parameters_of(type(one)):
        about, value = field.metadata, getattr(one, field.name)
        if "set" in about:
            if value is not None:
                yield from _walk(value, (*prefix, field.name))
        elif about.get("fitted") and value != field.default and about["high"] > about["low"] > 0.0:
            yield (*prefix, field.name), value, about["low"], about["high"]


def _replace(one: Any, path: Path, value: float) -> Any:
    head, *rest = path
    inner = _replace(getattr(one, head), tuple(rest), value) if rest else value
    return replace(one, **{head: inner})


def fit(name: str, start: Any, measured: Array, predict: Callable[[Any], Array]) -> Any:
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
        If there are too few rows, or the times do not follow the shapes, or a fit would be better
        beyond the physical range of a parameter.
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
        inside = np.clip(vector, free.low, free.high)
        moved = np.abs(inside - free.values).sum()
        return float(np.abs(error(inside)).mean() + SPRING * moved / len(measured))

    middle = np.where(free.ends(free.values), 0.5 * (free.low + free.high), free.values)
    best = None
    for point in (free.values, middle):  # from a limit, where a parameter has no effect, none moves
        first = least_squares(
            pulled, point, bounds=(free.low, free.high), loss="soft_l1", f_scale=0.05, max_nfev=200
        )
        options = {"maxiter": 1500, "xatol": 1e-3, "fatol": 1e-5}
        found = minimize(loss, first.x, method="Nelder-Mead", options=options)
        if best is None or found.fun < best.fun:
            best = found
    assert best is not None
    vector = np.clip(best.x, free.low, free.high)
    reached = float(np.abs(error(vector)).mean())
    for number, end in enumerate(free.ends(vector)):
        further = vector.copy()
        further[number] += end * BEYOND
        if np.abs(error(further)).mean() < reached - GAIN:
            raise PlannerError(
                f"{name}: the fit leaves the physical range of {'.'.join(free.paths[number])}, "
                f"{np.exp(free.low[number]):.3g} to {np.exp(free.high[number]):.3g} in SI units; "
                f"expected times in seconds and sizes in elements or bytes"
            )
    if not reached < UNSETTLED:
        raise PlannerError(
            f"{name}: the fit does not settle: found a mean error of a factor "
            f"{np.exp(reached):.2g}, expected times that follow the shapes"
        )
    return free.put(start, vector)
