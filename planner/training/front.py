"""Trade-offs: plans that no other beats on time and memory, or on time and price, at once.

The front of time against memory comes out of the search itself.  Price is device-seconds, so on
one number of devices it falls with time, and the front over several numbers is the fastest plan of
each.
"""

from __future__ import annotations

from planner.specs.parallelism import Configuration
from planner.training.estimate import Estimate, estimate
from planner.training.request import Request
from planner.training.search import Found, search


def front(
    request: Request, devices: tuple[int, ...], found: Found, longest_step: float | None = None
) -> list[Estimate]:
    """The estimates on the front that the request asks for, fastest first; empty when none is.

    ``found`` is the answer of the search, which holds the front against memory when asked for.
    """
    if request.options.pareto == "memory":
        return [_estimate(request, configuration) for configuration in found.front]
    if request.options.pareto != "price":
        return []
    fastest = [_fastest(request, number, longest_step) for number in devices]
    kept: list[Estimate] = []
    for one in sorted((e for e in fastest if e is not None), key=lambda e: e.seconds):
        if not kept or _device_seconds(one) < _device_seconds(kept[-1]) * (1.0 - 1e-9):
            kept.append(one)
    return kept


def _device_seconds(found: Estimate) -> float:
    return found.seconds * found.configuration.devices


def _fastest(request: Request, devices: int, longest_step: float | None) -> Estimate | None:
    found = search(
        request.model,
        request.cluster,
        request.job,
        devices=(devices,),
        fixed=request.options.fixed,
        top=1,
        memory_reserve=request.options.memory_reserve,
        max_step_time=longest_step,
    ).configurations
    return _estimate(request, found[0]) if found else None


def _estimate(request: Request, configuration: Configuration) -> Estimate:
    return estimate(request.model, request.cluster, request.job, configuration)
