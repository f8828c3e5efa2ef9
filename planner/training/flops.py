"""Model FLOPs of a training step, with the convention named.

Model FLOPs count what the mathematics needs, once forward and twice backward, never recomputation;
hardware FLOPs add what a recomputation policy repeats.  Papers differ in counting causal attention
in full or half (arXiv 2104.04473 in full; Megatron-Bridge since 25.09 half), so both are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.specs.model import (
    Attention,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.workload import TrainingJob

CONVENTIONS = ("causal", "full")


@dataclass(frozen=True)
class ForwardFlops:
    """Forward FLOPs for one token."""

    matrices: float
    scores: float
    """Attention scores and values, under one convention."""
    head: float

    @property
    def total(self) -> float:
        return self.matrices + self.scores + self.head


def forward_flops(model: ModelSpec, job: TrainingJob, convention: str) -> ForwardFlops:
    """Forward FLOPs for one token: 2 for every weight it meets, plus attention scores.

    ``convention`` is ``causal`` (a query meets half the sequence on average) or ``full``.
    """
    layers = [*model.layers, *(model.mtp_layers if job.mtp else ())]
    matrices = sum(2.0 * _matrix_parameters(layer, model.hidden) for layer in layers)
    scores = sum(_score_flops(layer.attention, job.seq_len, convention) for layer in layers)
    passes = 1 + (len(model.mtp_layers) if job.mtp else 0)
    matrices += 2.0 * (passes - 1) * 2.0 * model.hidden**2
    return ForwardFlops(matrices, scores, passes * 2.0 * model.embedding_parameters)


def _matrix_parameters(layer: Layer, hidden: int) -> float:
    """Weights that a token is multiplied with."""
    attention, feedforward = layer.attention, layer.feedforward
    count = float(attention.parameters(hidden))
    if isinstance(attention, LinearAttention):
        count = hidden * (attention.input_columns + attention.output_rows)
    if isinstance(feedforward, MixtureOfExperts):
        count += feedforward.top_k * feedforward.expert_parameters(hidden)
        count += feedforward.always_active_parameters(hidden)
    elif feedforward is not None:
        count += feedforward.parameters(hidden)
    return count


def _score_flops(attention: Attention, seq_len: int, convention: str) -> float:
    if isinstance(attention, LinearAttention):
        return attention.recurrence_flops
    if isinstance(attention, LatentAttention):
        width = attention.nope_dim + attention.rope_dim + attention.value_dim
    else:
        width = attention.head_dim + (attention.value_dim or attention.head_dim)
    window = attention.window if isinstance(attention, GroupedQueryAttention) else None
    attended = float(seq_len)
    if convention == "causal":
        reach = min(window or seq_len, seq_len)
        attended = reach - reach**2 / (2.0 * seq_len)
    elif window is not None:
        attended = float(min(window, seq_len))
    return 2.0 * width * attention.heads * attended


def step_flops(model: ModelSpec, job: TrainingJob, convention: str) -> float:
    """Model FLOPs of one step: three forward passes' worth for every token."""
    tokens = float(job.global_batch) * job.seq_len
    return 3.0 * tokens * forward_flops(model, job, convention).total


def recomputed_flops(model: ModelSpec, job: TrainingJob, recompute: str, convention: str) -> float:
    """FLOPs that a recomputation policy repeats in one step.

    Full recomputation repeats every layer's forward pass; selective repeats the scores where the
    attention is not fused, and the up-projections of latent attention.
    """
    tokens = float(job.global_batch) * job.seq_len
    forward = forward_flops(model, job, convention)
    if recompute == "full":
        return tokens * (forward.matrices + forward.scores)
    if recompute == "none":
        return 0.0
    scores = 0.0 if job.software.fused_attention else forward.scores
    layers = [*model.layers, *(model.mtp_layers if job.mtp else ())]
    return tokens * (scores + sum(_up_projections(x.attention, model.hidden) for x in layers))


def _up_projections(attention: Attention, hidden: int) -> float:
    """Forward FLOPs for one token of expanding latent queries, keys and values."""
    if not isinstance(attention, LatentAttention):
        return 0.0
    query = (attention.query_rank or hidden) * (attention.nope_dim + attention.rope_dim)
    key_value = attention.kv_rank * (attention.nope_dim + attention.value_dim)
    return 2.0 * attention.heads * (query + key_value)
