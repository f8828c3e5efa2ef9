"""Trade-offs: the plans that no other plan beats on time and memory, or on time and price, at once.

Time against memory is sampled: the fastest plan under each of a few limits between the least that
any plan needs and what the fastest needs.  Price is device-seconds, so on one number of devices it
falls with time, and the front over several numbers is exact: the fastest plan of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from planner.specs.parallelism import Configuration
from planner.training.estimate import Estimate, estimate
from planner.training.request import Request
from planner.training.search import search

LIMITS = 8
"""Memory limits between the least and the most that are sampled."""


def front(
    request: Request, devices: tuple[int, ...], longest_step: float | None = None
) -> list[Estimate]:
    """The estimates on the front that the request asks for, fastest first; empty when none is."""
    if request.options.pareto is None:
        return []
    if request.options.pareto == "price":
        found = [_fastest(request, (number,), longest_step) for number in devices]
        return _undominated([e for e in found if e is not None], _device_seconds)
    return _undominated(list(_by_memory(request, devices, longest_step)), _peak)


def _device_seconds(found: Estimate) -> float:
    return found.seconds * found.configuration.devices


def _peak(found: Estimate) -> float:
    return found.peak_memory


def _by_memory(
    request: Request, devices: tuple[int, ...], longest_step: float | None
) -> Iterator[Estimate]:
    fastest = _fastest(request, devices, longest_step)
    leanest = _fastest(request, devices, longest_step, objective="memory")
    if fastest is None or leanest is None:
        return
    yield from (fastest, leanest)
    low, high = leanest.peak_memory, fastest.peak_memory
    for step in range(1, LIMITS + 1):
        limit = low + (high - low) * step / (LIMITS + 1)
        found = _fastest(request, devices, longest_step, limit=limit)
        if found is not None:
            yield found


def _fastest(
    request: Request,
    devices: tuple[int, ...],
    longest_step: float | None,
    *,
    objective: str = "throughput",
    limit: float | None = None,
) -> Estimate | None:
    reserve = request.options.memory_reserve
    if limit is not None:
        reserve = 1.0 - limit / request.cluster.accelerator.memory
    found = search(
        request.model,
        request.cluster,
        request.job,
        devices=devices,
        fixed=request.options.fixed,
        top=1,
        objective=objective,
        memory_reserve=reserve,
        max_step_time=longest_step,
    ).configurations
    return _estimate(request, found[0]) if found else None


def _estimate(request: Request, configuration: Configuration) -> Estimate:
    return estimate(request.model, request.cluster, request.job, configuration)


def _undominated(found: list[Estimate], cost: Callable[[Estimate], float]) -> list[Estimate]:
    """Fastest first, each cheaper than all that are faster."""
    kept: list[Estimate] = []
    for one in sorted(found, key=lambda e: (e.seconds, cost(e))):
        if not kept or cost(one) < cost(kept[-1]) * (1.0 - 1e-9):
            kept.append(one)
    return kept
