"""What would help a plan: its time when one number of the hardware gets a tenth better.

Each change is one more estimate of the same configuration.  More memory changes no configuration's
time by itself, so it is asked what it would let the user run instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.errors import PlannerError
from planner.results.plan import Plan, Sensitivity
from planner.specs.better import TENTH, better_clusters
from planner.specs.parallelism import TRAINING_AXES, Configuration, check, training_rules
from planner.training.assumptions import change, weigh
from planner.training.estimate import Estimate, estimate
from planner.training.request import Request


def deepen(plan: Plan, request: Request) -> Plan:
    """The plan with its sensitivities and the weights of its assumptions."""
    configuration = Configuration(**plan.configuration)  # type: ignore[arg-type]
    base = estimate(request.model, request.cluster, request.job, configuration)
    found = [
        Sensitivity(text, change(request, base, cluster, request.job))
        for text, cluster in better_clusters(request.cluster)
    ]
    found.extend(_with_more_memory(request, base))
    return replace(plan, sensitivities=tuple(found), assumptions=weigh(request, base))


def _with_more_memory(request: Request, base: Estimate) -> Iterator[Sensitivity]:
    """The best single change of an axis that only a tenth more memory makes possible."""
    usable = request.usable_memory
    rules = training_rules(request.model, request.job, base.configuration.devices)
    best: tuple[float, str] | None = None
    for text, configuration in _hungrier(base.configuration):
        try:
            check(configuration, rules)
            found = estimate(request.model, request.cluster, request.job, configuration)
        except PlannerError:
            continue
        effect = found.seconds / base.seconds - 1.0
        if usable < found.peak_memory <= usable * (1.0 + TENTH) and effect < 0.0:
            best = min(best or (0.0, ""), (effect, text))
    if best is not None:
        yield Sensitivity(f"+10 % memory, which admits {best[1]}", best[0])


def _hungrier(configuration: Configuration) -> Iterator[tuple[str, Configuration]]:
    """Neighbours that trade memory for time."""
    policies = TRAINING_AXES["recompute"].values
    for policy in policies[: policies.index(configuration.recompute)]:
        yield f"recompute={policy}", replace(configuration, recompute=policy)
    double = 2 * configuration.micro_batch
    yield f"micro_batch={double}", replace(configuration, micro_batch=double)
    for axis in ("tp", "pp"):
        degree = getattr(configuration, axis)
        if degree % 2 == 0:
            half = {axis: degree // 2, "dp": 2 * configuration.dp}
            if axis == "tp" and degree == 2:
                half["sequence_parallel"] = 0
            yield f"{axis}={degree // 2}", replace(configuration, **half)
