"""The busiest device of a mixture-of-experts layer, in one place for the whole project."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

POPULARITY = 0.7
"""Standard deviation of the logarithm of an expert's popularity that is assumed where no loads are
known.  Gates of small batches look like 1.7 to 2.0 (xDeepServe, arXiv 2508.02520; Janus, arXiv
2512.13525); served models on mixed prompts are flatter."""


@term("rows of the busiest rank = imbalance * mean rows", Ref("arXiv 2505.11432", "section 4.1"))
def busiest(mean: Seconds, imbalance: Seconds) -> Seconds:
    """Load of the busiest device from the mean load and the ratio of busiest to mean."""
    return mean * imbalance


@term(
    "sum over experts of 1 - (1 - p_e)^T, p_e = K w_e / sum w, ln w normal",
    Ref("Janus, arXiv 2512.13525", "appendix A"),
)
def distinct_experts(
    experts: int, top_k: int, tokens: Seconds, popularity: float = POPULARITY
) -> NDArray[np.float64]:
    """Experts that at least one of ``tokens`` goes to, on average.

    Parameters
    ----------
    tokens : float or (n,)
        Tokens of the layer.
    popularity : float
        Standard deviation of ln w; 0 is uniform routing.
    """
    normal = NormalDist().inv_cdf
    quantiles = [normal((rank + 0.5) / experts) for rank in range(experts)]
    weight = np.exp(popularity * np.array(quantiles))
    chosen = np.minimum(top_k * weight / weight.sum(), 1.0 - 1e-12)
    missed = np.log1p(-chosen)
    together = np.asarray(tokens, dtype=float)[..., np.newaxis] * missed
    return np.asarray(-np.expm1(together).sum(axis=-1))


@term("max over g of load_g / mean over g of load_g", Ref("deepseek-ai/EPLB", "README, balance"))
def balance(loads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Load of the busiest device over the mean, from the loads of all, shape (...) of (..., G).

    Without any load a layer is balanced.
    """
    mean = loads.mean(axis=-1)
    return np.asarray(np.where(mean > 0, loads.max(axis=-1) / np.where(mean > 0, mean, 1.0), 1.0))


@term(
    "max over g of t(rows_g, experts_g)",
    Ref("Janus, arXiv 2512.13525", "section 3, T_moe; by rows where those bind"),
)
def slowest(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Time of a layer's busiest device from those of all, which tokens or distinct experts bind.

    Parameters
    ----------
    seconds : (..., G)
        Time of every device for its own rows and distinct experts [s].
    """
    return np.asarray(seconds.max(axis=-1))
