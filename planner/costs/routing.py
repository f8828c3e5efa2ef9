"""How tokens fall on the experts of the busiest rank under a routing that a benchmark names.

Public kernel tables time a mixture-of-experts layer under balanced routing and under loads drawn
from a power law, and then the rank with the most rows.  The draw itself is not recorded, so a row
is predicted at the mean of a few draws with a fixed seed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.errors import PlannerError

DRAWS = 16
BALANCED = "balanced"
POWER_LAW = "power_law_"
STEEPEST = 10.0
"""Largest size of a power law's exponent; tables have 1.01 and 1.2."""


@term(
    "D(R) = R (1 - C(E - E/R, K) / C(E, K))",
    Ref("HierMoE, arXiv 2508.09591", "table II; drawn without replacement"),
)
def distinct_groups(groups: Seconds, drawn: Seconds, items: Seconds) -> NDArray[np.float64]:
    """Groups that hold one of ``drawn`` of ``items``, spread evenly, on average.

    Drawn without replacement and uniformly; shapes broadcast to ``(n,)``.
    """
    groups, drawn, items = np.broadcast_arrays(
        *(np.asarray(part, dtype=float) for part in (groups, drawn, items))
    )
    missed = np.ones_like(groups)
    inside = items / groups
    for already in range(int(drawn.max(initial=0.0))):
        left = np.maximum(0.0, items - inside - already) / np.maximum(items - already, 1.0)
        missed = np.where(already < drawn, missed * left, missed)
    return np.asarray(groups * (1.0 - missed))


@term(
    "loads (lo^(1-a) + u (hi^(1-a) - lo^(1-a)))^(1/(1-a)), u uniform; busiest of E/R experts",
    Ref("ai-dynamo/aiconfigurator (Apache-2.0)", "collector, power-law routing"),
)
@lru_cache(maxsize=65536)
def busiest_rank(
    tokens: int, topk: int, experts: int, ranks: int, routing: str
) -> tuple[float, float]:
    """Rows on the busiest rank and its experts that have any.

    Parameters
    ----------
    tokens
        Tokens that enter the layer, over all ranks.
    topk
        Experts a token goes to.
    routing
        ``balanced``, or ``power_law_A`` for loads with the exponent A, from 1 to 0.8 ``tokens``
        where every expert can have a row, and from 0.01 to 2 where not.

    Raises
    ------
    PlannerError
        If the routing is neither, or its exponent is beyond 10.
    """
    local = max(1, experts // ranks)
    rows = float(tokens * topk)
    if routing == BALANCED:
        mean = max(1.0, rows / ranks)
        return mean, min(float(local), mean)
    exponent = _exponent(routing)
    random = np.random.default_rng(0)
    low, high = (1.0, max(1.0001, 0.8 * tokens)) if rows > experts else (0.01, 2.0)
    power = 1.0 - exponent
    uniform = random.random((DRAWS, experts))
    if abs(power) < 1e-9:  # the limit
        loads = low * (high / low) ** uniform
    else:
        loads = (low**power + uniform * (high**power - low**power)) ** (1.0 / power)
    counts = np.round(loads / loads.sum(axis=1, keepdims=True) * rows)
    counts = np.stack([_complete(one, rows, tokens, random) for one in counts])
    groups = counts[:, : local * (experts // local)].reshape(DRAWS, -1, local)
    most = groups[np.arange(DRAWS), groups.sum(axis=2).argmax(axis=1)]
    return max(1.0, float(most.sum(axis=1).mean())), max(1.0, float((most > 0).sum(axis=1).mean()))


def _exponent(routing: str) -> float:
    try:
        exponent = float(routing.removeprefix(POWER_LAW))
    except ValueError:
        exponent = np.nan
    if not (routing.startswith(POWER_LAW) and abs(exponent) <= STEEPEST):
        raise PlannerError(
            f"routing: found {routing!r}, expected {BALANCED} or {POWER_LAW}1.2, "
            f"with an exponent of at most {STEEPEST:g}"
        )
    return exponent


def _complete(
    counts: NDArray[np.float64], rows: float, most: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Whole counts that add up to ``rows``: the largest experts take what rounding lost."""
    counts = np.minimum(counts, most)
    missing = int(rows - counts.sum())
    order = np.argsort(-counts - 0.5 * random.random(len(counts)))
    if missing > 0:
        everyone, few = divmod(missing, len(counts))
        counts += everyone
        counts[order[:few]] += 1
    while missing < 0:
        used = order[::-1][counts[order[::-1]] > 0][:-missing]
        counts[used] -= 1
        missing += len(used)
    return counts
