"""Search the training space: evaluate all that the rules allow and keep the best.

Layers are costed once for every row; stages, schedules and ZeRO only combine rows, in an order that
reuses what does not change.  Every candidate is counted.  One is pruned when its memory, or a lower
bound of it, does not fit; all the others are timed with every term of the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from planner.costs import kernels, topology
from planner.costs.pipeline import SCHEDULES, Schedule
from planner.layers.part import Array, Setting
from planner.search.best import Best
from planner.search.pareto import Front
from planner.specs.hardware import Accelerator, Cluster
from planner.specs.model import ModelSpec
from planner.specs.parallelism import TRAINING_AXES, Configuration
from planner.specs.workload import TrainingJob
from planner.training import fitted
from planner.training.columns import Columns, Rows, build
from planner.training.space import Mask, Space, row_blocks, training_space
from planner.training.stages import Device, distinct_layers
from planner.training.stages import devices as distinct_devices
from planner.training.step import (
    Contents,
    Spread,
    contents,
    held,
    pipeline,
    spread,
    step_time,
    worst_memory,
)

OBJECTIVES = ("throughput", "price", "devices", "memory")

KEY = (
    "devices",
    "tp",
    "cp",
    "pp",
    "vpp",
    "ep",
    "etp",
    "micro_batch",
    "zero",
    "sequence_parallel",
    "recompute",
    "schedule",
    "vocabulary",
    "dispatch",
    "context_parallel",
)
"""Integer columns that identify a candidate, in the order in which ties break."""


@dataclass(frozen=True)
class Found:
    """The best configurations and what the search did."""

    configurations: tuple[Configuration, ...]
    """In rank order."""
    candidates: int
    pruned_by_memory: int
    pruned_by_bound: int
    evaluated: int
    seconds: float
    removed: Mapping[str, int]
    """Candidates that each named constraint removed."""
    nearest_miss: Configuration | None
    """When nothing is feasible: the candidate that needs least memory."""
    front: tuple[Configuration, ...] = ()
    """When asked for: candidates that no other beats on time and memory at once, fastest first."""


@dataclass
class _Tally:
    candidates: int = 0
    evaluated: int = 0
    too_slow: int = 0

    def add(self, other: _Tally) -> None:
        self.candidates += other.candidates
        self.evaluated += other.evaluated
        self.too_slow += other.too_slow


@dataclass(frozen=True)
class _Goal:
    """What the user wants: the score to minimise and the limits."""

    objective: str
    memory_limit: float
    max_step_time: float

    def score(self, seconds: Array, needs: Array, devices: int) -> Array:
        """Lower is better."""
        if self.objective == "memory":
            return needs
        return seconds * devices if self.objective == "price" else seconds


def search(
    model: ModelSpec,
    cluster: Cluster,
    job: TrainingJob,
    *,
    devices: Sequence[int],
    fixed: Mapping[str, tuple[int | str, ...]],
    top: int = 10,
    objective: str = "throughput",
    memory_reserve: float = 0.1,
    max_step_time: float | None = None,
    memory_front: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Find the ``top`` configurations on any of the given numbers of devices.

    Parameters
    ----------
    devices : sequence of int
        Numbers of devices to try, each used whole.
    fixed : mapping
        Axis name to the values that it may take; other axes are free.
    objective : str
        ``throughput`` (shortest step), ``price`` (fewest device-seconds a step), ``memory``
        (smallest peak) or ``devices`` (fewest devices that meet ``max_step_time``, then time).
    memory_reserve : float
        Share of a device's memory to leave free.
    max_step_time : float
        Longest step that is acceptable [s].
    memory_front : bool
        Also keep the front of step time against peak memory.
    progress : callable
        Called with (parts done, parts in all).
    """
    start = time.perf_counter()
    limit = cluster.accelerator.memory * (1.0 - memory_reserve)
    goal = _Goal(objective, limit, max_step_time or np.inf)
    tally = _Tally()
    best = Best(top, len(KEY))
    front = Front(len(KEY)) if memory_front else None
    chosen: list[Configuration] = []
    for done, count in enumerate(sorted(devices)):
        net = topology.network(cluster, count, fitted.LINK_SLOWDOWN)
        space = training_space(model, job, net, fixed)

        def report(share: float, done: int = done) -> None:
            if progress:
                progress(int(1000 * (done + share)), 1000 * len(devices))

        device = kernels.sustained(cluster.accelerator)
        tally.add(_sweep(model, device, net, job, space, goal, best, front, report))
        if objective == "devices":  # fewer devices always rank first
            chosen += _configurations(best.ranked()[1])
            best = Best(top, len(KEY))
            if len(chosen) >= top:
                break
    chosen += _configurations(best.ranked()[1])
    nearest = None
    if not chosen and memory_reserve > -np.inf:
        again = search(
            model,
            cluster,
            job,
            devices=devices,
            fixed=fixed,
            top=1,
            objective="memory",
            memory_reserve=-np.inf,
        )
        nearest = again.configurations[0] if again.configurations else None
    return Found(
        tuple(chosen[:top]),
        tally.candidates,
        tally.candidates - tally.evaluated,
        0,
        tally.evaluated,
        time.perf_counter() - start,
        {"memory": tally.candidates - tally.evaluated, "max-step-time": tally.too_slow},
        nearest,
        tuple(_configurations(front.ranked())) if front else (),
    )


