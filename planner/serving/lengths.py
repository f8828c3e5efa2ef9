"""How long requests are: a joint distribution of input and output tokens as few weighted points.

Closed forms cost an iteration at a point, so a distribution is up to 64 of them: eight ranges of
the input, finer towards the longest, and eight of the output within each.  A point is the mean of
its cell, so that means are kept exactly; what varies inside a cell is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.layers.inference import Array

EDGES = np.array([0.0, 0.2, 0.4, 0.6, 0.85, 0.93, 0.98, 0.995, 1.0])
"""Shares of the requests at the borders of the cells.  The longest are rare and matter most; the
50th, 90th, 95th and 99th percentile lie inside a cell, so that its mean stands for them."""
STEEPEST = 200.0
"""Largest power by which lengths rise between quantiles."""


@dataclass(frozen=True)
class Marginal:
    """What is known of one length: its mean, and quantiles, two or more, or none."""

    mean: float
    quantiles: Mapping[float, float] = field(default_factory=dict)
    """Tokens by the share of the requests that have no more."""

    def cells(self) -> tuple[Array, Array]:
        """Means and weights ``(k,)`` of the cells between ``EDGES``; one cell for a mean alone.

        Lengths rise evenly from one quantile to the next, above the median as that power of the
        share which makes the mean right, and stay from the last one on.

        Raises
        ------
        PlannerError
            If quantiles fall, or the mean cannot be theirs.
        """
        if not self.quantiles:
            return np.array([self.mean]), np.ones(1)
        known = sorted(({0.0: 0.0} | dict(self.quantiles)).items())
        share, value = np.array([*known, (1.0, known[-1][1])]).T
        width, rise = np.diff(share), np.diff(value)
        if len(self.quantiles) < 2 or np.any(share[:-1] > 1.0) or np.any(rise < 0.0):
            raise PlannerError(
                f"quantiles: found {dict(self.quantiles)}, expected two or more that rise, by"
                " shares from 0 to 1."
            )
        above = share[:-1] >= min(0.5, share[-3])
        rest = self.mean - (width * (value[:-1] + np.where(above, 0.0, 0.5 * rise))).sum()
        steep = (width * rise)[above].sum() / rest - 1.0 if rest > 0.0 else np.inf
        if not 0.0 < steep < STEEPEST:
            raise PlannerError(
                f"mean: found {self.mean:g}, expected one that lengths with the quantiles"
                f" {dict(self.quantiles)} can have."
            )
        power = np.where(above, steep, 1.0)
        part = np.clip((EDGES[:, np.newaxis] - share[:-1]) / np.maximum(width, 1e-300), 0.0, 1.0)
        area = width * (value[:-1] * part + rise * part ** (power + 1.0) / (power + 1.0))
        weight = np.diff(EDGES)
        return np.diff(area.sum(axis=1)) / weight, weight


@dataclass(frozen=True)
class Lengths:
    """Points ``(k,)`` of a joint distribution; at least one token each."""

    isl: Array
    osl: Array
    weight: Array
    """Share of the requests at a point; they add up to 1."""

    def mean(self, values: Array) -> Array:
        """Mean of ``(k,)`` or ``(k, n)`` values at the points: a number or ``(n,)``."""
        return np.asarray(np.tensordot(self.weight, values, axes=1))

    def second_moment(self, values: Array) -> Array:
        """Mean square of values at the points, as for ``mean``."""
        return self.mean(np.square(values))

    def variation(self, values: Array) -> Array:
        """Coefficient of variation of values at the points, as for ``mean``."""
        mean = self.mean(values)
        return np.asarray(np.sqrt(self.second_moment(values - mean)) / mean)

    def percentile(self, values: Array, share: float) -> float:
        """The value that ``share`` of the requests do not exceed, between ``(k,)`` values."""
        order = np.argsort(values, kind="stable")
        weight = self.weight[order]
        return float(np.interp(share, np.cumsum(weight) - 0.5 * weight, values[order]))


def fixed_lengths(isl: float, osl: float) -> Lengths:
    """All requests alike."""
    return Lengths(np.array([float(isl)]), np.array([float(osl)]), np.ones(1))


def lengths_of_marginals(isl: Marginal, osl: Marginal) -> Lengths:
    """Input and output as summarised, independent of each other."""
    (first, share), (second, other) = isl.cells(), osl.cells()
    inputs, outputs = np.repeat(first, len(second)), np.tile(second, len(first))
    weight = np.outer(share, other).ravel()
    return Lengths(np.maximum(inputs, 1.0), np.maximum(outputs, 1.0), weight)


def lengths_of_requests(isl: Array, osl: Array) -> Lengths:
    """Points of a trace: its requests in cells, in an order that depends on nothing else.

    Parameters
    ----------
    isl, osl : (requests,)
        Tokens of every request, one or more; none count as one, as every request makes a token.

    Raises
    ------
    PlannerError
        If there are no requests.
    """
    isl, osl = (np.maximum(np.asarray(part, dtype=float), 1.0) for part in (isl, osl))
    if not isl.size:
        raise PlannerError("lengths: found no requests, expected at least one.")
    cells = [
        cell
        for rows in _parts(np.lexsort((osl, isl)))
        for cell in _parts(rows[np.lexsort((isl[rows], osl[rows]))])
    ]
    means = [(isl[cell].mean(), osl[cell].mean(), len(cell) / isl.size) for cell in cells]
    return Lengths(*np.array(means).T)


def _parts(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Sorted rows cut at ``EDGES``; empty parts are left out."""
    cuts = np.rint(EDGES[1:-1] * len(rows)).astype(int)
    return [part for part in np.split(rows, cuts) if len(part)]
