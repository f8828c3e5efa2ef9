"""Replicas chosen so that no device reads many experts: what bounds a layer in decode.

With few tokens a device's time is the weights that it reads, one set for each distinct expert that
a token of the step goes to.  Splitting an expert's tokens over its replicas then reads it once on
each of them.  Here all tokens of an expert go to one replica, chosen anew every step.
Sources: Janus, arXiv 2512.13525, section 4 (activated-expert-balanced scheduling) and appendix A
(the bound); METRO, arXiv 2512.09277, which balances the same number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def drawn(routing: Ints, experts: int, tokens: int, draws: int, seed: int = 0) -> Bools:
    """Which experts a step of ``tokens`` random ones of a record uses, shape (draws, E).

    Parameters
    ----------
    routing : (T, K)
        Recorded experts of every token in one layer.
    """
    random = np.random.default_rng(seed)
    active = np.zeros((draws, experts), dtype=bool)
    chosen = routing[random.integers(0, len(routing), (draws, tokens))].reshape(draws, -1)
    active[np.arange(draws)[:, np.newaxis], chosen] = True
    return active


def scheduled(active: Bools, hosted: Bools) -> Ints:
    """Experts that every device reads when each is served by one replica, shape (n, G).

    Experts with one device are counted first; each of the others, those with the fewest devices
    first, goes to the one of its devices that reads least, the first of several.

    Parameters
    ----------
    active : (n, E)
        Experts that each step uses.
    hosted : (E, G)
        Whether a device holds a replica.
    """
    homes = hosted.sum(axis=1)
    single = homes == 1
    reads = active[:, single].astype(np.int64) @ hosted[single].astype(np.int64)
    several = np.flatnonzero(homes > 1)
    step = np.arange(len(active))
    for expert in several[np.argsort(homes[several], kind="stable")]:
        devices = np.flatnonzero(hosted[expert])
        least = devices[reads[:, devices].argmin(axis=1)]
        reads[step, least] += active[:, expert]
    return np.asarray(reads)


@term(
    "sum over e of 1 - (1 - p_e x_eg)^T",
    Ref("Janus, arXiv 2512.13525", "appendix A; with a replica's share of the tokens"),
)
def expected_reads(chances: Floats, shares: Floats, tokens: int) -> Floats:
    """Experts that every device reads on average when tokens split over replicas, shape (G,).

    Parameters
    ----------
    chances : (E,)
        Chance that a token goes to an expert, K in sum.
    shares : (E, G)
        Part of an expert's tokens that each device serves; 1 wherever it could be served gives
        the most that `scheduled` can read there.
    """
    missed = np.log1p(-np.minimum(chances[:, np.newaxis] * shares, 1.0 - 1e-12))
    return np.asarray(-np.expm1(tokens * missed).sum(axis=0))


@term(
    "min(C, a + sqrt(2 a ln G)) + 1, a = max over g of sum over e on g of 1 - (1 - p_e)^T",
    Ref("Janus, arXiv 2512.13525", "appendix A, equation 5"),
)
def most_reads(chances: Floats, hosted: Bools, tokens: int) -> float:
    """Bound on the mean, over steps, of the experts that the busiest device reads.

    Parameters
    ----------
    chances : (E,)
        Chance that a token goes to an expert, K in sum.
    hosted : (E, G)
        Whether a device holds a replica.
    """
    mean = float(expected_reads(chances, hosted.astype(float), tokens).max())
    held = float(hosted.sum(axis=0).max())
    return min(held, mean + float(np.sqrt(2.0 * mean * np.log(hosted.shape[1])))) + 1.0
