"""One configuration, costed with its tree: what ``explain`` shows and ``validate`` scores."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from planner.costs import topology
from planner.costs.pipeline import SCHEDULES
from planner.costs.tree import Cost, leaf, repeat, seq
from planner.errors import PlannerError
from planner.layers.part import Setting
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.parallelism import TRAINING_AXES, Configuration
from planner.specs.workload import TrainingJob
from planner.training import fitted
from planner.training.columns import LayerParts, Rows, build
from planner.training.stages import devices
from planner.training.step import (
    Held,
    Memory,
    Step,
    device_memory,
    held,
    pipeline,
    spread,
    step_time,
)


@dataclass(frozen=True)
class Estimate:
    """Time and memory of one configuration."""

    configuration: Configuration
    seconds: float
    tree: Cost
    memory: dict[str, float]
    """Bytes by kind on the device of the pipeline that needs most."""
    memory_by_stage: tuple[tuple[int, float], ...]
    """(first device with these contents, its peak bytes) for every distinct device."""
    step: dict[str, float]
    """The parts of the step [s], by the names of ``training.step.Step``."""

    @property
    def peak_memory(self) -> float:
        return sum(self.memory.values())


def rows_of(configuration: Configuration) -> Rows:
    """The single row of a configuration."""
    recompute = TRAINING_AXES["recompute"].values.index(configuration.recompute)
    values = {**configuration.as_dict(), "recompute": recompute}
    return Rows(*(np.array([values[item.name]], dtype=np.int64) for item in fields(Rows)))


def estimate(
    model: ModelSpec, cluster: Cluster, job: TrainingJob, configuration: Configuration
) -> Estimate:
    """Cost one configuration; its legality is the caller's to check.

    Raises
    ------
    PlannerError
        When a pipeline stage would be left without a layer.
    """
    net = topology.network(cluster, configuration.devices, fitted.LINK_SLOWDOWN)
    setting = Setting(
        cluster.accelerator,
        net,
        job,
        model.hidden,
        configuration.dispatch,
        configuration.context_parallel,
    )
    columns, parts = build(setting, model, rows_of(configuration))
    schedule = SCHEDULES[configuration.schedule]
    vpp, zero, vocabulary = configuration.vpp, configuration.zero, configuration.vocabulary
    contents = devices(model, schedule, configuration.pp, vpp, job.mtp, vocabulary)
    if not contents:
        raise PlannerError(
            f"rule 'layers over stages': {model.num_layers} layers leave a stage of"
            f" pp={configuration.pp}, vpp={configuration.vpp} empty."
        )
    where = spread(setting, columns, configuration.pp)
    stages = [held(columns, schedule, where, d, vpp, vocabulary) for d in contents]
    step = step_time(setting, where, schedule, vpp, zero, pipeline(stages))
    needs = [device_memory(setting, where, zero, stage) for stage in stages]
    worst = max(needs, key=lambda need: float(need.total[0]))
    slowest = max(stages, key=lambda stage: float(stage.work[0]))
    return Estimate(
        configuration,
        float(step.seconds[0]),
        _tree(step, slowest, parts),
        {item.name: float(getattr(worst, item.name)[0]) for item in fields(Memory)},
        tuple(
            (stage.device.position, float(need.total[0]))
            for stage, need in zip(stages, needs, strict=True)
        ),
        {item.name: float(getattr(step, item.name)[0]) for item in fields(Step)},
    )


def _tree(step: Step, slowest: Held, parts: dict[str, LayerParts]) -> Cost:
    """The step as a tree that adds up to ``step.seconds``."""
    work = _stage_tree(slowest, parts)
    waited = step.slowest - work.seconds
    stage = seq("slowest stage", [work, leaf("waiting for sharded weights and gradients", waited)])
    return seq(
        "step",
        [
            repeat("micro-batches", stage, step.num_microbatches),
            leaf("pipeline fill and drain", step.fill, "idle"),
            leaf("stage-to-stage transfers", step.transfers, "link"),
            leaf("gradient reduction, exposed", step.gradients, "link"),
            leaf("weight gathering, exposed", step.weights, "link"),
            leaf("optimizer", step.optimizer, "memory"),
            leaf("stragglers", step.stragglers, "idle"),
        ],
    ).row(0)


def _stage_tree(stage: Held, parts: dict[str, LayerParts]) -> Cost:
    """One micro-batch on one device: layers, vocabulary, recomputation, hidden exchange."""
    device = stage.device
    counted: list[tuple[float, LayerParts]] = [
        (count, parts[str(i)]) for i, count in enumerate(device.layers)
    ]
    if "mtp" in parts:
        counted.append((device.mtp, parts["mtp"]))
    counted += [(device.embeddings, parts["embedding"]), (device.heads, parts["head"])]
    children = []
    for count, layer in counted:
        if not count:
            continue
        trees = [tree for p in layer.parts for tree in (p.forward, p.backward, p.weight)]
        one = seq(layer.name, trees)
        children.append(repeat(f"{count:g} x {layer.name}", one, count * device.share))
    plain = seq("one micro-batch", children)
    rest = stage.work - plain.seconds
    name = "recomputation" if np.all(rest >= 0) else "exchange hidden behind other micro-batches"
    return seq("one micro-batch", [*children, leaf(name, rest, "compute")])


