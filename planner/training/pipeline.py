"""What each distinct device of a pipeline does and keeps, and the pipeline's largest values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.costs import memory
from planner.costs.overlap import behind_work
from planner.costs.pipeline import VOCABULARY, Others, Schedule
from planner.layers.part import Array
from planner.specs.parallelism import chunks
from planner.training.columns import Columns, LayerColumns
from planner.training.spread import Spread
from planner.training.stages import Device


def largest(values: Sequence[Array]) -> Array:
    """Element-wise maximum of arrays of one shape."""
    result = values[0]
    for value in values[1:]:
        result = np.maximum(result, value)
    return result


def added(values: Sequence[Array]) -> Array:
    """Element-wise sum of arrays of one shape."""
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


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
        return added([count * getattr(part, name) for count, part in parts]) if parts else nothing

    everything = blocks + ends
    return Contents(
        total("forward", everything),
        total("backward", everything),
        total("weight", everything),
        total("exchange", blocks),
        total("parameters", everything) - min(embeddings, heads) * columns.shared_table,
        total("expert_parameters", blocks),
        total("kept", blocks) + embeddings * columns.embedding.kept,
        heads * columns.head.kept,
        largest([layer.workspace for _, layer in blocks]) if blocks else nothing,
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
        wait = where.synchronise()
        forward, backward = forward + wait, backward + wait
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
        largest([getattr(stage, name) for stage in stages])
        for name in ("work", "forward", "backward", "parameters", "expert_parameters")
    )
    total, back, weight = (
        added([stage.device.count * getattr(stage, name) for stage in stages])
        for name in ("work", "backward", "weight")
    )
    # The slowest device's own passes split as the average device's do.
    rest = np.maximum(0.0, 1.0 - slowest / total)
    others = Others(np.maximum(0.0, total - slowest), back * rest, weight * rest)
    layers = max(sum(stage.device.layers) for stage in stages)
    has_experts = bool(np.any(experts))
    return Pipeline(slowest, forward, backward, dense, experts, has_experts, layers, others)
