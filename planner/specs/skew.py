"""How unevenly ranks of experts are loaded, where the loads are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RankSkew:
    """Rows of the busiest of some ranks over the mean."""

    ranks: tuple[int, ...]
    """Increasing, from 1."""
    ratios: tuple[float, ...]
    """1 for one rank."""
    source: str
    """The loads and the placement that it was found from."""

    def at(self, ranks: Any) -> NDArray[np.float64]:
        """The ratio for numbers of ranks ``(n,)``; between known ones it goes with the logarithm.

        >>> float(RankSkew((1, 4), (1.0, 3.0), "").at(2))
        2.0
        """
        asked = np.log2(np.asarray(ranks, dtype=float))
        return np.asarray(np.interp(asked, np.log2(self.ranks), self.ratios))


def over_mean(imbalance: float, skew: RankSkew | None, ranks: Any) -> NDArray[np.float64]:
    """Rows of the busiest of ``ranks`` over the mean: a constant, times what known loads say."""
    known = 1.0 if skew is None else skew.at(ranks)
    return np.asarray(np.where(np.asarray(ranks) > 1, imbalance * known, 1.0))
