"""Search the training space: evaluate all that the rules allow and keep the best.

Every candidate is counted.  One is pruned when its memory, or a lower bound of it, does not fit;
all the others are timed with every term of the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs import kernels, topology
from planner.search.best import Best
from planner.search.pareto import Front
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.parallelism import TRAINING_AXES, Configuration
from planner.specs.workload import TrainingJob
from planner.training import fitted
from planner.training.space import training_space
from planner.training.sweep import KEY, Goal, Tally, sweep

OBJECTIVES = ("throughput", "price", "devices", "memory")


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
    goal = Goal(objective, limit, max_step_time or np.inf)
    tally = Tally()
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
        tally.add(sweep(model, device, net, job, space, goal, best, front, report))
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
