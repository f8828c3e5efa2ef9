"""Decoding with attention and experts on separate pools: MegaScale-Infer, Janus, Step-3.

A unit is ``copies`` attention replicas of ``tp`` devices and one pool of experts.  Attention holds
the caches, dense layers and the vocabulary; the experts' pool holds nothing else.
Sources: arXiv 2504.02263 (ping-pong, M2N), 2512.13525 (bound by distinct experts, messages of whole
nodes), 2507.19427 (three stages, shared experts with the others).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from planner.costs import collectives
from planner.costs.kernels import OPERAND_BYTES
from planner.costs.m2n import Wire
from planner.costs.ping_pong import idle_share, layer_period
from planner.costs.queueing import accepted_tokens
from planner.layers.inference import Array, Runtime, Split, Step, head_cost
from planner.layers.pools import (
    attention_half,
    exchange,
    experts_half,
    gather_seconds,
    spread_seconds,
)
from planner.serving.fleet import Fleet
from planner.serving.iteration import STEP_LAYERS, Replica
from planner.serving.memory import CONTEXT, memory, sequence_bytes
from planner.serving.space import fast_domain
from planner.serving.transfer import Link, link_between, link_inside
from planner.specs.model import DenseFeedForward, Layer, MixtureOfExperts, ModelSpec

Fixed = Mapping[str, Sequence[int]]

MICRO_BATCHES = (1, 2, 3, 4)
"""Micro-batches in flight that are tried; four at most (2504.02263, N_m)."""
HALF = 0.5
"""Part of a layer's kernels, and of the gaps between them, that each pool has; assumed."""


