"""The front of a stream of candidates: those that no other beats on two measures at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.search.best import TIE


class Front:
    """Keeps the candidates with the least ``y`` for their ``x``, and the integer key of each.

    Among candidates with equal measures the lexicographically smallest key stays.
    """

    def __init__(self, width: int) -> None:
        self._x = np.empty(0)
        self._y = np.empty(0)
        self._keys = np.empty((0, width), dtype=np.int64)

    def useful(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
        """Indices of candidates that the front does not beat already, a superset of the new front.

        A candidate is beaten when the front holds one with no more ``x`` and less ``y``.
        """
        before = np.searchsorted(self._x, x * (1.0 + TIE), side="right") - 1
        least = np.where(before >= 0, self._y[before] if len(self._y) else np.inf, np.inf)
        index = np.flatnonzero(y <= least * (1.0 + TIE))
        order = index[np.lexsort((y[index], x[index]))]
        lowest = np.minimum.accumulate(y[order])
        return order[y[order] <= lowest * (1.0 + TIE)]

    def offer(
        self, x: NDArray[np.float64], y: NDArray[np.float64], keys: NDArray[np.int64]
    ) -> None:
        """Add candidates: measures ``(n,)`` and keys ``(n, width)``."""
        x, y = np.concatenate([self._x, x]), np.concatenate([self._y, y])
        keys = np.concatenate([self._keys, keys])
        order = np.lexsort((*keys.T[::-1], _rounded(y), _rounded(x)))
        x, y, keys = x[order], y[order], keys[order]
        lower = np.concatenate([[True], y[1:] < np.minimum.accumulate(y)[:-1] * (1.0 - TIE)])
        self._x, self._y, self._keys = x[lower], y[lower], keys[lower]

    def ranked(self) -> NDArray[np.int64]:
        """Keys of the front, least ``y`` first."""
        return self._keys[::-1]


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values to ten significant digits, so that noise does not order equals."""
    scale = 10.0 ** (9 - np.floor(np.log10(np.maximum(np.abs(values), 1e-300))))
    return np.round(values * scale) / scale
