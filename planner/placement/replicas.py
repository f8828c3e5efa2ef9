"""How many replicas each expert gets: apportionment, the best for the largest replica.

With equal splits a replica of an expert with n of them carries load / n.  Giving one slot after the
other to the expert whose replicas are the largest minimises that largest load: a count below the
greedy one leaves a replica larger than the greedy's largest (the argument of Huntington and Hill
for divisor methods of apportionment).  DeepSeek's EPLB counts the same way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.errors import PlannerError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IDLE = 1e-9
"""Load of an unused expert over the mean, so that spare slots go round among them."""


def replica_counts(loads: Floats, slots: int, most: int) -> Ints:
    """Replicas of every expert, ``slots`` in a layer, shape (L, E).

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert.
    most
        Replicas that an expert can have: one on every device.

    Raises
    ------
    PlannerError
        If there are fewer slots than experts, or more than ``most`` for each.
    """
    layers, experts = loads.shape
    if not experts <= slots <= experts * most:
        raise PlannerError(
            f"slots: found {slots}, expected {experts} (one for each expert) to {experts * most}"
            f" (one for each on {most} devices)."
        )
    share = np.maximum(loads, IDLE * loads.mean(axis=1, keepdims=True))
    counts = np.ones((layers, experts), dtype=np.int64)
    weight = share.copy() if most > 1 else np.full_like(share, -np.inf)
    layer = np.arange(layers)
    for _ in range(slots - experts):
        expert = weight.argmax(axis=1)
        counts[layer, expert] += 1
        count = counts[layer, expert]
        weight[layer, expert] = np.where(count < most, share[layer, expert] / count, -np.inf)
    return counts


@term(
    "max(1, max over e of load_e / n_e over the mean device), n the best counts for S slots",
    Ref("Huntington 1928, Trans. AMS 30(1)", "divisor methods; a device holds a whole replica"),
)
def balance_bound(loads: Floats, counts: Ints, devices: int) -> Floats:
    """Largest device load over the mean that no placement of these slots is below, shape (L,).

    Some device holds the largest replica, and no counts make it smaller than those of
    `replica_counts`; it is never below (heaviest expert / most replicas it can have) / mean.
    Without replicas `crowded` is a bound too.
    """
    mean = loads.sum(axis=1) / devices
    least = (loads / counts).max(axis=1)
    if loads.shape[1] % devices == 0 and np.all(counts == 1):
        least = np.maximum(least, crowded(loads, devices))
    return np.asarray(np.maximum(1.0, least / np.where(mean > 0, mean, 1.0)))


@term(
    "max over k of sum of w_(k G - k + 1) ... w_(k G + 1) and the R - k - 1 lightest, k < R",
    Ref("roofplan", "pigeonholes: of the k G + 1 heaviest, k + 1 share a device"),
)
def crowded(loads: Floats, devices: int) -> Floats:
    """Least load of the busiest device when each holds R = E / G experts, shape (L,)."""
    room = loads.shape[1] // devices
    falling = -np.sort(-loads, axis=1)
    lightest = np.cumsum(falling[:, ::-1], axis=1)
    best = np.zeros(len(loads))
    for k in range(room):
        together = falling[:, k * devices - k : k * devices + 1].sum(axis=1)
        rest = lightest[:, room - k - 2] if k < room - 1 else 0.0
        best = np.maximum(best, together + rest)
    return best
