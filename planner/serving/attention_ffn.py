"""Decoding with attention and experts on separate pools: MegaScale-Infer, Janus, Step-3.

A unit is ``copies`` attention replicas of ``tp`` devices and one pool of experts.  Attention holds
the caches, shared experts, dense layers and the vocabulary; the experts' pool holds nothing else.
Sources: arXiv 2504.02263 (ping-pong), 2512.13525 (one copy of a token to a node, bound by distinct
experts), 2507.19427 (three stages).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from planner.costs.kernels import OPERAND_BYTES
from planner.costs.ping_pong import layer_period
from planner.costs.tree import Cost
from planner.layers.inference import (
    Array,
    Runtime,
    Split,
    Step,
    experts_cost,
    head_cost,
    layer_cost,
    mixer_cost,
)
from planner.serving.fleet import Fleet
from planner.serving.iteration import Replica
from planner.serving.memory import memory, sequence_bytes
from planner.serving.transfer import Link
from planner.specs.model import Layer, MixtureOfExperts, ModelSpec

Fixed = Mapping[str, Sequence[int]]

MICRO_BATCHES = (1, 2, 3, 4)
"""Micro-batches in flight that are tried; four at most (2504.02263, N_m)."""
GRID = 2.0 ** (np.arange(0, 85) / 4.0)
"""Tokens at which the experts' time is evaluated; those between are interpolated, to 1 % or so."""
BIG = 2.0**30
"""More than any number of sequences, so that a sum names a pair."""
DISPATCH, COMBINE = 1.0, 2.0
"""Bytes of an element on the way to the experts (8 bits) and back (16)."""


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
) -> State:
    """Decode step of units with ``batch`` sequences of ``tokens`` context in all micro-batches."""
    first, second = fleets[0].run, fleets[1].run
    each = batch / (unit.micro_batches * unit.copies)
    _, first_of, at = np.unique(unit.tp * BIG + each, return_index=True, return_inverse=True)
    tp, own = unit.tp[first_of], each[first_of]
    step = _step(own, tokens)
    split = Split(tp, np.ones_like(tp), np.ones_like(tp), tp)
    alone = np.zeros_like(own)
    period, busy, worked = np.zeros_like(batch), np.zeros_like(batch), np.zeros_like(batch)
    m = unit.micro_batches
    for layer, count in Counter(model.layers).items():
        spec = layer.feedforward
        if not isinstance(spec, MixtureOfExperts):
            alone = alone + count * np.asarray(layer_cost(first, layer, split, step).seconds)
            continue
        attention = _attention(first, layer, spec, split, step)[at]
        experts = _experts(second, spec, unit, batch / m)
        there, back = _transfers(link, spec, first.hidden, unit, each, second.net.domains[0])
        one = layer_period(m, attention, there, experts, back)
        period, busy = period + count * one, busy + count * m * attention
        worked = worked + count * m * experts
    alone = alone + np.asarray(head_cost(first, model.vocab, split, own).seconds)
    host = first.engine.step + first.engine.token * each
    ends = m * alone[at] + host
    tpot = period + ends
    return State(tpot, 1.0 - (busy + ends) / tpot, 1.0 - worked / tpot)


def _step(running: Array, tokens: float) -> Step:
    zero, one = np.zeros_like(running), np.ones_like(running)
    return Step(zero, one, zero, running, tokens * one, one)


def _attention(
    run: Runtime, layer: Layer, spec: MixtureOfExperts, split: Split, step: Step
) -> Array:
    """The attention half of a layer: mixer, router, shared experts and their sum over TP [s]."""
    rest = experts_cost(run, spec, split, step.tokens)
    kept = [part for part in rest.children if part.name not in ("experts", "dispatch tokens")]
    mixer = np.asarray(mixer_cost(run, layer.attention, split, step).seconds)
    return np.asarray(reduce(np.add, (np.asarray(part.seconds) for part in kept), mixer))


