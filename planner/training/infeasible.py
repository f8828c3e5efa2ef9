"""Nothing fits: which constraint removed how many candidates, the nearest miss, what would help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice, product

from planner.costs import topology
from planner.errors import Infeasible, PlannerError
from planner.results.format import assignments, show
from planner.specs.parallelism import Configuration, Rule, check, training_rules
from planner.training.axes import AxisValue
from planner.training.estimate import estimate
from planner.training.request import Request
from planner.training.search import Found, search
from planner.training.space import training_space

MOST_COMBINATIONS = 20_000
"""Combinations of fixed values that are checked to name the rule that forbids them."""

SHOWN = 3
"""Kinds of memory and ways to free it that a message names."""


def refuse_forbidden(request: Request, devices: tuple[int, ...]) -> None:
    """Raise when a rule forbids a fixed value, or every combination of the fixed values.

    Raises
    ------
    PlannerError
        Naming the rule and the values.
    """
    fixed = request.options.fixed
    rules = [training_rules(request.model, request.job, number) for number in devices]
    for name, values in fixed.items():
        for value in values:
            broken = [_broken(checked, {name: value}) for checked in rules]
            if all(broken):
                raise broken[0] or PlannerError(name)
    found: PlannerError | None = None
    for combination in islice(product(*fixed.values()), MOST_COMBINATIONS):
        chosen = dict(zip(fixed, combination, strict=True))
        for number, checked in zip(devices, rules, strict=True):
            problem = _broken(checked, chosen) or _idle(chosen, number)
            if problem is None:
                return
            found = found or problem
    if found is not None:
        raise found


def _broken(rules: list[Rule], values: Mapping[str, AxisValue]) -> PlannerError | None:
    """The first rule over some of these axes that they break."""
    for rule in rules:
        if set(rule.axes) <= values.keys() and not bool(rule.allows(values)):
            return _refusal(rule.name, rule.text, {axis: values[axis] for axis in rule.axes})
    return None


def _idle(values: Mapping[str, AxisValue], devices: int) -> PlannerError | None:
    """A mesh that cannot fill the devices whatever the free axes are."""
    for name, axes in (("attention", ("tp", "cp", "pp", "dp")), ("expert", ("ep", "etp", "pp"))):
        chosen = {axis: values[axis] for axis in axes if axis in values}
        size = 1
        for degree in chosen.values():
            size *= int(degree)
        if devices % size:
            text = f"{' * '.join(chosen)} must divide the {devices} devices"
            return _refusal(f"{name} mesh", text, chosen)
    return None


def _refusal(name: str, text: str, values: Mapping[str, AxisValue]) -> PlannerError:
    return PlannerError(f"rule '{name}': {text}; found {assignments(values)}.")


def infeasible(
    request: Request, devices: tuple[int, ...], found: Found, scale: float = 1.0
) -> Infeasible:
    """The error for a search that found nothing; ``scale`` multiplies every predicted time."""
    if not found.candidates:
        fixed = assignments({k: "|".join(map(str, v)) for k, v in request.options.fixed.items()})
        return Infeasible(
            f"nothing fits: the rules leave no candidate on {_some(devices)} devices"
            f" with {fixed or 'free axes'} and a global batch of {request.job.global_batch}."
        )
    removed = ", ".join(
        f"{name} removed {count:,}" for name, count in found.removed.items() if count
    )
    text = f"nothing fits: of {found.candidates:,} candidates {removed}"
    if found.removed.get("max-step-time"):
        return Infeasible(f"{text}; {_slow(request, devices, scale)}.")
    if found.nearest_miss is None:
        return Infeasible(f"{text}.")
    return Infeasible(f"{text}; {_full(request, found.nearest_miss)}.")


def _some(devices: tuple[int, ...]) -> str:
    return str(devices[0]) if len(devices) == 1 else f"{devices[0]} to {devices[-1]}"


def _slow(request: Request, devices: tuple[int, ...], scale: float) -> str:
    """The fastest plan, which is too slow."""
    fastest = search(
        request.model,
        request.cluster,
        request.job,
        devices=devices,
        fixed=request.options.fixed,
        top=1,
        memory_reserve=request.options.memory_reserve,
    ).configurations
    limit = show(request.longest_step, "s")
    if not fastest:
        return f"the limit is {limit} a step"
    best = estimate(request.model, request.cluster, request.job, fastest[0])
    return (
        f"the nearest miss takes {show(best.seconds * scale, 's')} a step, the limit is {limit}:"
        f" {assignments(best.configuration.as_dict())}; more devices or a longer limit would help"
    )


def _full(request: Request, nearest: Configuration) -> str:
    """The candidate that needs least memory, and what would make it fit."""
    best = estimate(request.model, request.cluster, request.job, nearest)
    kinds = sorted(best.memory.items(), key=lambda item: -item[1])[:SHOWN]
    largest = ", ".join(f"{kind} {show(size, 'B')}" for kind, size in kinds)
    text = (
        f"the nearest miss needs {show(best.peak_memory, 'B')} of"
        f" {show(request.usable_memory, 'B')} usable on a device ({largest}):"
        f" {assignments(nearest.as_dict())}"
    )
    ways = list(islice(_ways_out(request, nearest, best.peak_memory), SHOWN))
    return f"{text}; what would free memory: {', '.join(ways) or 'larger devices'}"


def _ways_out(request: Request, nearest: Configuration, peak: float) -> Iterator[str]:
    """Changes of what the user decided, the most helpful first."""
    memory = request.cluster.accelerator.memory
    if peak <= memory:
        share = show(1.0 - peak / memory, "fraction")
        yield f"a memory reserve of at most {share}"
    relaxed = _relaxed(request, nearest)
    yield from (text for need, text in relaxed if need < peak)
    if nearest.devices < request.cluster.max_devices:
        yield f"more than {nearest.devices} devices"


def _relaxed(request: Request, nearest: Configuration) -> list[tuple[float, str]]:
    """(peak bytes, change) for every single change of a fixed axis that is legal."""
    rules = training_rules(request.model, request.job, nearest.devices)
    net = topology.network(request.cluster, nearest.devices)
    free = training_space(request.model, request.job, net, {})
    found: list[tuple[float, str]] = []
    for axis in request.options.fixed:
        values = free.names.get(axis, free.numbers.get(axis, ()))
        best: tuple[float, str] | None = None
        for value in values:
            changed = _with(nearest, axis, value)
            try:
                check(changed, rules)
                peak = estimate(request.model, request.cluster, request.job, changed).peak_memory
            except PlannerError:
                continue
            text = f"{axis}={value} ({show(peak, 'B')})"
            best = min(best or (peak, text), (peak, text))
        if best is not None:
            found.append(best)
    return sorted(found)


def _with(configuration: Configuration, axis: str, value: AxisValue) -> Configuration:
    """The configuration on the same devices with another value of one axis."""
    devices = configuration.devices
    changed = Configuration(**{**configuration.as_dict(), axis: value})  # type: ignore[arg-type]
    dense = changed.tp * changed.cp * changed.pp
    if axis in ("tp", "cp", "pp") and devices % dense == 0:
        changed = replace(changed, dp=devices // dense)
    if changed.tp > 1 and configuration.tp == 1:
        changed = replace(changed, sequence_parallel=1)
    return changed if changed.tp > 1 else replace(changed, sequence_parallel=0)
