"""Why no deployment does what was asked: which target fails first, and by how much."""

from __future__ import annotations

import numpy as np

from planner.errors import Infeasible
from planner.results.format import show
from planner.serving.attention_ffn import expert_layers
from planner.serving.percentiles import tpot_share, ttft_share
from planner.serving.question import Question
from planner.serving.request import Request
from planner.serving.search import Tables


def infeasible(request: Request, found: Tables) -> Infeasible:
    """The error that says what cannot be met."""
    asked, means, name = request.asked, request.means, request.model.name
    if request.architectures == ("attention-ffn",) and not expert_layers(request.model):
        return Infeasible(f"{name} has no layer of experts that a pool of its own could serve.")
    if not found.columns:
        kinds = " or ".join(sorted({fleet.run.device.name for fleet in means.fleets}))
        return Infeasible(
            f"{name} does not fit: no layout of up to {means.devices} {kinds} has room for weights"
            f" in {request.widths.weights} and one sequence of {asked.isl + asked.osl:.0f} tokens."
        )
    for target in ("tpot", "ttft"):
        missed = _missed(asked, found, target)
        if missed:
            return Infeasible(f"no deployment meets {target} {missed}.")
    both = [one for one in found.tables if one.role in ("any", "shared")]
    wholes = [one.ttft + (asked.osl - 1.0) * one.tpot for one in both]
    least = min((float(v.min()) for v in wholes if len(v)), default=0.0)
    limit = asked.targets.end_to_end
    if least > limit:
        return Infeasible(
            f"no deployment meets end_to_end {show(limit, 's')}: the fastest takes"
            f" {show(least, 's')}, {least / limit:.2g} times as long."
        )
    if asked.fixed:
        return Infeasible(
            f"no deployment with {', '.join(f'{k}={_any(v)}' for k, v in asked.fixed.items())} fits"
            f" {means.devices} devices and the targets; expected other values or fewer of them."
        )
    if asked.rate is not None:
        return Infeasible(
            f"no deployment of {means.devices} devices serves {asked.rate:g} requests per second"
            " within the targets; expected more devices or a lower rate."
        )
    if asked.targets != type(asked.targets)():
        return Infeasible("no deployment meets all targets at once; each alone can be met.")
    return Infeasible(
        f"{name} does not fit: no deployment of {request.options.architecture} architecture stays"
        f" within {means.devices} devices and the budget."
    )


ROLES = {"tpot": "decoding", "ttft": "prompts"}
"""What a target is of."""


def _missed(asked: Question, found: Tables, target: str) -> str:
    """The target and by how much the best column misses it; nothing where one meets it."""
    limit = getattr(asked.targets, target)
    if np.isinf(limit):
        return ""
    roles = {"tpot": ("any", "shared", "decode", "attention"), "ttft": ("any", "shared", "prefill")}
    tables = [one for one in found.tables if one.role in roles[target] and len(one)]
    if not tables:
        return f"{show(limit, 's')}: no pool holds the model's {ROLES[target]}"
    if asked.percentile is not None:
        reached = ttft_share if target == "ttft" else tpot_share
        best = max(float(reached(one.times, limit + np.zeros(len(one))).max()) for one in tables)
        if best >= asked.percentile - 1e-12:
            return ""
        return (
            f"{show(limit, 's')} for {asked.percentile:.4g} of the requests: the best deployment"
            f" meets it for {best:.4g}"
        )
    least = min(float(getattr(one, target).min()) for one in tables)
    if least <= limit:
        return ""
    times = least / limit
    return f"{show(limit, 's')}: the fastest takes {show(least, 's')}, {times:.2g} times as long"


def _any(values: tuple[int, ...]) -> str:
    return " or ".join(map(str, values))
