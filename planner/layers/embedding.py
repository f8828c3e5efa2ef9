"""The vocabulary layers: input embedding on the first stage, projection and loss on the last."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.costs import collectives, kernels
from planner.costs.terms import Ref, term
from planner.costs.tree import leaf, seq
from planner.layers.linear import projection
from planner.layers.part import NOTHING, Part, Setting, Sharding
from planner.specs.workload import PRECISIONS

LOGIT_TRAFFIC = 14.0
"""Bytes moved for each logit by the loss: cast to fp32, maximum, exponential and sum, divide."""


def embedding_part(setting: Setting, vocab: int, positions: int, sharding: Sharding) -> Part:
    """Cost of the input embedding for one micro-batch on one device."""
    device, hidden, net = setting.device, setting.hidden, setting.net
    tokens = sharding.tokens(setting.job.seq_len)
    nbytes = 2.0 * tokens * hidden
    split = sharding.sequence_parallel > 0
    link = np.where(
        split,
        collectives.reduce_scatter(net, sharding.tp, 1, nbytes),
        collectives.all_reduce(net, sharding.tp, 1, nbytes),
    )
    gather = np.where(split, collectives.all_gather(net, sharding.tp, 1, nbytes), 0.0)
    lookup = leaf("look-up", kernels.elementwise(device, 2.0 * nbytes, 2.0), "memory")
    scatter = leaf("scatter gradient", kernels.elementwise(device, 5.0 * nbytes, 2.0), "memory")
    return Part(
        seq("embedding", [lookup, leaf("reduce (TP)", link, "link")]),
        seq("embedding, backward", [leaf("all-gather (TP)", gather, "link"), scatter]),
        leaf("no weight gradient apart", 0.0),
        NOTHING,
        (tokens / sharding.norm_split * hidden if setting.job.software.dropout else 0.0 * tokens),
        0.0 * tokens,
        vocab * hidden / sharding.tp + positions * hidden,
    )


@term(
    "logits: 2 n h V/t FLOP for n tokens; memory l n V/t + 4 h n/t B, l bytes a logit",
    Ref("arXiv 2411.05288 (Vocabulary Parallelism)", "section 2; arXiv 2205.05198 section 4.3"),
)
def head_part(setting: Setting, vocab: int, sharding: Sharding) -> Part:
    """Cost of the final norm, the vocabulary projection and the loss for one micro-batch."""
    device, hidden, net = setting.device, setting.hidden, setting.net
    tokens = sharding.tokens(setting.job.seq_len)
    outside = tokens / sharding.norm_split
    columns = vocab / sharding.tp
    sixteen_bit = replace(setting.job, precision=PRECISIONS["bf16"])
    plain = replace(setting, job=sixteen_bit)
    logits = projection(plain, "vocabulary projection", tokens, columns, hidden)
    nbytes = 2.0 * tokens * hidden
    split = sharding.sequence_parallel > 0
    gather = np.where(split, collectives.all_gather(net, sharding.tp, 1, nbytes), 0.0)
    scatter = np.where(
        split,
        collectives.reduce_scatter(net, sharding.tp, 1, nbytes),
        collectives.all_reduce(net, sharding.tp, 1, nbytes),
    )
    sums = collectives.all_reduce(net, sharding.tp, 1, 8.0 * tokens)
    traffic = LOGIT_TRAFFIC * tokens * columns
    loss = leaf("loss", kernels.elementwise(device, traffic, 6.0), "memory")
    gradient = leaf("loss, backward", kernels.elementwise(device, 0.5 * traffic, 2.0), "memory")
    norm = leaf("final norm", kernels.elementwise(device, 4.0 * outside * hidden), "memory")
    forward = [
        norm,
        leaf("all-gather (TP)", gather, "link"),
        logits.forward,
        loss,
        leaf("reduce sums (TP)", sums, "link"),
    ]
    backward = [
        gradient,
        logits.backward,
        leaf("reduce input gradient (TP)", scatter, "link"),
        norm,
    ]
    return Part(
        seq("vocabulary projection and loss", forward),
        seq("vocabulary projection and loss, backward", backward),
        logits.weight,
        NOTHING,
        4.0 * outside * hidden + setting.job.software.logit_bytes * tokens * columns,
        4.0 * outside * hidden + setting.job.software.logit_bytes * tokens * columns,
        vocab * hidden / sharding.tp + hidden,
    )
