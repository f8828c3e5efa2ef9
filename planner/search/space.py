"""Products of axis values under rules, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def divisors(number: int) -> list[int]:
    """All positive divisors in increasing order.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def product(*axes: Sequence[int]) -> tuple[NDArray[np.int64], ...]:
    """Every combination of the axes' values, one flat array an axis, the last axis fastest."""
    grids = np.meshgrid(*(np.asarray(axis, dtype=np.int64) for axis in axes), indexing="ij")
    return tuple(grid.ravel() for grid in grids)
