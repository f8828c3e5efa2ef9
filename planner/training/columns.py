"""One row a way to shard a layer: what each of the model's layers costs, ready to be composed.

A layer depends on few axes (tp, cp, sequence parallelism, micro-batch, recomputation, ep, etp);
pipeline, data parallelism, ZeRO and the schedule only combine rows.  So rows are costed once, and
inside a row the token mixer and the experts are costed on their own distinct inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from planner.costs.tree import Seconds
from planner.layers.attention import attention_part
from planner.layers.embedding import embedding_part, head_part
from planner.layers.feedforward import feedforward_part
from planner.layers.linear import projection
from planner.layers.moe import moe_part
from planner.layers.part import NOTHING, Array, Distinct, Part, Setting, Sharding
from planner.specs.model import (
    Attention,
    DenseFeedForward,
    FeedForward,
    Layer,
    MixtureOfExperts,
    ModelSpec,
)
from planner.training.stages import distinct_layers

RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True)
class Rows:
    """The axes on which a layer's cost depends, integer arrays of shape ``(n,)``."""

    tp: NDArray[np.int64]
    cp: NDArray[np.int64]
    sequence_parallel: NDArray[np.int64]
    micro_batch: NDArray[np.int64]
    recompute: NDArray[np.int64]
    """Index into ``RECOMPUTE``."""
    ep: NDArray[np.int64]
    etp: NDArray[np.int64]

    def take(self, index: NDArray[np.int64] | slice) -> Rows:
        return Rows(*(getattr(self, item.name)[index] for item in fields(self)))

    def __len__(self) -> int:
        return len(self.tp)


@dataclass(frozen=True)
class LayerColumns:
    """Seconds and bytes of one layer for one micro-batch on one device, arrays ``(n,)``."""

    forward: Array
    backward: Array
    """Input and weight gradients and what is recomputed."""
    weight: Array
    """Weight gradients alone."""
    exchange: Array
    """Expert dispatch and combine within both directions that another micro-batch could hide."""
    kept: Array
    """Activation bytes a micro-batch in flight."""
    workspace: Array
    """Activation bytes that exist only while the layer's backward pass runs."""
    parameters: Array
    expert_parameters: Array


@dataclass(frozen=True)
class Columns:
    """All that composing a step needs of a batch of rows."""

    rows: Rows
    layers: tuple[LayerColumns, ...]
    embedding: LayerColumns
    head: LayerColumns
    mtp: LayerColumns | None
    """One multi-token-prediction layer with its projection and its pass through the head."""
    shared_table: Array
    """Parameters of a vocabulary table that input and output share where one device holds both."""
    boundary: Array
    """Bytes that a rank hands to the next stage for one micro-batch: always split over tp, which
    Megatron does without sequence parallelism too (arXiv 2104.04473, section 4.1)."""
    mesh: Distinct
    """Which (tp, cp) every row has: data-parallel groups depend on nothing else."""
    expert_mesh: Distinct
    """Which ep * etp every row has."""

    def take(self, index: NDArray[np.int64] | slice) -> Columns:
        """The same columns for a subset of the rows."""
        return Columns(
            self.rows.take(index),
            tuple(_take(layer, index) for layer in self.layers),
            _take(self.embedding, index),
            _take(self.head, index),
            None if self.mtp is None else _take(self.mtp, index),
            self.shared_table[index],
            self.boundary[index],
            self.mesh.take(index),
            self.expert_mesh.take(index),
        )


def _take(columns: LayerColumns, index: NDArray[np.int64] | slice) -> LayerColumns:
    return LayerColumns(*(getattr(columns, item.name)[index] for item in fields(columns)))


@dataclass(frozen=True)
class LayerParts:
    """The parts behind one layer's columns, with their cost trees when there is a single row."""

    name: str
    parts: tuple[Part, ...]
    recomputed: bool = True
    """Whether recomputation policies apply; they leave the vocabulary layers alone."""


def sharding(rows: Rows) -> Sharding:
    """The dense sharding of every row, as floats."""
    return Sharding(
        rows.tp.astype(float),
        rows.cp.astype(float),
        rows.sequence_parallel.astype(float),
        rows.micro_batch.astype(float),
    )


def _expert_keys(setting: Setting, rows: Rows) -> Distinct:
    """What a mixture of experts depends on: tokens of a rank, tp, ep and etp."""
    tokens = rows.micro_batch * setting.job.seq_len / (rows.cp * rows.tp)
    return Distinct.of(tokens, *(axis.astype(float) for axis in (rows.tp, rows.ep, rows.etp)))


def layer_name(layer: Layer) -> str:
    """How reports call a layer."""
    mixer = type(layer.attention).__name__.removesuffix("Attention")
    mixer = {"GroupedQuery": "attention", "Latent": "latent attention"}.get(mixer, "linear mixer")
    if getattr(layer.attention, "window", None):
        mixer = "windowed attention"
    if layer.feedforward is None:
        return mixer
    moe = isinstance(layer.feedforward, MixtureOfExperts)
    return f"{mixer} + {'experts' if moe else 'feed-forward'}"


