"""The time of one optimizer step and the memory of its worst device.

    step = stragglers * (m * slowest device + fill + transfers + gradients + weights + optimizer)

The first factor is a device's work for one micro-batch; the fill depends on the schedule; gradient
reduction and weight gathering count only what backward and forward work does not hide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from planner.costs import collectives, kernels, memory
from planner.costs.overlap import behind_work
from planner.costs.pipeline import VOCABULARY, Others, Schedule
from planner.costs.terms import Ref, term
from planner.costs.topology import Int, Network
from planner.costs.tree import Seconds
from planner.layers.part import Array, Setting
from planner.training.columns import Columns, LayerColumns
from planner.specs.parallelism import chunks
from planner.training import fitted
from planner.training.stages import Device

Collective = Callable[[Network, Int, Int, Seconds], Seconds]

BIG = 2.0**30
"""Gradient and weight buffers are long enough for the bandwidth regime: collectives over them are
evaluated as the line through one and two GiB."""


@dataclass(frozen=True)
class Line:
    """latency + per_byte * bytes, each of shape ``(n,)``."""

    latency: Array
    per_byte: Array

    def __call__(self, nbytes: Seconds, calls: float = 1.0) -> Array:
        """Time of moving ``nbytes`` in ``calls`` collectives [s]."""
        return calls * self.latency + self.per_byte * nbytes


def long_line(
    collective: Collective, net: Network, size: Int, stride: Int
) -> Line:
    """A collective over long buffers as a line."""
    one = collective(net, size, stride, BIG)
    two = collective(net, size, stride, 2.0 * BIG)
    per_byte = (two - one) / BIG
    return Line(np.asarray(one - per_byte * BIG), np.asarray(per_byte))


@dataclass(frozen=True)
class Spread:
    """What follows from the number of stages: data-parallel sizes and their collectives."""

    p: int
    dp: Array
    shards: Array
    """Ranks that hold the same dense weights: dp * cp."""
    expert_shards: Array
    num_microbatches: Array
    reduce: tuple[Line, Line]
    """Reduce-scatter of dense and expert gradients."""
    gather: tuple[Line, Line]
    all_reduce: tuple[Line, Line]
    transfer: Array
    """One hand-over between neighbouring stages [s]."""
    hand_over: Array
    """Its latency alone, which no schedule hides [s]."""
    synchronise: Array
    """One all-reduce of a hand-over's bytes over the pipeline [s]."""


def spread(setting: Setting, columns: Columns, p: int) -> Spread:
    """Place ``p`` stages on the network and find every data-parallel group."""
    rows, net = columns.rows, setting.net
    dense = rows.tp * rows.cp
    dp = net.devices // (dense * p)
    shards = dp * rows.cp
    meshed = rows.ep * rows.etp
    expert_shards = net.devices // (meshed * p)

    def both(collective: Collective) -> tuple[Line, Line]:
        return (
            long_line(collective, net, shards, rows.tp),
            long_line(collective, net, expert_shards, meshed),
        )

    transfer = hand_over = synchronise = np.zeros(len(rows))
    if p > 1:
        hand_over = np.asarray(collectives.point_to_point(net, dense * dp, 0.0 * columns.boundary))
        transfer = np.asarray(collectives.point_to_point(net, dense * dp, columns.boundary))
        synchronise = np.asarray(
            collectives.all_reduce(net, np.full(len(rows), p), dense * dp, columns.boundary)
        )
    return Spread(
        p,
        dp.astype(float),
        shards.astype(float),
        expert_shards.astype(float),
        setting.job.global_batch / (dp * rows.micro_batch),
        both(collectives.reduce_scatter),
        both(collectives.all_gather),
        both(collectives.all_reduce),
        transfer,
        hand_over,
        synchronise,
    )


@dataclass(frozen=True)
class Contents:
    """Sums over what a device holds, for one micro-batch, arrays ``(n,)``."""

    forward: Array
    backward: Array
    weight: Array
    exchange: Array
    parameters: Array
    expert_parameters: Array
    kept: Array
    """Activation bytes for each micro-batch in flight."""
    kept_once: Array
    """Bytes of the logits, which live from the head's forward to its backward pass only."""
    workspace: Array


