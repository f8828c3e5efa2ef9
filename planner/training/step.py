"""The time of one optimizer step.

    step = (1 + stragglers) * (m * slowest device + fill + transfers + gradients + weights
           + optimizer)

The first factor is a device's work for one micro-batch; the fill depends on the schedule; gradient
reduction and weight gathering count only what backward and forward work does not hide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.costs import kernels
from planner.costs.overlap import behind_work
from planner.costs.pipeline import Schedule
from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.layers.part import Array, Setting
from planner.specs.parallelism import chunks
from planner.training import fitted
from planner.training.pipeline import Pipeline
from planner.training.spread import Line, Spread


@dataclass(frozen=True)
class Step:
    """The parts of a step [s] and the worst device's memory by kind [B], arrays ``(n,)``."""

    slowest: Array
    """Work of the slowest device for one micro-batch."""
    num_microbatches: Array
    fill: Seconds
    transfers: Seconds
    gradients: Array
    """Gradient reduction on the critical path."""
    weights: Array
    """Weight gathering on the critical path."""
    optimizer: Seconds
    stragglers: Array
    """Extra time for slow hosts and jitter."""
    seconds: Array
    """All of it."""


@term(
    "m T_slow + fill + 2 t (m + p - 1) + max(0, RS - B) + max(0, AG - F) + optimizer",
    Ref("arXiv 2104.04473; arXiv 2402.15627", "sections 2.2, 3.2; section 3.2"),
)
def step_time(
    setting: Setting, where: Spread, schedule: Schedule, vpp: int, zero: int, line: Pipeline
) -> Step:
    """Compose the time of one step [s]; every array has shape ``(n,)``."""
    software, m, p = setting.job.software, where.num_microbatches, where.p
    per_device = chunks(schedule.name, vpp)
    slowest, gradients, weights = _data_parallel(setting, where, zero, line)
    fill: Seconds = np.zeros(len(m))
    transfers: Seconds = fill
    if p > 1:
        fill = schedule.fill(line.others, p, per_device)
        if schedule.hides_transfers:
            each = 2.0 * per_device
            exposed = np.maximum(each * where.hand_over, each * where.transfer - slowest)
            transfers = 2.0 * (p - 1) * where.transfer + m * exposed
        else:
            transfers = 2.0 * (m + p - 1) * where.transfer
    owned = line.parameters / (where.shards if zero else 1.0)
    owned = owned + line.expert_parameters / (where.expert_shards if zero else 1.0)
    state = 2.0 * software.optimizer_bytes + software.gradient_bytes + 2.0
    optimizer = kernels.elementwise(setting.device, owned * state, 4.0)
    total = m * slowest + fill + transfers + gradients + weights + optimizer
    lost = straggler_share(setting) * total
    return Step(slowest, m, fill, transfers, gradients, weights, optimizer, lost, total + lost)


def _data_parallel(
    setting: Setting, where: Spread, zero: int, line: Pipeline
) -> tuple[Array, Array, Array]:
    """Slowest device's work, gradient reduction and weight gathering on the path [s].

    Stage 0 and 1 communicate once a step, behind the last backward and the first forward pass.
    Stage 2 reduces and stage 3 also gathers for every micro-batch, layer by layer behind the work.
    """
    software = setting.job.software
    grad, weight = software.gradient_bytes, 2.0
    calls = float(line.layers) if zero == 3 else 1.0

    def over(groups: tuple[Line, Line], size: float) -> Array:
        dense, experts = groups
        moved = dense(size * line.parameters, calls)
        if not line.has_experts:
            return moved
        return moved + experts(size * line.expert_parameters, calls)

    if zero == 0:
        reduce = over(where.all_reduce, grad)
        gather = np.zeros_like(reduce)
    else:
        reduce, gather = over(where.reduce, grad), over(where.gather, weight)
    if zero <= 1:
        if software.overlaps_gradients:
            reduce = np.maximum(0.0, reduce - line.backward)
            gather = np.maximum(0.0, gather - line.forward)
        return line.slowest, reduce, gather
    if not software.overlaps_gradients:
        times = 2.0 if zero == 3 else 0.0  # stage 2 gathers once a step
        once = np.zeros_like(gather) if zero == 3 else gather
        return line.slowest + times * gather + reduce, np.zeros_like(reduce), once
    if zero == 2:
        hidden = np.maximum(line.slowest, line.forward + behind_work(line.backward, reduce))
        return hidden, np.zeros_like(reduce), np.maximum(0.0, gather - line.forward)
    ahead = behind_work(line.forward, gather) + behind_work(line.backward, gather + reduce)
    edges = (gather + reduce) / line.layers  # the first layer's gathering, the last one's reduction
    return np.maximum(line.slowest, ahead) + edges, np.zeros_like(reduce), np.zeros_like(reduce)


def straggler_share(setting: Setting) -> float:
    """Share of a step lost to slow hosts and jitter: a fitted loss for each doubling of nodes."""
    return fitted.STRAGGLER_PER_DOUBLING * float(np.log2(setting.net.nodes))
