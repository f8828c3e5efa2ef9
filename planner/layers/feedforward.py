"""The dense feed-forward part of a layer under tensor parallelism."""

from __future__ import annotations

from planner.costs.tree import seq
from planner.layers.linear import projection, tensor_parallel_edges
from planner.layers.part import Part, Setting, Sharding, moved
from planner.specs.model import DenseFeedForward


def feedforward_part(setting: Setting, spec: DenseFeedForward, sharding: Sharding) -> Part:
    """Cost of one dense feed-forward part for one micro-batch on one device."""
    job, hidden = setting.job, setting.hidden
    tokens = sharding.tokens(job.seq_len)
    outside = tokens / sharding.norm_split
    width = spec.width / sharding.tp
    columns = (2.0 if spec.gated else 1.0) * width
    up = projection(setting, "up projection", tokens, columns, hidden)
    down = projection(setting, "down projection", tokens, hidden, width)
    edges = tensor_parallel_edges(setting, sharding, up, down)
    dropout = job.software.dropout
    residual = (6.0 + 2.0 * dropout) * outside * hidden
    activation = 2.0 * tokens * (columns + width)
    norm = moved(setting, "norm", 4.0 * outside * hidden)
    activate = moved(setting, "activation", activation)
    forward = seq(
        "feed-forward",
        [
            norm,
            edges.enter,
            up.forward,
            activate,
            down.forward,
            edges.leave,
            moved(setting, "residual", residual),
        ],
    )
    backward = seq(
        "feed-forward, backward",
        [
            edges.enter_backward,
            down.backward,
            moved(setting, "activation, backward", 2.0 * activation - 2.0 * tokens * width),
            up.backward,
            edges.leave_backward,
            moved(setting, "norm and residual, backward", 8.0 * outside * hidden + residual, 2.0),
        ],
    )
    weight = seq("feed-forward, weight gradients", [down.weight, up.weight])
    norm_output = 2.0 * outside * hidden
    activated = 2.0 * tokens * width
    mask = outside * hidden * (1.0 if dropout else 0.0)
    kept = 2.0 * outside * hidden + norm_output + 2.0 * tokens * columns + activated + mask
    return Part(
        forward,
        backward,
        weight,
        seq("selective recomputation", [norm, activate]),
        kept,
        kept - norm_output - activated,
        spec.parameters(hidden) / sharding.tp,
    )