def contents(
    columns: Columns, layers: tuple[int, ...], embeddings: float, heads: float, mtp: int
) -> Contents:
    """Add up layers and vocabulary layers; the same for every schedule."""
    blocks: list[tuple[float, LayerColumns]] = [
        (count, layer) for count, layer in zip(layers, columns.layers, strict=True) if count
    ]
    if columns.mtp is not None and mtp:
        blocks.append((mtp, columns.mtp))
    ends = [(n, part) for n, part in ((embeddings, columns.embedding), (heads, columns.head)) if n]
    nothing = np.zeros(len(columns.rows))

    def total(name: str, parts: list[tuple[float, LayerColumns]]) -> Array:
        return _sum([count * getattr(part, name) for count, part in parts]) if parts else nothing

    everything = blocks + ends
    return Contents(
        total("forward", everything),
        total("backward", everything),
        total("weight", everything),
        total("exchange", blocks),
        total("parameters", everything),
        total("expert_parameters", blocks),
        total("kept", blocks) + embeddings * columns.embedding.kept,
        heads * columns.head.kept,
        _largest([layer.workspace for _, layer in blocks]) if blocks else nothing,
    )


@dataclass(frozen=True)
class Held:
    """Work and memory of one distinct device of the pipeline, arrays ``(n,)``."""

    device: Device
    forward: Array
    backward: Array
    weight: Array
    """Weight gradients within ``backward``."""
    parameters: Array
    expert_parameters: Array
    activations: Array
    """Bytes of the micro-batches in flight."""
    workspace: Array
    unsharded: Array
    """Activations, workspace and overhead: what no ZeRO stage changes [B]."""

    @property
    def work(self) -> Array:
        return self.forward + self.backward


def held(
    sums: Contents,
    schedule: Schedule,
    where: Spread,
    device: Device,
    vpp: int,
    vocabulary: str,
    overlaps_exchange: bool,
) -> Held:
    """What a device does and keeps under a schedule.

    ``overlaps_exchange`` says that the software hides the expert exchange behind another
    micro-batch's work, which a pipeline has in flight.
    """
    moved = VOCABULARY[vocabulary]
    per_device = chunks(schedule.name, vpp)
    in_flight = schedule.in_flight(where.num_microbatches, where.p, device.position, per_device)
    if vocabulary != "ends":
        in_flight = np.minimum(where.num_microbatches, in_flight * moved.factor + moved.extra)
    forward, backward, weight = sums.forward, sums.backward, sums.weight
    if device.share != 1.0:
        forward, backward, weight = (device.share * v for v in (forward, backward, weight))
    if moved.synchronous:
        forward, backward = forward + where.synchronise, backward + where.synchronise
    if schedule.hides_exchange or (overlaps_exchange and where.p > 1):
        exchange = device.share * sums.exchange
        work = forward + backward
        saved = work - behind_work(work - exchange, exchange)
        forward, backward = forward - saved / 2.0, backward - saved / 2.0
    activations = in_flight * sums.kept + sums.kept_once
    return Held(
        device,
        forward,
        backward,
        weight,
        sums.parameters,
        sums.expert_parameters,
        activations,
        sums.workspace,
        activations + (sums.workspace + memory.FRAMEWORK_BYTES),
    )


@dataclass(frozen=True)
class Step:
    """The parts of a step [s] and the worst device's memory by kind [B], arrays ``(n,)``."""

    slowest: Array
    """Work of the slowest device for one micro-batch."""
    num_microbatches: Array
    fill: Array
    transfers: Array
    gradients: Array
    """Gradient reduction on the critical path."""
    weights: Array
    """Weight gathering on the critical path."""
    optimizer: Array
    stragglers: Array
    """Extra time for slow hosts and jitter."""
    seconds: Array
    """All of it."""


@dataclass(frozen=True)
class Pipeline:
    """What a step needs to know of all devices of the pipeline, arrays ``(n,)``."""

    slowest: Array
    forward: Array
    backward: Array
    parameters: Array
    expert_parameters: Array
    has_experts: bool
    layers: int
    """Most layers on a device; ZeRO stage 3 gathers them one by one."""
    others: Others


