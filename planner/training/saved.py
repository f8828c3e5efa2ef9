"""A result file opened again: its plans can still be explained in full.

Sensitivities need further estimates, so the file carries every option; the model and the cluster
are looked up again and their digests compared.  Where something changed since, the explanation says
so and leaves the sensitivities out, and everything else stands as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any

from planner.errors import PlannerError
from planner.results.plan import Plan
from planner.results.ranking import Ranking
from planner.training.request import Options, Request, resolve
from planner.training.sensitivity import deepen


def reopened(ranking: Ranking) -> Ranking:
    """The ranking, whose plans compute their sensitivities when they are asked for."""

    @cache
    def again() -> Request:
        return _request(ranking.inputs)

    def explained(plan: Plan) -> Plan:
        try:
            request = again()
        except PlannerError as error:
            note = f"sensitivities left out: {str(error).rstrip('.')}"
            return replace(plan, sensitivities=(), notes=(*plan.notes, note))
        return deepen(plan, request)

    base = ranking.baseline
    return replace(
        ranking,
        plans=tuple(replace(plan, deepen=explained) for plan in ranking.plans),
        pareto=tuple(replace(plan, deepen=explained) for plan in ranking.pareto),
        baseline=base and replace(base, plan=replace(base.plan, deepen=explained)),
    )


def _request(inputs: Mapping[str, Any]) -> Request:
    """Look everything up again.

    Raises
    ------
    PlannerError
        If the model or the cluster is gone or has changed.
    """
    try:
        given = {item.name: inputs[item.name] for item in fields(Options)}
        given["fixed"] = {axis: tuple(values) for axis, values in given["fixed"].items()}
        given["db"] = tuple(given["db"])
        request = resolve(inputs["model"], inputs["cluster"], Options(**given))
        written = inputs["digests"]
        for kind in ("model", "cluster"):
            if written[kind] != request.record["digests"][kind]:
                raise PlannerError(f"{kind} {inputs[kind]} has changed since the file was written")
    except (KeyError, TypeError, AttributeError) as error:
        raise PlannerError(f"the file's inputs are damaged ({error!r})") from None
    return request