def _experts(run: Runtime, spec: MixtureOfExperts, unit: Unit, tokens: Array) -> Array:
    """The routed experts of a layer for ``tokens``, bound by the busiest rank [s]."""
    found = np.zeros_like(tokens)
    bare = replace(spec, shared_width=0, dense_width=0)
    for ep, ways in np.unique(np.stack([unit.ep, unit.expert_tp], axis=1), axis=0):
        rows = np.flatnonzero((unit.ep == ep) & (unit.expert_tp == ways))
        one = np.ones_like(GRID)
        split = Split(one, one, ep * one, ways * one)
        cost = _named(experts_cost(run, bare, split, GRID), "experts")
        seconds = np.asarray(cost.seconds) + np.zeros_like(GRID)
        within = run.all_reduce("", ways * one, 2.0 * GRID * run.hidden / ep)
        seconds = seconds + np.asarray(within.seconds)
        found[rows] = np.exp(np.interp(np.log(tokens[rows]), np.log(GRID), np.log(seconds)))
    return found


def _named(cost: Cost, name: str) -> Cost:
    return next(part for part in cost.children if part.name == name)


def _transfers(
    link: Link, spec: MixtureOfExperts, hidden: int, unit: Unit, each: Array, node: int
) -> tuple[Array, Array]:
    """Time to the experts and back for one micro-batch [s].

    A token goes once to every node of the experts' pool that has one of its experts, and on inside
    the node; the devices of a replica share the sending, those of the pool the receiving.
    """
    nodes = np.ceil(unit.ffn / node)
    reached = nodes * (1.0 - (1.0 - 1.0 / nodes) ** spec.top_k)
    width = spec.expert_hidden(hidden)
    sent = each * reached * width / unit.tp
    received = each * unit.copies * reached * width / unit.ffn
    most = np.maximum(sent, received) / link.bandwidth
    hops = 1.0 + (~np.asarray(link.inside) & (unit.ffn > 1))
    start = link.latency * hops
    return start + DISPATCH * most, start + COMBINE * most


def weights(fleets: tuple[Fleet, Fleet], model: ModelSpec, unit: Unit) -> tuple[Array, Array]:
    """Bytes of weights on a device of each pool."""
    stored = OPERAND_BYTES[fleets[0].run.widths.weights]
    routed = sum(
        float(count * layer.feedforward.experts * layer.feedforward.expert_parameters(model.hidden))
        for layer, count in expert_layers(model).items()
        if isinstance(layer.feedforward, MixtureOfExperts)
    )
    held = memory(fleets[0].run, model, _replica(unit)).weights
    return held - stored * routed / unit.tp, stored * routed / unit.ffn


def _replica(unit: Unit) -> Replica:
    one = np.ones_like(unit.tp)
    return Replica(Split(unit.tp, one, one, unit.tp), one)


def room(fleets: tuple[Fleet, Fleet], model: ModelSpec, unit: Unit, tokens: float) -> Array:
    """Sequences that the caches of a unit hold; 0 where the experts do not fit."""
    run, other = fleets[0].run, fleets[1].run
    own, experts = weights(fleets, model, unit)
    held = memory(run, model, _replica(unit))
    share = run.engine.memory_fraction
    free = share * run.device.memory - own - held.working
    each = sequence_bytes(run, model, _replica(unit), np.full_like(unit.tp, tokens))
    fits = experts + held.working <= other.engine.memory_fraction * other.device.memory
    return np.where(fits, np.floor(np.maximum(free, 0.0) / each) * unit.copies, 0.0)


def candidates(
    fleets: tuple[Fleet, Fleet], model: ModelSpec, tensor: Sequence[int], fixed: Fixed
) -> Unit:
    """Every unit that the fleets can hold and ``fixed`` allows."""
    experts = {
        layer.feedforward.experts
        for layer in expert_layers(model)
        if isinstance(layer.feedforward, MixtureOfExperts)
    }
    spread = [e for e in range(1, min(experts) + 1) if all(n % e == 0 for n in experts)]
    axes = {
        "tp": tensor,
        "attention_dp": _powers(fleets[0].devices),
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


def _powers(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 ... up to a number."""
    found = {n for k in range(most.bit_length()) for n in (2**k, 3 * 2**k // 2)}
    return sorted(n for n in found if n <= most)
