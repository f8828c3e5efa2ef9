"""The busiest device of a mixture-of-experts layer, in one place for the whole project."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

POPULARITY = 1.0
"""Standard deviation of the logarithm of an expert's popularity that is assumed where no loads are
known.  Gates of small batches look like 1.7 to 2.0 (xDeepServe, arXiv 2508.02520; Janus, arXiv
2512.13525); served models on mixed prompts are flatter: 0.85 to 1.2 tell the public inference runs
of eight models equally well."""


@term("rows of the busiest rank = imbalance * mean rows", Ref("arXiv 2505.11432", "section 4.1"))
def busiest(mean: Seconds, imbalance: Seconds) -> Seconds:
    """Load of the busiest device from the mean load and the ratio of busiest to mean."""
    return mean * imbalance


@term(
    "max over ranks of sum over experts of 1 - (1 - p_e)^T, p_e = min(c w_e, 1), ln w normal",
    Ref("Janus, arXiv 2512.13525", "appendix A; the maximum by Blom 1958"),
)
def distinct_experts(
    experts: int,
    top_k: int,
    tokens: Seconds,
    popularity: float = POPULARITY,
    ranks: Seconds = 1.0,
) -> NDArray[np.float64]:
    """Experts of the busiest rank that at least one of ``tokens`` goes to, on average.

    Parameters
    ----------
    tokens : float or (n,)
        Tokens of the layer.
    popularity : float
        Standard deviation of ln w; 0 is uniform routing.
    ranks : float or (n,)
        Ranks that share the experts at random; 1 is all of them.

    A rank has the mean and, as a sum of independent experts, the variance
    ``E / R p (1 - p) (1 - 1/R)`` of the mean chance ``p``; the largest of ``R`` normal numbers
    is z(R) deviations above the mean.
    """
    missed = np.log1p(-np.array(_chances(experts, top_k, popularity)))
    together = np.asarray(tokens, dtype=float)[..., np.newaxis] * missed
    used = np.asarray(-np.expm1(together).sum(axis=-1))
    ranks = np.asarray(ranks, dtype=float)
    local, chance = experts / ranks, used / experts
    spread = np.sqrt(local * chance * (1.0 - chance) * (1.0 - 1.0 / ranks))
    busiest = used / ranks + _largest(ranks) * spread
    return np.asarray(np.minimum(busiest, np.minimum(local, used)))


@lru_cache(maxsize=256)
def _chances(experts: int, top_k: int, popularity: float) -> tuple[float, ...]:
    """Chance that a token goes to an expert: ``top_k`` shared out by popularity, none above 1."""
    normal = NormalDist().inv_cdf
    quantiles = [normal((rank + 0.5) / experts) for rank in range(experts)]
    weight = np.exp(popularity * np.array(quantiles))
    chosen = top_k * weight / weight.sum()
    while np.any(chosen > 1.0):  # what the most popular cannot take goes to the others
        sure = chosen >= 1.0
        left = top_k - sure.sum()
        chosen = np.where(sure, 1.0, left * weight / max(weight[~sure].sum(), 1e-300))
    return tuple(np.minimum(chosen, 1.0 - 1e-12))


def _largest(count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the largest of ``count`` standard normal numbers, by Blom's approximation."""
    several, where = np.unique(np.maximum(count, 1.0), return_inverse=True)
    normal = NormalDist().inv_cdf
    found = np.array([normal((n - 0.375) / (n + 0.25)) for n in several.tolist()])
    return np.asarray(found[where].reshape(count.shape))


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