def combine(
    parts: tuple[Part, ...], recompute: NDArray[np.int64], saved_input: Array, host: float
) -> LayerColumns:
    """Add a layer's parts under each row's recomputation policy.

    ``saved_input`` is what full recomputation keeps: the layer's input [B].  ``host`` [s] is the
    least time of one pass over the layer, in which the host launches its kernels.
    """
    policy = np.minimum(recompute, 2)
    full = policy == 2
    ones = np.ones(len(recompute))
    exchange = sum(p.exchange for p in parts) * ones
    forward, hidden_forward = _host_bound(sum(p.forward.seconds for p in parts), exchange, host)
    plain, hidden_plain = _host_bound(
        sum(p.backward.seconds + p.weight.seconds for p in parts), exchange, host
    )
    again = sum(p.again.seconds for p in parts) * ones
    kept = sum(p.kept for p in parts) * ones
    selective = sum(p.kept_selective for p in parts) * ones
    stays = np.choose(policy, [kept, selective, saved_input])
    return LayerColumns(
        forward,
        plain + np.choose(policy, [0.0 * ones, again, forward]),
        sum(p.weight.seconds for p in parts) * ones,
        hidden_forward * (1.0 + full) + hidden_plain,
        stays,
        kept - stays,
        sum(p.parameters for p in parts) * ones,
        sum(p.expert_parameters for p in parts) * ones,
    )


def _host_bound(seconds: Seconds, exchange: Array, host: float) -> tuple[Array, Array]:
    """The time of a pass that the host bounds, and how much of it hiding the exchange can save."""
    bound = np.maximum(seconds, host) + 0.0 * exchange
    return bound, bound - np.maximum(bound - exchange, np.minimum(host, bound))


def build(setting: Setting, model: ModelSpec, rows: Rows) -> tuple[Columns, dict[str, LayerParts]]:
    """Cost every distinct layer of the model, and its ends, for every row.

    Returns the columns and the parts behind them by name.
    """
    s = sharding(rows)
    tokens = s.tokens(setting.job.seq_len)
    saved = 2.0 * tokens / s.norm_split * setting.hidden
    nothing = np.zeros(len(rows), dtype=np.int64)
    keys = Distinct.of(s.tp, s.cp, s.sequence_parallel, s.micro_batch)

    def dense(function: Callable[[Sharding], Part]) -> Part:
        return keys.evaluate(lambda *k: function(Sharding(*k)))

    @cache
    def part(spec: Attention | FeedForward) -> Part:
        """A mixer or a feed-forward part, costed once however many layers have it."""
        if isinstance(spec, MixtureOfExperts):
            return _expert_keys(setting, rows).evaluate(lambda *k: moe_part(setting, spec, *k))
        if isinstance(spec, DenseFeedForward):
            return dense(lambda k: feedforward_part(setting, spec, k))
        return dense(lambda k: attention_part(setting, spec, k))

    def whole(layer: Layer) -> LayerParts:
        specs = (layer.attention, *([layer.feedforward] if layer.feedforward else []))
        return LayerParts(layer_name(layer), tuple(part(spec) for spec in specs))

    found = [whole(layer) for layer in distinct_layers(model.layers)]
    embedding = dense(lambda k: embedding_part(setting, model.vocab, model.learned_positions, k))
    head = dense(lambda k: head_part(setting, model.vocab, k))
    ends = {
        "embedding": LayerParts("embedding", (embedding,), recomputed=False),
        "head": LayerParts("head", (head,), recomputed=False),
    }
    host = setting.job.software.host
    mtp = None
    if model.mtp_layers and setting.job.mtp:
        own = whole(model.mtp_layers[0])
        join = dense(lambda k: _mtp_projection(setting, k))
        reused = replace(head, parameters=0.0 * tokens)
        ends["mtp"] = LayerParts("multi-token prediction", (*own.parts, join, reused))
        mtp = combine(ends["mtp"].parts, rows.recompute, saved + head.kept, host)
    columns = Columns(
        rows,
        tuple(combine(layer.parts, rows.recompute, saved, host) for layer in found),
        combine((embedding,), nothing, saved, 0.0),
        combine((head,), nothing, saved, 0.0),
        mtp,
        model.tied_embeddings * model.embedding_parameters / s.tp,
        2.0 * tokens / s.tp * setting.hidden,
        Distinct.of(rows.tp, rows.cp),
        Distinct.of(rows.ep * rows.etp),
    )
    return columns, {**{str(i): layer for i, layer in enumerate(found)}, **ends}


def _mtp_projection(setting: Setting, s: Sharding) -> Part:
    """The projection that joins a hidden state with the next token's embedding."""
    hidden = setting.hidden
    tokens = s.tokens(setting.job.seq_len) / s.norm_split
    join = projection(setting, "join projection", tokens, float(hidden), 2.0 * hidden)

    return Part(
        join.forward,
        join.backward,
        join.weight,
        NOTHING,
        4.0 * tokens * hidden,
        4.0 * tokens * hidden,
        2.0 * hidden**2 * np.ones_like(tokens),
    )
