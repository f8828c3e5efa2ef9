"""``--check``: a plan replayed request by request, its simulated times beside the closed forms.

A replica, or the smallest group with the ratio of prefill to decode replicas, takes its share of
the requests, which arrive at random or, in a closed loop, from so many clients.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.errors import Infeasible
from planner.results.format import show
from planner.results.plan import Plan
from planner.serving.deployment import Deployment, Part
from planner.serving.disaggregated import Pool
from planner.serving.report import generating, runtime
from planner.serving.request import Request
from planner.serving.simulation import Traffic, simulate
from planner.serving.simulation_result import Result

REQUESTS = 1000
"""Fewest requests of a replay; four times those in flight if that is more ..."""
MOST = 4000
"""... but no more than this."""
ALIKE = 0.02
"""Relative difference of two ratios of prefill to decode replicas that is let pass."""
CHECKED = 3
"""Best plans that are replayed."""


def checked(plan: Plan, found: Deployment, request: Request) -> Plan:
    """The plan with simulated times; a note says where it cannot be replayed."""
    if found.part("shared") is not None or found.part("attention") is not None:
        return _noted(plan, f"{found.architecture} is not simulated")
    if request.asked.drafts:
        return _noted(plan, "drafted tokens are not simulated")
    try:
        done = _replay(found, request)
    except Infeasible as error:
        return _noted(plan, f"not simulated: {error}")
    scale = float(plan.metrics["tpot"] or 0.0) / found.tpot
    times = {
        "simulated_ttft": done.ttft.mean * scale,
        "simulated_ttft_p99": done.ttft.p99 * scale,
        "simulated_tpot": done.tpot.mean * scale,
        "simulated_tpot_p99": done.tpot.p99 * scale,
    }
    both = ", ".join(
        f"{name} {show(times[f'simulated_{name}'], 's')} simulated,"
        f" {show(float(plan.metrics[name] or 0.0), 's')} in closed form"
        for name in ("ttft", "tpot")
    )
    text = f"{len(done.sent):,} requests replayed: {both}"
    return _noted(replace(plan, metrics={**plan.metrics, **times}), text)


def _noted(plan: Plan, text: str) -> Plan:
    return replace(plan, notes=(*plan.notes, text))


def _replay(found: Deployment, request: Request) -> Result:
    """The smallest group of replicas under its share of the load."""
    asked, main, ahead = request.asked, generating(found), found.part("prefill")
    few, fill = _group(main.count, 0 if ahead is None else ahead.count)
    share = few / main.count
    flying = found.requests * share * (found.ttft + asked.osl * found.tpot)
    closed = asked.concurrency is not None
    lengths = asked.lengths
    traffic = Traffic(
        lengths.isl,
        lengths.osl,
        lengths.weight,
        requests=int(np.clip(4.0 * flying, REQUESTS, MOST)),
        concurrency=max(1, round((asked.concurrency or 0.0) * share)) if closed else None,
        rate=None if closed else found.requests * share,
        variation=asked.variation,
        hit=asked.hit,
    )
    pools = [_pool(main, few)] if ahead is None else [_pool(main, few), _pool(ahead, fill)]
    return simulate(request.model, traffic, *pools)


def _group(more: int, many: int) -> tuple[int, int]:
    """The fewest decode and prefill replicas with nearly the ratio of all."""
    if not many:
        return 1, 0
    for few in range(1, more):
        fill = round(few * many / more)
        if fill and abs(fill * more / (few * many) - 1.0) < ALIKE:
            return few, fill
    return more, many


def _pool(part: Part, count: int) -> Pool:
    return Pool(runtime(part.column), part.column.replica, np.array([float(count)]))
