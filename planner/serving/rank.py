"""From a resolved request to a ranking: search, whole evaluation, plans, statistics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from planner.errors import Infeasible, PlannerError
from planner.results.bands import Band, expected_errors
from planner.results.format import show
from planner.results.plan import Plan
from planner.results.ranking import Baseline, Ranking
from planner.results.stability import stays_first
from planner.search.milp import Solved
from planner.serving.check import CHECKED, checked
from planner.serving.deployment import Deployment
from planner.serving.evaluate import whole
from planner.serving.front import front
from planner.serving.infeasible import infeasible
from planner.serving.mixture import mixture
from planner.serving.question import Targets
from planner.serving.report import COLUMNS, DEFINITIONS, make_plan
from planner.serving.request import Request
from planner.serving.search import Tables, compose, evaluate
from planner.serving.sensitivity import deepen
from planner.serving.why import why_not

KIND = "serving"
WORTHWHILE = 0.05
"""What several kinds of replicas on one kind of device must gain over one to be proposed."""
SCALES = (0.5, 2.0)
"""Measured over predicted time that one factor may bridge; beyond it, something else is wrong."""


@dataclass(frozen=True)
class Maker:
    """Turns deployments into plans that share a request, error bands and a baseline."""

    request: Request
    bands: Mapping[str, Band]
    baseline: Baseline | None = None

    def plan(self, found: Deployment, position: int = 1) -> Plan:
        """The plan of a deployment."""
        plan = make_plan(self.request, found, self.bands, position, self.baseline)
        return replace(plan, deepen=partial(deepen, request=self.request, found=found))


def rank(request: Request) -> Ranking:
    """Answer a resolved request.

    Raises
    ------
    PlannerError
        If the baseline is wrong or two pools have no link.
    Infeasible
        If nothing meets every target.
    """
    start = time.perf_counter()
    generation = request.means.fleets[0].run.device.generation
    maker = Maker(request, expected_errors(KIND, generation, request.engine.name))
    maker = replace(maker, baseline=_baseline(maker))
    scaled = _scaled(request, 1.0 if maker.baseline is None else maker.baseline.scale)
    model, means, asked = scaled.model, scaled.means, scaled.asked
    found = evaluate(model, means, asked, scaled.architectures)
    merit = partial(_merit, request=scaled)
    order = sorted(compose(found, model, means, asked), key=merit)
    if not order:
        raise infeasible(scaled, found)
    mixed, solved = mix(scaled, found, order)
    if mixed is not None:
        order = sorted([mixed, *order], key=merit)
    chosen = [whole(one, model, asked) for one in order[: request.options.top]]
    maker = replace(maker, request=scaled)
    plans = [maker.plan(one, position) for position, one in enumerate(chosen, start=1)]
    if request.options.check:
        plans = [*map(partial(checked, request=scaled), plans[:CHECKED], chosen), *plans[CHECKED:]]
    plans[0] = replace(plans[0], notes=(*plans[0].notes, *why_not(scaled, found, order)))
    points = front(scaled, found) if request.options.pareto else []
    return Ranking(
        KIND,
        tuple(plans),
        request.record,
        {
            "stays_first": _stability(plans, request.options.objective),
            **_statistics(found, solved, time.perf_counter() - start),
        },
        DEFINITIONS,
        COLUMNS,
        maker.bands,
        maker.baseline,
        tuple(maker.plan(one, position) for position, one in enumerate(points, start=1)),
    )


def best(request: Request) -> Deployment:
    """The first deployment of the ranking, evaluated as a whole.

    Raises
    ------
    Infeasible
        If nothing meets every target.
    """
    model, means, asked = request.model, request.means, request.asked
    found = evaluate(model, means, asked, request.architectures)
    one = min(
        compose(found, model, means, asked), key=partial(_merit, request=request), default=None
    )
    if one is None:
        raise infeasible(request, found)
    return whole(one, model, asked)


def _stability(plans: list[Plan], objective: str) -> float | None:
    """How often the first plan stays first, where speed decides the order."""
    if objective == "devices":
        return None
    worth = [float(plan.metrics["tokens_per_s_per_device"] or 0.0) for plan in plans]
    return stays_first(plans, worth, plans[0].metrics["expected_error"])


def mix(
    request: Request, found: Tables, order: list[Deployment]
) -> tuple[Deployment | None, Solved | None]:
    """A mixture that is better than the best of one kind, and what the solver proved.

    A closed loop is not divided, fixed axes fix the kinds, and for each device no mixture beats its
    best part.
    """
    asked = request.asked
    if asked.concurrency is not None or asked.fixed or request.means.each:
        return None, None
    by_price = request.options.objective == "price"
    mixed, solved = mixture(found, request.means, asked, order, by_price)
    if mixed is None:
        return None, solved
    one = whole(mixed, request.model, asked)
    held = one.ttft <= asked.targets.ttft and one.tpot <= asked.targets.tpot
    kinds = 1.0 - WORTHWHILE if len(request.means.fleets) == 1 else 1.0
    first, second = (_merit(d, request)[0] for d in (one, order[0]))
    better = first < (second / kinds if second < 0.0 else second * kinds)
    return (one if held and better else None), solved


def _statistics(
    found: Tables, solved: Solved | None, seconds: float
) -> dict[str, float | int | str | None]:
    columns, compositions = found.columns, found.compositions
    return {
        "candidates": columns + compositions,
        "columns": columns,
        "compositions": compositions,
        "evaluated": columns,
        "mixture": None if solved is None else solved.status,
        "mixture_gap": None if solved is None or not np.isfinite(solved.gap) else solved.gap,
        "seconds": seconds,
    }


def _merit(found: Deployment, request: Request) -> tuple[float, ...]:
    """Better first; ties go to fewer devices, then to fewer and smaller replicas."""
    means, rate = request.means, request.asked.rate
    served = found.requests if rate is None else min(rate, found.requests)
    used = float(means.used(found.parts)[:-1].sum())
    layout = [float(x) for part in found.parts for x in (part.count, *part.column.layouts[0])]
    latency = found.ttft + request.asked.osl * found.tpot
    rest = (used, round(latency, 6), *layout)
    if request.options.objective == "devices":
        return (used, -found.requests, *rest)
    if request.options.objective == "price":
        return (round((means.cost(found.parts) or 0.0) / served, 9), *rest)
    return (-round(served / used if means.each else served, 9), *rest)


def _scaled(request: Request, scale: float) -> Request:
    """The request on a clock that runs as fast as the model's: measured times over ``scale``."""
    if scale == 1.0:
        return request
    asked = request.asked
    targets = Targets(*(getattr(asked.targets, f.name) / scale for f in fields(Targets)))
    rate = None if asked.rate is None else asked.rate * scale
    return replace(request, asked=replace(asked, targets=targets, rate=rate))


def _baseline(maker: Maker) -> Baseline | None:
    """The plan of what the user runs today, scaled to its measured time of a token."""
    request, given = maker.request, maker.request.options.baseline
    measured = request.options.measured
    if given is None:
        if measured is not None:
            raise PlannerError("--measured: found no --baseline, expected what was measured.")
        return None
    asked = replace(request.asked, fixed=given, targets=Targets())
    name = "disaggregated" if any(key.startswith("prefill_") for key in given) else "aggregated"
    try:
        one = best(replace(request, asked=asked, architectures=(name,)))
    except Infeasible as error:
        raise PlannerError(f"baseline: {error}") from None
    scale = 1.0 if measured is None else measured / one.tpot
    if not SCALES[0] <= scale <= SCALES[1]:
        raise PlannerError(
            f"measured: found {show(measured, 's')} where {show(one.tpot, 's')} is predicted for"
            f" the baseline, a factor of {scale:.2f}; expected {SCALES[0]:g} to {SCALES[1]:g}, so"
            " model, cluster, load or baseline are not what was measured."
        )
    plan = make_plan(request, one, maker.bands, 0)
    return Baseline(
        make_plan(request, one, maker.bands, 0, Baseline(plan, measured, scale)), measured, scale
    )
