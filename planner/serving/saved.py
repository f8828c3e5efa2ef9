"""A result file opened again: what would help each plan is computed when it is asked for.

The file carries every option; the model and the clusters are looked up again and their digests
compared.  Where something changed since, the explanation says so and leaves the sensitivities out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any

from planner.errors import PlannerError
from planner.results.plan import Plan
from planner.results.ranking import Ranking
from planner.serving.axes import SERVING_AXES
from planner.serving.rank import best
from planner.serving.request import Options, Request, resolve
from planner.serving.sensitivity import deepen


def reopened(ranking: Ranking) -> Ranking:
    """The ranking, whose plans compute their sensitivities when they are asked for."""

    @cache
    def again() -> Request:
        return _request(ranking.inputs)

    def explained(plan: Plan) -> Plan:
        try:
            request = again()
            if plan.configuration.get("mixture"):
                raise PlannerError("several kinds of replicas share the load")
            found = best(_only(request, plan))
        except PlannerError as error:
            note = f"sensitivities left out: {str(error).rstrip('.')}"
            return replace(plan, sensitivities=(), notes=(*plan.notes, note))
        return deepen(plan, request, found)

    base = ranking.baseline
    return replace(
        ranking,
        plans=tuple(replace(plan, deepen=explained) for plan in ranking.plans),
        pareto=tuple(replace(plan, deepen=explained) for plan in ranking.pareto),
        baseline=base and replace(base, plan=replace(base.plan, deepen=explained)),
    )


def _only(request: Request, plan: Plan) -> Request:
    """The request with every axis fixed to the plan's."""
    values = ((name, plan.configuration.get(name)) for name in SERVING_AXES)
    fixed = {name: (int(value),) for name, value in values if value is not None}
    name = str(plan.configuration["architecture"])
    asked = replace(request.asked, fixed=fixed)
    return replace(request, asked=asked, architectures=(name,))


def _request(inputs: Mapping[str, Any]) -> Request:
    """Look everything up again.

    Raises
    ------
    PlannerError
        If a model or a cluster is gone or has changed.
    """
    try:
        given = {item.name: inputs[item.name] for item in fields(Options)}
        for name in ("fixed", "baseline"):
            if given[name] is not None:
                given[name] = {axis: tuple(values) for axis, values in given[name].items()}
        given["pools"], given["db"] = tuple(given["pools"]), tuple(given["db"])
        request = resolve(inputs["model"], inputs["cluster"], Options(**given))
        for name, written in inputs["digests"].items():
            if written != request.record["digests"].get(name):
                raise PlannerError(f"{name} has changed since the file was written")
    except (KeyError, TypeError, AttributeError) as error:
        raise PlannerError(f"the file's inputs are damaged ({error!r})") from None
    return request
