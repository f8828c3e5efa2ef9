"""What fills a device of a replica: weights, cache and working memory; and how many fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from planner.costs.kernels import OPERAND_BYTES
from planner.layers.inference import Array, Runtime
from planner.serving.iteration import Replica
from planner.specs.model import (
    Attention,
    FeedForward,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
    SparseIndexer,
)

CONTEXT = 1.5e9
"""Bytes that the driver, the collectives' buffers and captured graphs take on a device."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device; arrays of shape ``(n,)``."""

    weights: Array
    working: Array
    """Activations of the largest iteration, logits and the driver's own."""
    room: Array
    """What is left for the cache."""


def weight_bytes(run: Runtime, model: ModelSpec, replica: Replica) -> Array:
    """Bytes of the weights on one device; embeddings, norms and routers stay in 16 bits."""
    split, stored = replica.split, OPERAND_BYTES[run.widths.weights]
    hidden = model.hidden
    total = np.zeros_like(split.tp)
    for layer, count in Counter(model.layers).items():
        routed = router = 0.0
        if isinstance(layer.feedforward, MixtureOfExperts):
            spec = layer.feedforward
            routed = float(spec.experts * spec.expert_parameters(hidden))
            router = float(hidden * spec.experts)
        whole = _whole_parameters(layer.attention, hidden)
        dense = (layer.parameters(hidden) - routed - router - whole) / split.tp + whole
        attention = layer.attention
        if isinstance(attention, GroupedQueryAttention):  # key-value heads held more than once
            copied = np.maximum(1.0 - attention.kv_heads / split.tp, 0.0)
            dense = dense + copied * 2.0 * attention.head_dim * hidden
        own = dense + routed / (split.ep * split.moe_tp)
        total = total + count * (stored * own + 2.0 * router)
    tables = model.embedding_parameters * (1 if model.tied_embeddings else 2)
    return total / replica.pp + 2.0 * tables / split.tp


def _whole_parameters(attention: Attention, hidden: int) -> float:
    """Parameters of a mixer that every rank of a TP group holds: what makes latents and indices."""
    if isinstance(attention, LinearAttention):
        return 0.0
    found = (
        0
        if attention.indexer is None
        else attention.indexer.parameters(hidden, attention.query_rank)
    )
    if isinstance(attention, LatentAttention):
        found += hidden * ((attention.query_rank or 0) + attention.kv_rank + attention.rope_dim)
    return float(found)


def cache_bytes(run: Runtime, attention: Attention, tp: Array, tokens: Array) -> Array:
    """Bytes that one layer of a sequence of ``tokens`` holds on one device."""
    size = OPERAND_BYTES[run.widths.kv]
    if isinstance(attention, LinearAttention):
        return 4.0 * attention.state_elements / tp + 0.0 * tokens
    if isinstance(attention, LatentAttention):
        latent = size * (attention.kv_rank + attention.rope_dim) * tokens
        return latent + _index_bytes(attention.indexer, tokens)
    if attention.borrows_kv:
        return 0.0 * tokens * tp
    kept = np.minimum(tokens, attention.window) if attention.window else tokens
    if attention.compression:
        kept = kept + (tokens - kept) / attention.compression
    heads = np.maximum(attention.kv_heads / tp, 1.0)
    value = 0 if attention.key_is_value else attention.value_dim or attention.head_dim
    own = size * heads * (attention.head_dim + value) * kept
    return own + _index_bytes(attention.indexer, tokens / max(attention.compression, 1))


def _index_bytes(indexer: SparseIndexer | None, keys: Array) -> Array:
    """Bytes of an indexer's own keys, one a token in 8 bits with a 32-bit scale."""
    if indexer is None or indexer.shared:
        return 0.0 * keys
    return (indexer.head_dim + 4.0) * keys


def sequence_bytes(run: Runtime, model: ModelSpec, replica: Replica, tokens: Array) -> Array:
    """Bytes of cache that a sequence of ``tokens`` holds on one device."""
    kinds = Counter(layer.attention for layer in model.layers)
    layers = sum(
        count * cache_bytes(run, kind, replica.split.tp, tokens) for kind, count in kinds.items()
    )
    return layers / replica.pp


def memory(run: Runtime, model: ModelSpec, replica: Replica) -> Memory:
    """Bytes on one device of a replica."""
    weights = weight_bytes(run, model, replica)
    parts = {layer.feedforward for layer in model.layers}
    widest = 2.0 * max(map(_widest, parts)) / replica.split.tp
    activations = run.engine.chunk * (4.0 * 2.0 * model.hidden + widest)
    logits = 6.0 * 256.0 * model.vocab / replica.split.tp
    working = activations + logits + CONTEXT
    share = run.engine.memory_fraction
    if run.engine.of_free:
        room = share * (run.device.memory - weights - working)
    else:
        room = share * run.device.memory - weights - working
    return Memory(weights, working, np.maximum(room, 0.0))


def _widest(part: FeedForward | None) -> float:
    """Columns that a token takes inside a feed-forward part."""
    if isinstance(part, MixtureOfExperts):
        return 3.0 * (part.top_k * part.width + part.shared_width + part.dense_width)
    return 0.0 if part is None else 3.0 * part.width
