"""What a placement loses as loads drift away from those it was made for, and when to renew it.

The logarithm of an expert's load walks at random, so its standard deviation grows with the root of
time.  The longer a placement stays, the more balance is lost; the shorter, the more moves are paid.
Sources: Young 1974, Communications of the ACM 17(9) (the same balance for checkpoints, where the
loss grows linearly); TensorRT-LLM's measured 1.115 after one interval fits a deviation of 0.12.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

Floats = NDArray[np.float64]

DRAWS = 32
"""Loads of another day that a mean is taken over."""
WALK = 0.5
"""Growth of the loss with time where loads walk at random; 1 is a steady trend."""
SEED = 1
"""Of the draws; not 0, with which loads are generated: they would drift along with themselves."""


def drifted(loads: Floats, deviation: float, draws: int = DRAWS, seed: int = SEED) -> Floats:
    """Loads of other days, shape (draws, L, E).

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert.
    deviation
        Standard deviation of the logarithm of an expert's load from one day to the other.
    """
    random = np.random.default_rng(seed)
    return np.asarray(loads * np.exp(random.normal(0.0, deviation, (draws, *loads.shape))))


@term(
    "mean over days of max over g of sum over e of load_e exp(N(0, s)) x_eg, over the mean device",
    Ref("TensorRT-LLM examples/ep_load_balancer/README.md", "after EPLB, 288 slots on 36 devices"),
)
def drifted_balance(
    loads: Floats, shares: Floats, deviation: float, draws: int = DRAWS, seed: int = SEED
) -> Floats:
    """Largest load of a device over the mean on other days, by layer, shape (L,).

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert that the placement was made for.
    shares : (L, E, G)
        Part of an expert's tokens that each device serves.
    """
    days = drifted(loads, deviation, draws, seed)
    by_device = days.transpose(1, 0, 2) @ shares  # (L, draws, G)
    return np.asarray((by_device.max(axis=2) / by_device.mean(axis=2)).mean(axis=1))


@term(
    "t = (C (q + 1) / (d q))^(1 / (q + 1)) for a loss d t^q and a cost C",
    Ref("Young 1974, Communications of the ACM 17(9)", "first-order optimum, there with q = 1"),
)
def best_interval(loss: Seconds, cost: Seconds, growth: float = WALK) -> Seconds:
    """Time between two moves for the least `lost` [s].

    Parameters
    ----------
    loss
        Part of the time that is lost one second after a move, see ``growth`` [1].
    cost
        What a move costs [s].
    growth
        Power of time with which the loss grows.
    """
    return np.asarray((cost * (growth + 1.0) / (loss * growth)) ** (1.0 / (growth + 1.0)))


@term("d t^q / (q + 1) + C / t", Ref("Young 1974, Communications of the ACM 17(9)", "equation 1"))
def lost(interval: Seconds, loss: Seconds, cost: Seconds, growth: float = WALK) -> Seconds:
    """Part of the time lost to imbalance and moves when one is made every ``interval`` [1]."""
    return np.asarray(loss * interval**growth / (growth + 1.0) + cost / interval)
