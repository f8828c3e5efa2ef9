"""What was asked about a placement, with everything looked up and checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.costs import kernels, topology
from planner.errors import Infeasible, PlannerError
from planner.placement.current import as_current
from planner.placement.generate import SAME_DOMAIN
from planner.placement.layer_time import PHASES, Work
from planner.placement.loads import Loads, as_loads, moe_layers
from planner.placement.methods import METHODS, OBJECTIVES
from planner.placement.transitions import as_transitions, count_transitions
from planner.specs.engine import Widths
from planner.specs.folders import near
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.resolve import digest, resolve_cluster, resolve_model
from planner.specs.workload import PRECISIONS, TrainingJob
from planner.units import format_bytes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COUNTS = ("auto", "equal", "unequal")


@dataclass(frozen=True)
class Options:
    """The options of `plan_placement`, as they were given."""

    devices: int
    slots: int | None = None
    nodes: int | None = None
    groups: int | None = None
    phase: str | None = None
    tokens: float | None = None
    precision: str | None = None
    objective: str | None = None
    method: str = "auto"
    counts: str = "auto"
    drift: float | None = None
    window: float | None = None
    time_limit: float = 10.0
    db: tuple[str, ...] = ()
    overrides: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Question:
    """Options with everything looked up."""

    options: Options
    loads: Loads
    slots: int
    nodes: int
    groups: int
    objective: str
    drift: float
    model: ModelSpec | None
    cluster: Cluster | None
    work: Work | None
    """None without a model, cluster and tokens: then nothing has a time."""
    transitions: Floats | None
    current: Ints | None
    record: Mapping[str, Any]

    @property
    def devices(self) -> int:
        return self.options.devices

    @property
    def net(self) -> topology.Network | None:
        return None if self.cluster is None else topology.network(self.cluster, self.devices)


def resolve(
    loads: Any,
    cluster: str | Path | Cluster | None,
    model: str | Path | ModelSpec | None,
    transitions: Any,
    current: Any,
    options: Options,
) -> Question:
    """Check the options and look everything up.

    Raises
    ------
    PlannerError
        If an option is wrong; the message names it.
    """
    _check(options)
    found_model = None if model is None else resolve_model(model, options.db)
    found_cluster = (
        None if cluster is None
        else resolve_cluster(cluster, options.db, options.overrides or {}, None)
    )  # fmt: skip
    devices = options.devices
    if found_cluster is not None and devices > found_cluster.max_devices:
        raise PlannerError(
            f"devices: found {devices}, expected at most the {found_cluster.max_devices} of"
            f" {found_cluster.name}."
        )
    known = as_loads(loads, found_model)
    slots = _slots(options, known.experts)
    work = _work(options, found_model, found_cluster)
    if work is not None:
        _check_memory(work, slots * len(known.layers) / devices)
    objective = options.objective or ("balance" if work is None else "time")
    if objective == "time" and work is None:
        raise PlannerError(
            "objective: found 'time' without a model and a cluster, expected --model, --cluster"
            " and --tokens."
        )
    per_node = devices if found_cluster is None else found_cluster.devices_per_node
    nodes = options.nodes or max(1, devices // per_node)
    groups = options.groups or (1 if work is None else (work.spec.route_groups or (1, 1))[1])
    follow = None
    if transitions is not None:
        follow = as_transitions(transitions, known, found_model)
    elif known.routing is not None and len(known.layers) > 1:
        follow = count_transitions(known.routing, known.experts)
    now = None if current is None else as_current(current, known, devices)
    if (objective in ("hops", "bytes") or options.method == "affinity") and (
        follow is None or found_cluster is None
    ):
        raise PlannerError(
            f"objective {objective!r}, method {options.method!r}: found no transitions or no"
            " cluster, expected --transitions FILE and --cluster NAME."
        )
    drift = next(d for d in (options.drift, known.drift, SAME_DOMAIN) if d is not None)
    record = {
        "loads": known.where,
        "model": None if found_model is None else found_model.name,
        "cluster": None if found_cluster is None else found_cluster.name,
        "layers": len(known.layers),
        "experts": known.experts,
        "devices": devices,
        "slots": slots,
        "nodes": nodes,
        "groups": groups,
        "phase": None if work is None else work.phase,
        "tokens": options.tokens,
        "method": options.method,
        "counts": options.counts,
        "objective": objective,
        "time_limit": options.time_limit,
        "digests": {
            "model": None if found_model is None else digest(found_model),
            "cluster": None if found_cluster is None else digest(found_cluster),
        },
    }
    return Question(
        options, known, slots, nodes, groups, objective, drift, found_model, found_cluster, work,
        follow, now, record,
    )  # fmt: skip


def _check(options: Options) -> None:
    words = (
        ("objective", options.objective or "balance", OBJECTIVES),
        ("method", options.method, METHODS),
        ("counts", options.counts, COUNTS),
        ("phase", options.phase or "decode", PHASES),
    )
    for name, found, known in words:
        if found not in known:
            raise PlannerError(
                f"{name}: found {found!r}{near(found, known)}; expected one of {', '.join(known)}."
            )
    numbers = {
        name: getattr(options, name)
        for name in ("devices", "slots", "nodes", "groups", "tokens", "window", "time_limit")
    }
    for name, value in numbers.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise PlannerError(f"{name}: found {value!r}, expected a positive number.")
    if options.drift is not None and not 0.0 <= options.drift < math.inf:
        raise PlannerError(f"drift: found {options.drift!r}, expected 0 or more, such as 0.12.")


def _slots(options: Options, experts: int) -> int:
    devices = options.devices
    if options.slots is None:
        return -(-experts // devices) * devices if options.counts != "unequal" else experts
    slots = options.slots
    if slots < experts:
        raise PlannerError(
            f"slots: found {slots}, expected at least the {experts} experts of a layer."
        )
    if slots % devices and options.counts != "unequal":
        raise PlannerError(f"slots: found {slots}, expected a multiple of the {devices} devices.")
    if slots > experts * devices:
        raise PlannerError(
            f"slots: found {slots}, expected at most {experts * devices}, each expert on each of"
            f" {devices} devices."
        )
    return slots


def _work(options: Options, model: ModelSpec | None, cluster: Cluster | None) -> Work | None:
    """What a layer has to do, where a model, a cluster and tokens are given."""
    if model is None:
        if options.tokens is not None or options.phase is not None:
            raise PlannerError("phase, tokens: found without a model, expected --model NAME too.")
        return None
    spec = next(iter(moe_layers(model).values()))
    if options.tokens is None and options.phase is None:
        return None  # the model names the layers, and nothing has a time
    if cluster is None or options.tokens is None:
        missing = "--cluster NAME" if cluster is None else "--tokens T"
        raise PlannerError(f"phase, tokens: found without all of a step, expected {missing} too.")
    phase = options.phase or "decode"
    known = tuple(PRECISIONS) if phase == "training" else tuple(kernels.OPERAND_BYTES)
    if options.precision is not None and options.precision not in known:
        raise PlannerError(
            f"precision: found {options.precision!r}{near(options.precision, known)}; expected one"
            f" of {', '.join(known)}."
        )
    job = (
        TrainingJob(1, 1, PRECISIONS[options.precision or "bf16"])
        if phase == "training"
        else (TrainingJob(1, 1))
    )
    published = (model.quantization or "bf16").partition("+")[0]
    stored = options.precision or (published if published in known else "bf16")
    computed = "bf16" if stored in ("int4", "mxfp4") else stored
    return Work(
        model, spec, cluster, options.devices, phase, float(options.tokens),
        Widths(stored, computed), job,
    )  # fmt: skip


def _check_memory(work: Work, held: float) -> None:
    """Refuse experts that are more than a device's memory.

    Raises
    ------
    Infeasible
        With both numbers.
    """
    need, room = held * work.expert_bytes, work.cluster.accelerator.memory
    if need > room:
        raise Infeasible(
            f"slots: found {held:g} experts of all layers on a device, {format_bytes(need)} of"
            f" weights, expected at most the {format_bytes(room)} of a {work.cluster.name} device."
        )


def database(db: Iterable[str | Path]) -> tuple[str, ...]:
    """Folders as text."""
    return tuple(str(folder) for folder in db)