def pipeline(stages: list[Held]) -> Pipeline:
    """The largest value of every device, and the work of all but the slowest."""
    slowest, forward, backward, dense, experts = (
        _largest([getattr(stage, name) for stage in stages])
        for name in ("work", "forward", "backward", "parameters", "expert_parameters")
    )
    total, back, weight = (
        _sum([stage.device.count * getattr(stage, name) for stage in stages])
        for name in ("work", "backward", "weight")
    )
    # The slowest device's own passes split as the average device's do.
    rest = np.maximum(0.0, 1.0 - slowest / total)
    others = Others(np.maximum(0.0, total - slowest), back * rest, weight * rest)
    layers = max(sum(stage.device.layers) for stage in stages)
    has_experts = bool(np.any(experts))
    return Pipeline(slowest, forward, backward, dense, experts, has_experts, layers, others)


def _largest(values: list[Array]) -> Array:
    result = values[0]
    for value in values[1:]:
        result = np.maximum(result, value)
    return result


def _sum(values: list[Array]) -> Array:
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


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
    fill = transfers = np.zeros(len(m))
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
    return Step(
        slowest, m, fill, transfers, gradients, weights, optimizer, lost, total + lost
    )


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
    if zero == 2:
        hidden = np.maximum(line.slowest, line.forward + behind_work(line.backward, reduce))
        return hidden, np.zeros_like(reduce), np.maximum(0.0, gather - line.forward)
    if not software.overlaps_gradients:
        exposed = line.slowest + 2.0 * gather + reduce
        return exposed, np.zeros_like(reduce), np.zeros_like(reduce)
    ahead = behind_work(line.forward, gather) + behind_work(line.backward, gather + reduce)
    edges = (gather + reduce) / line.layers  # the first layer's gathering, the last one's reduction
    return np.maximum(line.slowest, ahead) + edges, np.zeros_like(reduce), np.zeros_like(reduce)


def straggler_share(setting: Setting) -> float:
    """Share of a step lost to slow hosts and jitter: a fitted loss for each doubling of nodes."""
    nodes = setting.net.devices / setting.net.domains[0] if len(setting.net.domains) > 1 else 1.0
    return fitted.STRAGGLER_PER_DOUBLING * float(np.log2(max(nodes, 1.0)))


@dataclass(frozen=True)
class Memory:
    """Bytes on the device of the pipeline that needs most, by kind, arrays ``(n,)``."""

    weights: Array
    gradients: Array
    optimizer: Array
    activations: Array
    workspace: Array
    overhead: Array

    @property
    def total(self) -> Array:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.workspace
            + self.overhead
        )


def _state_bytes(setting: Setting, where: Spread, zero: int) -> list[tuple[Seconds, ...]]:
    """Bytes a parameter by kind of state, for dense and for expert parameters."""
    software = setting.job.software
    sizes = (software.weight_bytes, software.gradient_bytes, software.optimizer_bytes)
    return [
        memory.state_bytes(shards, zero, *sizes) for shards in (where.shards, where.expert_shards)
    ]


def device_memory(setting: Setting, where: Spread, zero: int, stage: Held) -> Memory:
    """Peak bytes on one device of the pipeline, by kind."""
    dense, experts = _state_bytes(setting, where, zero)
    weights, gradients, optimizer = (
        stage.parameters * d + stage.expert_parameters * e
        for d, e in zip(dense, experts, strict=True)
    )
    workspace = stage.workspace
    if zero == 3:
        workspace = workspace + unsharded_bytes(setting, stage)
    overhead = np.full_like(stage.activations, memory.FRAMEWORK_BYTES)
    return Memory(weights, gradients, optimizer, stage.activations, workspace, overhead)


def unsharded_bytes(setting: Setting, stage: Held) -> Array:
    """Gathered weights and unreduced gradients of the layer in work and the next [B]."""
    whole = stage.parameters + stage.expert_parameters
    layers = max(1, sum(stage.device.layers))
    return 2.0 * (2.0 + setting.job.software.gradient_bytes) * whole / layers


def worst_memory(setting: Setting, where: Spread, zero: int, stages: list[Held]) -> Array:
    """Peak bytes of the device that needs most, the quantity that must fit.

    The same sum as ``device_memory``, kinds added up first.
    """
    dense, experts = (sum(kinds) for kinds in _state_bytes(setting, where, zero))
    needs = []
    for stage in stages:
        total = stage.unsharded + stage.parameters * dense + stage.expert_parameters * experts
        needs.append(total + unsharded_bytes(setting, stage) if zero == 3 else total)
    return _largest(needs)
