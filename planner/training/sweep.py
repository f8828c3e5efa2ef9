"""Evaluate a training space: rows costed once, combined with every shape and ZeRO stage.

The loops run from what changes least to what changes most: blocks of rows, numbers of stages,
shapes of the pipeline, ZeRO stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from planner.costs import topology
from planner.costs.pipeline import SCHEDULES, Schedule
from planner.layers.part import Array, Setting
from planner.search.best import Best
from planner.search.pareto import Front
from planner.specs.hardware import Accelerator
from planner.specs.model import ModelSpec
from planner.specs.parallelism import TRAINING_AXES
from planner.specs.workload import TrainingJob
from planner.training.columns import Columns, Rows, build
from planner.training.memory import worst_memory
from planner.training.memory_floor import MemoryFloor
from planner.training.pipeline import Contents, contents, held, pipeline
from planner.training.space import Mask, Space, row_blocks
from planner.training.spread import Spread, spread
from planner.training.stages import Device
from planner.training.stages import devices as distinct_devices
from planner.training.step import step_time

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


@dataclass
class Tally:
    candidates: int = 0
    evaluated: int = 0
    too_slow: int = 0

    def add(self, other: Tally) -> None:
        self.candidates += other.candidates
        self.evaluated += other.evaluated
        self.too_slow += other.too_slow


@dataclass(frozen=True)
class Goal:
    """What the user wants: the score to minimise and the limits."""

    objective: str
    memory_limit: float
    max_step_time: float

    def score(self, seconds: Array, needs: Array, devices: int) -> Array:
        """Lower is better."""
        if self.objective == "memory":
            return needs
        return seconds * devices if self.objective == "price" else seconds


@dataclass(frozen=True)
class Sweep:
    """One space under one goal."""

    model: ModelSpec
    job: TrainingJob
    space: Space
    goal: Goal
    best: Best
    front: Front | None
    shapes: Mapping[tuple[str, int], list[Shape]]

    def block(self, setting: Setting, rows: Rows) -> Tally:
        """Evaluate every candidate that a block of rows takes part in."""
        tally = Tally()
        columns, _ = build(setting, self.model, rows)
        limit = self.goal.memory_limit
        for batch in _stage_counts(self.space, setting, self.model, columns, limit):
            sums = cache(partial(contents, batch.columns))
            for name in self.space.names["schedule"]:
                legal = batch.legal(self.space, name)
                for shape in self.shapes[name, batch.where.p] if legal.any() else ():
                    tally.add(_combine(self, setting, batch, shape, legal, sums))
        return tally


def sweep(
    model: ModelSpec,
    device: Accelerator,
    net: topology.Network,
    job: TrainingJob,
    space: Space,
    goal: Goal,
    best: Best,
    front: Front | None,
    progress: Callable[[float], None],
) -> Tally:
    """Evaluate every candidate of a space."""
    shapes = {
        (name, p): _shapes(space, model, job, name, p)
        for name in space.names["schedule"]
        for p in space.numbers["pp"]
    }
    sweep = Sweep(model, job, space, goal, best, front, shapes)
    modes = list(product(space.names["dispatch"], space.names["context_parallel"]))

    total = Tally()
    for done, (dispatch, kind) in enumerate(modes):
        setting = Setting(device, net, job, model.hidden, dispatch, kind)
        mode = {"dispatch": dispatch, "context_parallel": kind}
        for share, rows in row_blocks(space, mode):
            progress((done + share) / len(modes))
            total.add(sweep.block(setting, rows))
    return total


@dataclass(frozen=True)
class Batch:
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
) -> Iterator[Batch]:
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
        yield Batch(kept, shards, possible, part, spread(setting, part, p))


@dataclass(frozen=True)
class Shape:
    """A schedule, its chunks, where the vocabulary sits, and the distinct devices that follow."""

    schedule: Schedule
    vpp: int
    vocabulary: str
    devices: tuple[Device, ...]


def _shapes(space: Space, model: ModelSpec, job: TrainingJob, name: str, p: int) -> list[Shape]:
    """Every legal shape of a pipeline of ``p`` stages under one schedule."""
    schedule, found = SCHEDULES[name], []
    for vpp in space.numbers["vpp"]:
        if not space.legal({"pp": p, "schedule": name, "vpp": vpp}, {"vpp"}):
            continue
        for vocabulary in space.names["vocabulary"]:
            if space.legal({"pp": p, "schedule": name, "vocabulary": vocabulary}, {"vocabulary"}):
                held_by = distinct_devices(model, schedule, p, vpp, job.mtp, vocabulary)
                if held_by:
                    found.append(Shape(schedule, vpp, vocabulary, held_by))
    return found


def _combine(
    sweep: Sweep,
    setting: Setting,
    batch: Batch,
    shape: Shape,
    legal: Mask,
    sums: Callable[..., Contents],
) -> Tally:
    """Time and memory of a batch of rows in one shape, for every ZeRO stage."""
    space, goal, where, tally = sweep.space, sweep.goal, batch.where, Tally()
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
    batch: Batch,
    shape: Shape,
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
