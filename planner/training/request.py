"""What was asked, checked and resolved: names became specs, a deadline became a longest step.

``Options`` are plain values as the user gave them and go into the result file, so that a plan can
be explained again from the file alone; ``resolve`` turns them into a ``Request``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from planner.costs import kernels
from planner.errors import PlannerError
from planner.placement.rank_skew import known_skew
from planner.specs.folders import near
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.parallelism import experts_of
from planner.specs.resolve import digest, resolve_cluster, resolve_model
from planner.specs.workload import PRECISIONS, SOFTWARE, TrainingJob
from planner.training.axes import AxisValue
from planner.training.search import OBJECTIVES

MOE_IMBALANCE = 1.115
"""Default load of the busiest expert-parallel rank over the mean.  No training run publishes it;
the nearest measurement is DeepSeek-R1 over 36 ranks with balanced experts, where the next
interval's busiest rank had 11.5 % more than the mean (TensorRT-LLM, examples/ep_load_balancer,
README).  Without balancing the same ranks reached 2.56."""

PARETO = ("memory", "price")


@dataclass(frozen=True)
class Options:
    """The options of a question, as given; None is 'not given'."""

    global_batch: int
    seq_len: int
    devices: tuple[int, ...] | None = None
    max_devices: int | None = None
    precision: str = "bf16"
    software: str = "megatron"
    top: int = 10
    objective: str = "throughput"
    fixed: Mapping[str, tuple[AxisValue, ...]] = field(default_factory=dict)
    tokens: float | None = None
    deadline: float | None = None
    """Longest training time [s]."""
    memory_reserve: float = 0.1
    max_step_time: float | None = None
    price: float | None = None
    """US dollars per device-hour."""
    imbalance: float | None = None
    loads: str | None = None
    placement: str = "contiguous"
    pareto: str | None = None
    baseline: Mapping[str, AxisValue] | None = None
    measured: float | None = None
    """Step time of the baseline [s]."""
    db: tuple[str, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """Options with everything looked up."""

    options: Options
    model: ModelSpec
    cluster: Cluster
    job: TrainingJob
    record: Mapping[str, Any]
    """What the result file says was asked."""

    @property
    def tokens_per_step(self) -> float:
        return float(self.job.global_batch) * self.job.seq_len

    @property
    def usable_memory(self) -> float:
        """Bytes of a device that a plan may fill."""
        return self.cluster.accelerator.memory * (1.0 - self.options.memory_reserve)

    @property
    def longest_step(self) -> float | None:
        """The tightest of the step-time limit and the deadline [s]."""
        limits = [self.options.max_step_time] if self.options.max_step_time else []
        if self.options.deadline and self.options.tokens:
            limits.append(self.options.deadline * self.tokens_per_step / self.options.tokens)
        return min(limits, default=None)


def resolve(
    model: str | Path | ModelSpec, cluster: str | Path | Cluster, options: Options
) -> Request:
    """Look up the names and check every option.

    Raises
    ------
    PlannerError
        Naming the first option that is wrong.
    """
    _check_numbers(options)
    _check_words(options)
    found_model = resolve_model(model, options.db)
    found_cluster = resolve_cluster(cluster, options.db, options.overrides, options.price)
    known = known_skew(options.loads, options.placement, found_model)
    usual = 1.0 if known is not None or not experts_of(found_model) else MOE_IMBALANCE
    job = TrainingJob(
        seq_len=options.seq_len,
        global_batch=options.global_batch,
        precision=PRECISIONS[options.precision],
        software=SOFTWARE[options.software],
        imbalance=usual if options.imbalance is None else options.imbalance,
        skew=known,
    )
    kernels.peak(found_cluster.accelerator, job.precision.matrix)
    record: dict[str, Any] = {
        "model": found_model.name if isinstance(model, ModelSpec) else str(model),
        "cluster": found_cluster.name if isinstance(cluster, Cluster) else str(cluster),
        **asdict(options),
        "resolved": {
            "imbalance": job.imbalance,
            "price": found_cluster.price_per_hour,
            "accelerator": found_cluster.accelerator.name,
            "device_memory": found_cluster.accelerator.memory,
        },
        "digests": {"model": digest(found_model), "cluster": digest(found_cluster)},
    }
    return Request(options, found_model, found_cluster, job, record)


def _check_numbers(options: Options) -> None:
    """Every number is in range, and those that need each other are there."""
    counts = ("global_batch", "seq_len", "top", "max_devices")
    for name in (*counts, "tokens", "deadline", "max_step_time", "price", "measured", "imbalance"):
        value, whole = getattr(options, name), name in counts
        if value is None and name not in counts[:3]:
            continue
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            kind = "a positive whole number" if whole else "a positive number"
            raise PlannerError(f"{name}: found {value!r}, expected {kind}.")
        if not (value > 0 and math.isfinite(value)):
            raise PlannerError(f"{name}: found {value!r}, expected more than 0.")
    reserve = options.memory_reserve
    if not isinstance(reserve, int | float) or not 0.0 <= reserve < 1.0:
        raise PlannerError(
            f"memory_reserve: found {reserve!r}, expected a share of the memory from 0 to below 1."
        )
    if options.deadline is not None and options.tokens is None:
        raise PlannerError("deadline: found no tokens with it; expected how many to train on.")
    if options.objective == "devices" and options.deadline is None:
        raise PlannerError("objective 'devices': found no deadline; expected tokens and deadline.")
    if options.measured is not None and options.baseline is None:
        raise PlannerError("measured: found no baseline with it; expected what was measured.")


def _check_words(options: Options) -> None:
    known = {
        "precision": tuple(PRECISIONS),
        "software": tuple(SOFTWARE),
        "objective": OBJECTIVES,
        "pareto": (None, *PARETO),
    }
    for name, values in known.items():
        found = getattr(options, name)
        if found not in values:
            words = [value for value in values if value]
            raise PlannerError(
                f"{name}: found {found!r}{near(str(found), words)}; expected one of"
                f" {', '.join(words)}."
            )
