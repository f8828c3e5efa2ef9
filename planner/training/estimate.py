"""One configuration, costed with its tree: what ``explain`` shows and ``validate`` scores."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from planner.costs import kernels, topology
from planner.costs.pipeline import SCHEDULES
from planner.costs.tree import Cost, Seconds, leaf, repeat, seq
from planner.errors import PlannerError
from planner.layers.moe import EXCHANGE
from planner.layers.part import Setting
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.parallelism import TRAINING_AXES, Configuration
from planner.specs.workload import TrainingJob
from planner.training import fitted
from planner.training.columns import (
    RECOMPUTE,
    Columns,
    LayerColumns,
    LayerParts,
    Rows,
    build,
)
from planner.training.memory import Memory, device_memory
from planner.training.pipeline import Held, contents, held, pipeline
from planner.training.spread import spread
from planner.training.stages import devices
from planner.training.step import Step, step_time

ROUNDING = 1e-9
"""Relative difference that is rounding, not time."""


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
        kernels.sustained(cluster.accelerator),
        net,
        job,
        model.hidden,
        configuration.dispatch,
        configuration.context_parallel,
    )
    columns, parts = build(setting, model, rows_of(configuration))
    schedule = SCHEDULES[configuration.schedule]
    vpp, zero, vocabulary = configuration.vpp, configuration.zero, configuration.vocabulary
    found = devices(model, schedule, configuration.pp, vpp, job.mtp, vocabulary)
    if not found:
        raise PlannerError(
            f"rule 'layers over stages': {model.num_layers} layers leave a stage of"
            f" pp={configuration.pp}, vpp={configuration.vpp} empty."
        )
    where = spread(setting, columns, configuration.pp)
    hidden = job.software.overlaps_exchange
    stages = [
        held(contents(columns, *device.holds), schedule, where, device, vpp, vocabulary, hidden)
        for device in found
    ]
    step = step_time(setting, where, schedule, vpp, zero, pipeline(stages))
    needs = [device_memory(setting, where, zero, stage) for stage in stages]
    worst = max(needs, key=lambda need: float(need.total[0]))
    slowest = max(stages, key=lambda stage: float(stage.work[0]))
    return Estimate(
        configuration,
        float(step.seconds[0]),
        _tree(step, _stage_tree(slowest, columns, parts)),
        {item.name: float(getattr(worst, item.name)[0]) for item in fields(Memory)},
        tuple(
            (stage.device.position, float(need.total[0]))
            for stage, need in zip(stages, needs, strict=True)
        ),
        {item.name: float(getattr(step, item.name)[0]) for item in fields(Step)},
    )


def _tree(step: Step, stage: Cost) -> Cost:
    """The step as a tree that adds up to ``step.seconds``."""
    waited = step.slowest - stage.seconds
    waited = np.where(waited > ROUNDING * step.slowest, waited, 0.0)
    waiting = leaf("waiting for sharded weights", waited, "link")
    work = seq("slowest device", [stage, waiting])
    return seq(
        "step",
        [
            repeat("micro-batches", work, step.num_microbatches),
            leaf("pipeline fill and drain", step.fill, "idle"),
            leaf("stage-to-stage transfers", step.transfers, "link"),
            leaf("gradient reduction, exposed", step.gradients, "link"),
            leaf("weight gathering, exposed", step.weights, "link"),
            leaf("optimizer", step.optimizer, "memory"),
            leaf("stragglers", step.stragglers, "idle"),
        ],
    ).row(0)


def _stage_tree(stage: Held, columns: Columns, parts: dict[str, LayerParts]) -> Cost:
    """One micro-batch on one device: its layers, vocabulary and what overlaps."""
    device = stage.device
    counted: list[tuple[float, LayerParts, LayerColumns]] = [
        (count, parts[str(i)], layer)
        for i, (count, layer) in enumerate(zip(device.layers, columns.layers, strict=True))
    ]
    if columns.mtp is not None:
        counted.append((device.mtp, parts["mtp"], columns.mtp))
    counted.append((device.embeddings, parts["embedding"], columns.embedding))
    counted.append((device.heads, parts["head"], columns.head))
    policy = int(columns.rows.recompute[0])
    children = [
        repeat(f"{count:g} x {layer.name}", _layer_tree(layer, cost, policy), count * device.share)
        for count, layer, cost in counted
        if count
    ]
    whole = seq("one micro-batch", children)
    rest = float(np.asarray(stage.work - whole.seconds)[0])
    if abs(rest) <= ROUNDING * float(stage.work[0]):
        return whole
    if rest < 0.0:
        exchange = device.share * sum(n * float(c.exchange[0]) for n, _, c in counted)
        return _hide(whole, EXCHANGE, 1.0 + rest / exchange)
    return seq("one micro-batch", [*children, leaf("synchronising the vocabulary", rest, "link")])


def _layer_tree(layer: LayerParts, cost: LayerColumns, policy: int) -> Cost:
    """One layer in both directions, with what its recomputation policy repeats."""
    trees = [tree for part in layer.parts for tree in (part.forward, part.backward, part.weight)]
    if layer.recomputed and RECOMPUTE[policy] == "full":
        trees.append(seq("recomputed forward", [part.forward for part in layer.parts]))
    elif layer.recomputed and RECOMPUTE[policy] == "selective":
        trees.append(seq("recomputed parts", [part.again for part in layer.parts]))
    one = seq(layer.name, trees)
    wait = float(np.asarray(cost.forward + cost.backward - one.seconds)[0])
    if wait <= ROUNDING * float(np.max(one.seconds)):
        return one
    return seq(layer.name, [*trees, leaf("waiting for the host", wait, "host")])


def _hide(cost: Cost, names: tuple[str, ...], exposed: float) -> Cost:
    """The tree with only a share of the named leaves on the critical path."""
    if not cost.children:
        return cost
    children = tuple(_hide(child, names, exposed) for child in cost.children)
    shown = []
    for old, new, seconds in zip(cost.children, children, cost.exposed, strict=True):
        if new.name in names:
            shown.append(seconds * exposed)
        else:  # what was shown of the child, less what is now hidden inside it
            shown.append(seconds + (new.seconds - old.seconds) * cost.times)
    total: Seconds = 0.0
    for seconds in shown:
        total = total + seconds
    return Cost(cost.name, total, children, tuple(shown), cost.lane, cost.times)
