"""The k best of a stream of candidates, with ties broken by the candidates' own order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TIE = 1e-9
"""Relative difference below which two scores are equal."""


class Best:
    """Keeps the ``k`` lowest scores and the integer key of each.

    Keys are rows of integers; among equal scores the lexicographically smallest key wins, so
    neither the order of arrival nor rounding noise decides.
    """

    def __init__(self, k: int, width: int) -> None:
        self.k = k
        self._scores = np.empty(0)
        self._keys = np.empty((0, width), dtype=np.int64)
        self.threshold = np.inf
        """No candidate with a higher score can enter."""

    def offer(self, scores: NDArray[np.float64], keys: NDArray[np.int64]) -> None:
        """Add candidates that passed the threshold: scores ``(n,)`` and keys ``(n, width)``."""
        self._scores = np.concatenate([self._scores, scores])
        self._keys = np.concatenate([self._keys, keys])
        if len(self._scores) > 64 * self.k:
            self._shrink()

    def _shrink(self) -> None:
        if len(self._scores) <= self.k:
            return
        kth = np.partition(self._scores, self.k - 1)[self.k - 1]
        self.threshold = kth * (1.0 + TIE)
        keep = self._scores <= self.threshold
        self._scores, self._keys = self._scores[keep], self._keys[keep]

    def ranked(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The best scores and keys, in order."""
        self._shrink()
        if not len(self._scores):
            return self._scores, self._keys
        order = np.argsort(self._scores, kind="stable")
        scores, keys = self._scores[order], self._keys[order]
        # Scores that differ by noise form one class: a new class starts at a real step.
        steps = np.diff(scores) > TIE * scores[:-1]
        classes = np.concatenate([[0], np.cumsum(steps)])
        order = np.lexsort((*keys.T[::-1], classes))[: self.k]
        return scores[order], keys[order]
