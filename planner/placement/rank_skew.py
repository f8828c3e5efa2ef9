"""What known loads say about ranks of experts: the imbalance that the planners take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from planner.costs.imbalance import balance
from planner.errors import PlannerError
from planner.placement.generate import PRESETS, generate
from planner.placement.loads import Loads, as_loads, moe_layers
from planner.placement.packing import device_loads_of, pack
from planner.placement.replicas import balance_bound
from planner.search.space import divisors
from planner.specs.folders import near
from planner.specs.model import ModelSpec
from planner.specs.skew import RankSkew

PLACEMENTS = ("contiguous", "balanced")
TOKENS = 100_000
"""Tokens of generated loads."""


def known_skew(loads: Any, placement: str, model: ModelSpec) -> RankSkew | None:
    """The skew of the loads that were given; None without any.

    Raises
    ------
    PlannerError
        If the model has no experts, or as for ``rank_skew``.
    """
    if loads is None:
        return None
    if not moe_layers(model):
        raise PlannerError(f"loads: found loads for {model.name}, which has no experts.")
    return rank_skew(loads, model, placement)


def rank_skew(loads: Any, model: ModelSpec, placement: str = "contiguous") -> RankSkew:
    """The mean over layers of busiest over mean rank, for every number of ranks that divides.

    Parameters
    ----------
    loads
        A file of recorded loads, ``Loads``, or the name of a preset (``generate.PRESETS``).
    placement
        ``contiguous`` (neighbouring experts share a rank, what systems do unasked) or ``balanced``
        (``placement.packing``, without replicas).

    Raises
    ------
    PlannerError
        If the loads are not the model's, or the placement is unknown.
    """
    if placement not in PLACEMENTS:
        raise PlannerError(
            f"placement: found {placement!r}{near(placement, PLACEMENTS)}; expected one of"
            f" {', '.join(PLACEMENTS)}."
        )
    found = _loads(loads, model)
    ranks = divisors(found.experts)
    ratios = [1.0 if n == 1 else _busiest(found, n, placement) for n in ranks]
    return RankSkew(tuple(ranks), tuple(ratios), f"{found.where}, {placement} placement")


def _loads(loads: Any, model: ModelSpec) -> Loads:
    if isinstance(loads, str) and loads in PRESETS:
        return generate(model, PRESETS[loads], tokens=TOKENS)
    if isinstance(loads, str | Path) and not Path(loads).exists():
        raise PlannerError(
            f"loads: found {str(loads)!r}{near(str(loads), PRESETS)}; expected a file or one of"
            f" {', '.join(PRESETS)}."
        )
    return as_loads(loads, model)


def _busiest(loads: Loads, ranks: int, placement: str) -> float:
    counts = loads.counts
    if placement == "contiguous":
        each = counts.reshape(len(counts), ranks, -1).sum(axis=2)
    else:
        once = np.ones(counts.shape, dtype=np.int64)
        slots = pack(counts, once, ranks, balance_bound(counts, once, ranks))
        each = device_loads_of(counts, slots, ranks)
    return float(balance(each).mean())