def _configurations(keys: NDArray[np.int64]) -> list[Configuration]:
    """Rows of keys as configurations."""
    found = []
    for key in keys:
        values: dict[str, int | str] = dict(zip(KEY, key.tolist(), strict=True))
        total = int(values.pop("devices"))
        for axis in ("recompute", "schedule", "vocabulary", "dispatch", "context_parallel"):
            values[axis] = TRAINING_AXES[axis].values[int(values[axis])]
        dp = total // (key[KEY.index("tp")] * key[KEY.index("cp")] * key[KEY.index("pp")])
        found.append(Configuration(dp=int(dp), **values))  # type: ignore[arg-type]
    return found


@dataclass(frozen=True)
class _Sweep:
    """One space under one goal."""

    model: ModelSpec
    job: TrainingJob
    space: Space
    goal: _Goal
    best: Best
    front: Front | None
    shapes: Mapping[tuple[str, int], list[_Shape]]

    def block(self, setting: Setting, rows: Rows) -> _Tally:
        """Evaluate every candidate that a block of rows takes part in."""
        tally = _Tally()
        columns, _ = build(setting, self.model, rows)
        limit = self.goal.memory_limit
        for batch in _stage_counts(self.space, setting, self.model, columns, limit):
            sums = cache(partial(contents, batch.columns))
            for name in self.space.names["schedule"]:
                legal = batch.legal(self.space, name)
                for shape in self.shapes[name, batch.where.p] if legal.any() else ():
                    tally.add(_combine(self, setting, batch, shape, legal, sums))
        return tally


def _sweep(
    model: ModelSpec,
    device: Accelerator,
    net: topology.Network,
    job: TrainingJob,
    space: Space,
    goal: _Goal,
    best: Best,
    front: Front | None,
    progress: Callable[[float], None],
) -> _Tally:
    """Evaluate every candidate of a space."""
    shapes = {
        (name, p): _shapes(space, model, job, name, p)
        for name in space.names["schedule"]
        for p in space.numbers["pp"]
    }
    sweep = _Sweep(model, job, space, goal, best, front, shapes)
    modes = list(product(space.names["dispatch"], space.names["context_parallel"]))

    total = _Tally()
    for done, (dispatch, kind) in enumerate(modes):
        setting = Setting(device, net, job, model.hidden, dispatch, kind)
        mode = {"dispatch": dispatch, "context_parallel": kind}
        for share, rows in row_blocks(space, mode):
            progress((done + share) / len(modes))
            total.add(sweep.block(setting, rows))
    return total


