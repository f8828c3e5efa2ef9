"""How often the first plan stays first when the model is as wrong as it may be.

A fitted number that is off shifts one kind of work in all plans alike, so each lane of the
breakdowns (compute, memory, link, host ...) gets an error common to every plan, log-normal with the
90th percentile of the expected error, and the plans are put in order again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.results.breakdown import lanes
from planner.results.plan import Plan

DRAWS = 2000
SEED = 0
NORMAL_90 = 1.645
"""Standard deviations within which 90 % of normal numbers lie."""


def stays_first(plans: Sequence[Plan], worth: Sequence[float], error: float | None) -> float | None:
    """Share of the draws in which no other plan is worth more than the first.

    Parameters
    ----------
    worth
        What each plan is ranked by, more is better; it falls as the plan's time grows.
    error
        90th percentile of the expected relative error of a time; None where unknown.
    """
    if error is None or not plans:
        return None
    kinds = sorted({lane for plan in plans for lane in lanes(plan.tree)})
    parts = np.array([[lanes(plan.tree).get(kind, 0.0) for kind in kinds] for plan in plans])
    sigma = np.log1p(error) / NORMAL_90
    drawn = np.exp(np.random.default_rng(SEED).normal(0.0, sigma, (DRAWS, len(kinds))))
    times = drawn @ np.maximum(parts, 0.0).T
    changed = np.asarray(worth) * np.maximum(parts, 0.0).sum(axis=1) / np.maximum(times, 1e-300)
    return float(np.mean(changed[:, 0] >= changed.max(axis=1) * (1.0 - 1e-9)))
