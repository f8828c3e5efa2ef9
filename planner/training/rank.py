"""From a resolved request to a ranking: baseline, search, plans, statistics."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from planner.errors import PlannerError
from planner.results.bands import Band, expected_errors
from planner.results.format import show
from planner.results.plan import Plan
from planner.results.ranking import Baseline, Ranking
from planner.results.stability import stays_first
from planner.training.axes import complete
from planner.training.devices import device_numbers
from planner.training.estimate import Estimate, estimate
from planner.training.front import front
from planner.training.infeasible import infeasible, refuse_forbidden
from planner.training.report import DEFINITIONS, columns, make_plan
from planner.training.request import Request
from planner.training.search import Found, search
from planner.training.sensitivity import deepen

KIND = "training"

SCALES = (0.5, 2.0)
"""Measured over predicted time that one factor may bridge; beyond it, something else is wrong."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Maker:
    """Turns estimates into plans that share a request, error bands and a baseline."""

    request: Request
    bands: Mapping[str, Band]
    baseline: Baseline | None = None

    @classmethod
    def of(cls, request: Request) -> Maker:
        """A maker without a baseline."""
        generation = request.cluster.accelerator.generation
        return cls(request, expected_errors(KIND, generation, request.options.software))

    @property
    def scale(self) -> float:
        return self.baseline.scale if self.baseline else 1.0

    def plan(self, found: Estimate, rank: int = 1) -> Plan:
        """The plan of an estimate."""
        base = self.baseline.plan if self.baseline else None
        plan = make_plan(
            self.request, found, self.bands, rank=rank, scale=self.scale, baseline=base
        )
        return replace(plan, deepen=partial(deepen, request=self.request))


def rank(request: Request, progress: Progress | None = None) -> Ranking:
    """Answer a resolved request.

    Raises
    ------
    PlannerError
        If a rule forbids what is fixed, or the baseline is wrong.
    Infeasible
        If nothing satisfies every constraint.
    """
    start = time.perf_counter()
    options = request.options
    devices = device_numbers(request.cluster, options.devices, options.max_devices)
    refuse_forbidden(request, devices)
    maker = Maker.of(request)
    maker = replace(maker, baseline=_baseline(maker, devices))
    longest = request.longest_step
    limit = None if longest is None else longest / maker.scale
    found = search(
        request.model,
        request.cluster,
        request.job,
        devices=devices,
        fixed=options.fixed,
        top=options.top,
        objective=options.objective,
        memory_reserve=options.memory_reserve,
        max_step_time=limit,
        memory_front=options.pareto == "memory",
        progress=progress,
    )
    chosen = found.configurations
    if not chosen and found.candidates == 1 and found.removed.get("memory") and found.nearest_miss:
        chosen = (found.nearest_miss,)  # every axis is fixed: an estimate, which says it is too big
    if not chosen:
        raise infeasible(request, devices, found, maker.scale)
    plans = [
        maker.plan(estimate(request.model, request.cluster, request.job, configuration), position)
        for position, configuration in enumerate(chosen, start=1)
    ]
    points = front(request, devices, found, limit)
    return Ranking(
        KIND,
        tuple(plans),
        {**request.record, "resolved": {**request.record["resolved"], "devices": [*devices]}},
        {**_stability(plans, options.objective), **_statistics(found, time.perf_counter() - start)},
        DEFINITIONS,
        columns(devices),
        maker.bands,
        maker.baseline,
        tuple(maker.plan(point, position) for position, point in enumerate(points, start=1)),
    )


def _stability(plans: list[Plan], objective: str) -> dict[str, float | None]:
    """How often the first plan stays first, where time decides the order."""
    if objective not in ("throughput", "price"):
        return {"stays_first": None}
    worth = [1.0 / float(plan.metrics["step_time"] or 1.0) for plan in plans]
    return {"stays_first": stays_first(plans, worth, plans[0].metrics["expected_error"])}


def _baseline(maker: Maker, devices: tuple[int, ...]) -> Baseline | None:
    """The plan of what the user runs today, scaled to its measured time."""
    request = maker.request
    given, measured = request.options.baseline, request.options.measured
    if given is None:
        return None
    if len(devices) > 1 and "dp" not in given:
        raise PlannerError(
            f"baseline: found no dp while {len(devices)} numbers of devices are tried; expected"
            " tp, cp, pp and dp."
        )
    count = devices[0] if len(devices) == 1 and "dp" not in given else None
    configuration = complete(given, request.model, request.job, count)
    device_numbers(request.cluster, configuration.devices, None)
    found = estimate(request.model, request.cluster, request.job, configuration)
    scale = 1.0 if measured is None else measured / found.seconds
    if not SCALES[0] <= scale <= SCALES[1]:
        raise PlannerError(
            f"measured: found {show(measured, 's')} where {show(found.seconds, 's')} is predicted"
            f" for the baseline, a factor of {scale:.2f}; expected {SCALES[0]:g} to {SCALES[1]:g},"
            " so model, cluster, batch or baseline are not what was measured."
        )
    plan = make_plan(request, found, maker.bands, rank=0, scale=scale)
    plan = replace(plan, deepen=partial(deepen, request=request))
    return Baseline(plan, measured, scale)


def _statistics(found: Found, seconds: float) -> dict[str, float | int | None]:
    """What the search did; the last four values differ from run to run."""
    return {
        "candidates": found.candidates,
        "pruned": found.pruned_by_memory + found.pruned_by_bound,
        "pruned_by_memory": found.pruned_by_memory,
        "pruned_by_bound": found.pruned_by_bound,
        "evaluated": found.evaluated,
        **{f"removed_by_{name}": count for name, count in found.removed.items()},
        "seconds": seconds,
        "candidates_per_second": found.candidates / max(seconds, 1e-9),
        "evaluated_per_second": found.evaluated / max(seconds, 1e-9),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def peak_memory_bytes() -> int | None:
    """The largest resident size of this process so far [B]; None where the system cannot tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(size) if sys.platform == "darwin" else int(size) * 1024