@dataclass(frozen=True)
class Unit:
    """Candidates; arrays of shape ``(n,)``."""

    tp: Array
    """Devices of an attention replica."""
    copies: Array
    """Attention replicas."""
    ep: Array
    """Ranks that experts are spread over ..."""
    expert_tp: Array
    """... and devices that share each of them."""
    micro_batches: Array

    @property
    def attention(self) -> Array:
        """Devices for attention."""
        return self.tp * self.copies

    @property
    def ffn(self) -> Array:
        """Devices for experts."""
        return self.ep * self.expert_tp

    def rows(self, index: NDArray[np.int64]) -> Unit:
        """Some of the candidates."""
        return Unit(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class State:
    """What a unit does; arrays of shape ``(n,)``."""

    tpot: Array
    idle_attention: Array
    idle_ffn: Array
    idle_network: Array
    """Of the busier direction."""


def expert_layers(model: ModelSpec) -> dict[Layer, int]:
    """Layers with experts, and how many of each."""
    return {
        layer: count
        for layer, count in Counter(model.layers).items()
        if isinstance(layer.feedforward, MixtureOfExperts)
    }


def evaluate(
    fleets: tuple[Fleet, Fleet],
    link: Link,
    model: ModelSpec,
    unit: Unit,
    batch: Array,
    tokens: float,
    *,
    drafts: float = 0.0,
    acceptance: float = 0.0,
) -> State:
    """Decode step of units with ``batch`` sequences of ``tokens`` context in all micro-batches.

    ``link`` joins the pools; where their clusters differ, each end has the bandwidth of its own
    network.  ``drafts`` tokens of every sequence are checked with the next, each right with chance
    ``acceptance``; one is drafted by a layer like the last, on both pools, and the logits.
    """
    wire = _wire(fleets, link, unit)
    run = fleets[0].run, fleets[1].run
    work = _passed(run, wire, model, unit, batch, tokens, 1.0 + drafts)
    if drafts:
        one_more = replace(model, layers=model.layers[-1:])
        work = work + drafts * _passed(run, wire, one_more, unit, batch, tokens, 1.0)
    host = run[0].engine.token * batch / unit.copies
    period, busy, worked, sent = work
    period, busy = period + host, busy + host
    idle = (idle_share(1.0, part, period) for part in (busy, worked, sent))
    return State(period / accepted_tokens(acceptance, drafts), *idle)


def _passed(
    runs: tuple[Runtime, Runtime],
    wire: Wire,
    model: ModelSpec,
    unit: Unit,
    batch: Array,
    context: float,
    verified: float,
) -> Array:
    """Time of all layers and the logits, and of it the work of attention, experts and network [s].

    Both halves are found once for each of their own sizes, then the candidates are composed.
    Embedding, logits and layers without experts are the attention pool's alone.
    """
    m = unit.micro_batches
    each = np.round(batch / (m * unit.copies), 9)  # so that equal sizes are found to be equal
    rows, together = verified * each, np.round(verified * batch / m, 9)
    kinds = expert_layers(model)
    specs = [cast(MixtureOfExperts, layer.feedforward) for layer in kinds]
    alone, *attention = _once(partial(_attention, runs[0], model, context, verified), unit.tp, each)
    period = busy = m * alone
    worked, sent = np.zeros_like(batch), np.zeros_like(batch)
    split = Split(unit.tp, unit.copies, unit.ep, unit.expert_tp)
    moved = {}
    for spec in set(specs):
        experts, shown, added = _once(
            partial(_experts, runs, spec), unit.ep, unit.expert_tp, together
        )
        (first,) = _once(partial(_gather, runs, spec), unit.tp, unit.copies, rows)
        inside = first + shown, added
        moved[spec] = experts, *exchange(runs, spec, split, rows, wire, inside)
    for own, spec, count in zip(attention, specs, kinds.values(), strict=True):
        experts, there, back = moved[spec]
        period = period + count * layer_period(m, own, there, experts, back)
        busy, worked = busy + count * m * own, worked + count * m * experts
        sent = sent + count * m * np.maximum(there, back)
    return np.array([period, busy, worked, sent])


def _once(function: Callable[..., Array], *keys: Array) -> Array:
    """``function`` of the keys ``(n,)``, evaluated once for every different row of them."""
    codes = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        values, code = np.unique(key, return_inverse=True)
        codes = codes * len(values) + code
    _, first, where = np.unique(codes, return_index=True, return_inverse=True)
    return np.asarray(function(*(key[first] for key in keys))[:, where])


def _attention(
    run: Runtime, model: ModelSpec, context: float, verified: float, tp: Array, running: Array
) -> Array:
    """What the attention pool does for a micro-batch of ``running`` on every copy [s].

    Rows: all that is its alone, then the attention half of each kind of layer with experts.
    """
    zero, one = np.zeros_like(running), np.ones_like(running)
    step = Step(zero, one, zero, running, context * one, verified * one)
    split, gap = Split(tp, one, one, tp), run.engine.step / STEP_LAYERS
    alone = np.asarray(head_cost(run, model.vocab, split, step.rows).seconds)
    alone = alone + run.moved("embedding", 4.0 * step.tokens * model.hidden).seconds
    halves = []
    for layer, count in Counter(model.layers).items():
        seconds = np.asarray(attention_half(run, layer, split, step).seconds)
        if isinstance(layer.feedforward, MixtureOfExperts):
            halves.append(seconds + HALF * gap)
        else:
            alone = alone + count * (seconds + gap)
    return np.array([alone, *halves])


def _experts(
    runs: tuple[Runtime, Runtime], spec: MixtureOfExperts, ep: Array, ways: Array, tokens: Array
) -> Array:
    """Rows: the experts of a micro-batch, and what their nodes do before and after them [s]."""
    one, run = np.ones_like(ep), runs[1]
    split = Split(one, one, ep, ways)
    seconds = np.asarray(experts_half(run, spec, split, tokens).seconds)
    gap = HALF * run.engine.step / STEP_LAYERS
    return np.array([seconds + gap, *spread_seconds(runs, spec, split, tokens)])


def _gather(
    runs: tuple[Runtime, Runtime], spec: MixtureOfExperts, tp: Array, copies: Array, running: Array
) -> Array:
    """The one row of what attention nodes do before tokens leave [s]."""
    one = np.ones_like(tp)
    return gather_seconds(runs, spec, Split(tp, copies, one, one), running)[np.newaxis]


def _wire(fleets: tuple[Fleet, Fleet], link: Link, unit: Unit) -> Wire:
    """The network between the pools of every unit: the fast domain where one holds both."""
    first, second = fleets
    ends = [link, link]
    if first.cluster != second.cluster:
        ends = [link_between(fleet, fleet) for fleet in fleets]
    far = Wire(ends[0].bandwidth, ends[1].bandwidth, link.latency, collectives.POST)
    if first is not second:
        return far
    near, devices = link_inside(first), unit.attention + unit.ffn
    small = devices <= fast_domain(first.cluster)
    return Wire(
        np.where(small, near.bandwidth, far.first),
        np.where(small, near.bandwidth, far.second),
        np.where(small, near.latency, far.latency),
        np.where(devices <= first.cluster.devices_per_node, 0.0, far.post),
    )


def weights(fleets: tuple[Fleet, Fleet], model: ModelSpec, unit: Unit) -> tuple[Array, Array]:
    """Bytes of weights on a device of each pool; every rank of experts has the shared ones."""
    own = memory(fleets[0].run, _without_experts(model), _replica(unit)).weights
    stored = OPERAND_BYTES[fleets[1].run.widths.weights]
    routed = shared = 0.0
    for layer, count in expert_layers(model).items():
        spec = cast(MixtureOfExperts, layer.feedforward)
        routed += count * spec.experts * spec.expert_parameters(model.hidden)
        always = DenseFeedForward(spec.shared_width + spec.dense_width, spec.gated)
        shared += count * always.parameters(model.hidden)
    return own, stored * (routed / unit.ffn + shared / unit.expert_tp)


def _without_experts(model: ModelSpec) -> ModelSpec:
    """The model with experts of no width, so that mixers, routers and dense layers are left."""

    def without(layer: Layer) -> Layer:
        spec = layer.feedforward
        if not isinstance(spec, MixtureOfExperts):
            return layer
        none = replace(spec, width=0, shared_width=0, dense_width=0)
        return replace(layer, feedforward=none)

    return replace(model, layers=tuple(map(without, model.layers)))


def _replica(unit: Unit) -> Replica:
    one = np.ones_like(unit.tp)
    return Replica(Split(unit.tp, one, one, unit.tp), one)


def room(fleets: tuple[Fleet, Fleet], model: ModelSpec, unit: Unit, tokens: float) -> Array:
    """Sequences that the caches of a unit hold; 0 where the experts do not fit."""
    run, other = fleets[0].run, fleets[1].run
    _, experts = weights(fleets, model, unit)
    held = memory(run, _without_experts(model), _replica(unit))
    each = sequence_bytes(run, model, _replica(unit), np.full_like(unit.tp, tokens))
    widest = max(cast(MixtureOfExperts, layer.feedforward).width for layer in expert_layers(model))
    rows = other.engine.chunk * (8.0 * model.hidden + 6.0 * widest / unit.expert_tp)
    fits = experts + rows + CONTEXT <= other.engine.memory_fraction * other.device.memory
    return np.where(fits, np.floor(held.room / each) * unit.copies, 0.0)


def candidates(
    fleets: tuple[Fleet, Fleet], model: ModelSpec, tensor: Sequence[int], fixed: Fixed
) -> Unit:
    """Every unit that the fleets can hold and ``fixed`` allows."""
    experts = {cast(MixtureOfExperts, one.feedforward).experts for one in expert_layers(model)}
    spread = [e for e in range(1, min(experts) + 1) if all(n % e == 0 for n in experts)]
    axes = {
        "tp": tensor,
        "attention_dp": _sizes(fleets[0].devices),
        "ffn_ep": spread,
        "ffn_tp": (1, 2, 4, 8),
        "micro_batches": MICRO_BATCHES,
    }
    chosen = [fixed.get(name, values) for name, values in axes.items()]
    grid = np.meshgrid(*(np.array(values, dtype=float) for values in chosen), indexing="ij")
    unit = Unit(*(axis.ravel() for axis in grid))
    legal = (unit.attention <= fleets[0].devices) & (unit.ffn <= fleets[1].devices)
    if fleets[0] is fleets[1]:
        legal &= unit.attention + unit.ffn <= fleets[0].devices
    return unit.rows(np.flatnonzero(legal))


def _sizes(most: int) -> list[int]:
    """1 to 8, 10, 12, 14, 16, 20 ...: four numbers an octave, up to ``most``."""
    found = {max(n * 2**k // 4, 1) for k in range(most.bit_length() + 1) for n in (4, 5, 6, 7)}
    return sorted(n for n in found if n <= most)