@dataclass(frozen=True)
class _Batch:
    """Rows with a legal number of stages: all of them to count, the possible ones to evaluate."""

    values: Mapping[str, object]
    """Axis values of all rows, for the rules."""
    can_shard: Mask
    """Where ZeRO has a second rank to shard over, for all rows."""
    possible: NDArray[np.int64]
    """Rows whose least memory fits; the two fields below hold only these."""
    columns: Columns
    where: Spread

    def legal(self, space: Space, schedule: str) -> Mask:
        """Rows on which a schedule can run."""
        allowed = space.legal({**self.values, "schedule": schedule}, {"schedule"})
        return np.broadcast_to(allowed, len(self.can_shard))


def _stage_counts(
    space: Space, setting: Setting, model: ModelSpec, columns: Columns, limit: float
) -> Iterator[_Batch]:
    """The rows for every number of stages that is legal for some of them."""
    rows = columns.rows
    floor = MemoryFloor.of(setting, model, columns)
    for p in space.numbers["pp"]:
        dense = rows.tp * rows.cp * p
        dp = np.maximum(1, space.devices // dense)
        legal = (space.devices % dense == 0) & np.isin(dp, space.numbers["dp"])
        values = {"tp": rows.tp, "cp": rows.cp, "ep": rows.ep, "etp": rows.etp}
        values |= {"dp": dp, "micro_batch": rows.micro_batch}
        legal = legal & space.legal({**values, "pp": p}, {"pp", "dp", "micro_batch"})
        index = np.flatnonzero(legal)
        if not len(index):
            continue
        kept = {name: column[index] for name, column in values.items()} | {"pp": p}
        shards = np.broadcast_to(space.legal({**kept, "zero": 1}, {"zero"}), len(index))
        possible = np.flatnonzero(floor.least(rows, dp, p, space.devices)[index] <= limit)
        part = columns.take(index[possible])
        yield _Batch(kept, shards, possible, part, spread(setting, part, p))


@dataclass(frozen=True)
class MemoryFloor:
    """Sums over the whole model that bound a device's memory from below, arrays ``(n,)``."""

    parameters: Array
    expert_parameters: Array
    kept: Array
    """Activation bytes of the leanest layer times the number of layers."""
    state_bytes: float
    global_batch: int

    @classmethod
    def of(cls, setting: Setting, model: ModelSpec, columns: Columns) -> MemoryFloor:
        """Add up the layers of the model once for all numbers of stages."""
        counts = [model.layers.count(layer) for layer in distinct_layers(model.layers)]
        pairs = list(zip(counts, columns.layers, strict=True))
        software = setting.job.software
        return cls(
            sum(n * layer.parameters for n, layer in pairs),  # type: ignore[arg-type]
            sum(n * layer.expert_parameters for n, layer in pairs),  # type: ignore[arg-type]
            model.num_layers * np.min([layer.kept for layer in columns.layers], axis=0),
            software.weight_bytes + software.gradient_bytes + software.optimizer_bytes,
            setting.job.global_batch,
        )

    def least(self, rows: Rows, dp: NDArray[np.int64], p: int, devices: int) -> Array:
        """Bytes that some device needs at least, whatever the schedule and ZeRO stage.

        States: the mean over devices under ZeRO stage 3.  Activations: device 0 holds at least
        half its even share of the layers (``floor(x) >= x / 2``) and every schedule keeps at least
        ``min(m, p) / 2`` micro-batches there.
        """
        experts = np.maximum(1, devices // (rows.ep * rows.etp * p))
        states = self.parameters / (dp * rows.cp) + self.expert_parameters / experts
        in_flight = np.minimum(p, self.global_batch / (dp * rows.micro_batch)) / 2.0
        return states * self.state_bytes / p + self.kept / (2.0 * p) * in_flight


@dataclass(frozen=True)
class _Shape:
    """A schedule, its chunks, where the vocabulary sits, and the distinct devices that follow."""

    schedule: Schedule
    vpp: int
    vocabulary: str
    devices: tuple[Device, ...]


def _shapes(space: Space, model: ModelSpec, job: TrainingJob, name: str, p: int) -> list[_Shape]:
    """Every legal shape of a pipeline of ``p`` stages under one schedule."""
    schedule, found = SCHEDULES[name], []
    for vpp in space.numbers["vpp"]:
        if not space.legal({"pp": p, "schedule": name, "vpp": vpp}, {"vpp"}):
            continue
        for vocabulary in space.names["vocabulary"]:
            if space.legal({"pp": p, "schedule": name, "vocabulary": vocabulary}, {"vocabulary"}):
                held_by = distinct_devices(model, schedule, p, vpp, job.mtp, vocabulary)
                if held_by:
                    found.append(_Shape(schedule, vpp, vocabulary, held_by))
    return found


def _combine(
    sweep: _Sweep,
    setting: Setting,
    batch: _Batch,
    shape: _Shape,
    legal: Mask,
    sums: Callable[..., Contents],
) -> _Tally:
    """Time and memory of a batch of rows in one shape, for every ZeRO stage."""
    space, goal, where, tally = sweep.space, sweep.goal, batch.where, _Tally()
    how = (shape.vpp, shape.vocabulary, setting.job.software.overlaps_exchange)
    stages = [
        held(sums(*device.holds), shape.schedule, where, device, *how) for device in shape.devices
    ]
    line = pipeline(stages)
    for zero in space.numbers["zero"]:
        if not space.legal({"pp": where.p, "zero": zero}, {"zero"}):
            continue
        sharded = legal & batch.can_shard if zero else legal
        count = int(np.count_nonzero(sharded))
        tally.candidates += count
        if not count or not len(batch.possible):
            continue
        needs = worst_memory(setting, where, zero, stages)
        fits = sharded[batch.possible] & (needs <= goal.memory_limit)
        fitting = int(np.count_nonzero(fits))
        if not fitting:
            continue
        tally.evaluated += fitting
        seconds = step_time(setting, where, shape.schedule, shape.vpp, zero, line).seconds
        quick = fits & (seconds <= goal.max_step_time)
        tally.too_slow += fitting - int(np.count_nonzero(quick))
        scores = goal.score(seconds, needs, space.devices)
        index = np.flatnonzero(quick & (scores <= sweep.best.threshold))
        if len(index):
            keys = _keys(space, setting, batch, shape, zero, index)
            sweep.best.offer(scores[index], keys)
        if sweep.front is not None:
            quick_rows = np.flatnonzero(quick)
            useful = quick_rows[sweep.front.useful(needs[quick_rows], seconds[quick_rows])]
            keys = _keys(space, setting, batch, shape, zero, useful)
            sweep.front.offer(needs[useful], seconds[useful], keys)
    return tally


def _keys(
    space: Space,
    setting: Setting,
    batch: _Batch,
    shape: _Shape,
    zero: int,
    index: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The identifying columns of some rows, in the order of ``KEY``."""
    rows, same = batch.columns.rows, np.ones(len(index), dtype=np.int64)
    constant = {
        "devices": space.devices,
        "pp": batch.where.p,
        "vpp": shape.vpp,
        "zero": zero,
    }
    named = {
        "schedule": shape.schedule.name,
        "vocabulary": shape.vocabulary,
        "dispatch": setting.dispatch,
        "context_parallel": setting.context_parallel,
    }
    constant |= {name: TRAINING_AXES[name].values.index(value) for name, value in named.items()}
    columns = [
        constant[name] * same if name in constant else getattr(rows, name)[index] for name in KEY
    ]
    return np.stack(columns, axis=1)
