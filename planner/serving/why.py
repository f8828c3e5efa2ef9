"""Why not another architecture: what each of the others would have served, and what holds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.results.format import show
from planner.serving.deployment import Deployment
from planner.serving.evaluate import whole
from planner.serving.request import Request
from planner.serving.search import Tables

CLOSE = 0.005
"""Difference of throughput below which two architectures serve the same."""


def why_not(request: Request, found: Tables, order: Sequence[Deployment]) -> Iterator[str]:
    """One sentence for every architecture that was asked for and does not come first."""
    best: dict[str, Deployment] = {}
    for one in order:
        best.setdefault(one.architecture, one)
    winner = order[0]
    for name in request.architectures:
        if name == winner.architecture:
            continue
        other = best.get(name)
        if other is None:
            yield f"{name}: no deployment meets the targets"
            continue
        yield f"{name}: {_difference(request, winner, other)}"
    if winner.part("prefill") is None and "disaggregated" in best:
        yield f"do not disaggregate: {_reason(request, winner, best['disaggregated'])}"


def _difference(request: Request, winner: Deployment, other: Deployment) -> str:
    first, second = (d.requests / request.means.counted(d.parts) for d in (winner, other))
    if abs(second / first - 1.0) < CLOSE:
        text = "as many requests a device"
    else:
        text = f"{second / first:.2f} times the requests a device"
    return f"{text}, ttft {show(other.ttft, 's')}, tpot {show(other.tpot, 's')}"


def _reason(request: Request, winner: Deployment, other: Deployment) -> str:
    """What the best split deployment loses."""
    split = whole(other, request.model, request.asked)
    idle = split.idle
    worst = max(idle, key=lambda role: idle[role])
    spare = request.means.devices - sum(
        part.count * int(part.column.devices[0]) for part in split.parts
    )
    lost = f"{worst} devices of the best split deployment are idle {idle[worst]:.0%} of the time"
    if spare and request.means.whole:
        lost += f" and {spare} devices fit no whole replica"
    if idle[worst] < 0.02 and not spare:
        lost = (
            "prompts ride along with decode steps that are bound by memory,"
            " which separate prefill devices cannot use"
        )
    return lost
