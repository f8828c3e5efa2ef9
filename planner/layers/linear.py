"""A projection under tensor parallelism: three GEMMs, and the collectives at its edges.

Column-parallel input and row-parallel output projections pair up, so a block gathers its input once
and reduces its output once (Megatron-LM, arXiv 1909.08053 section 3; with sequence parallelism
arXiv 2205.05198 section 4.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.costs import collectives, kernels
from planner.costs.terms import Ref, term
from planner.costs.tree import Cost, Seconds, behind, leaf, seq
from planner.layers.part import Setting, Sharding


@dataclass(frozen=True)
class Projection:
    """Forward, input-gradient and weight-gradient time of one GEMM."""

    forward: Cost
    backward: Cost
    weight: Cost


def projection(setting: Setting, name: str, m: Seconds, n: Seconds, k: Seconds) -> Projection:
    """Y[m,n] = X[m,k] W[k,n] and its two gradients, casts to the recipe's datatype included."""
    device, precision = setting.device, setting.job.precision
    cast = precision.cast_bytes

    def one(label: str, rows: Seconds, columns: Seconds, depth: Seconds, operands: Seconds) -> Cost:
        seconds = kernels.gemm(device, precision.matrix, rows, columns, depth)
        if cast:
            seconds = seconds + kernels.elementwise(device, cast * operands)
        return leaf(label, seconds, "compute")

    return Projection(
        one(name, m, n, k, m * k),
        one(f"{name}, input gradient", m, k, n, m * n),
        one(f"{name}, weight gradient", k, n, m, 0.0),
    )


@dataclass(frozen=True)
class Edges:
    """Collectives of a tensor-parallel block: before its first and after its last projection."""

    enter: Cost
    leave: Cost
    enter_backward: Cost
    """Gradient of ``leave``: comes first in the backward pass."""
    leave_backward: Cost
    """Gradient of ``enter``: hides behind the weight gradients of the block."""


@term(
    "AG + RS of 2 t h B a direction with sequence parallelism, one AR of 2 t h B without",
    Ref("arXiv 2205.05198 (Korthikanti et al.)", "section 4.2.2"),
)
def tensor_parallel_edges(
    setting: Setting,
    sharding: Sharding,
    first: Projection,
    last: Projection,
) -> Edges:
    """Collectives around a tensor-parallel block of ``first`` to ``last`` projections."""
    net, tp = setting.net, sharding.tp
    nbytes = 2.0 * sharding.tokens(setting.job.seq_len) * setting.hidden
    split = sharding.sequence_parallel > 0
    gather = np.where(split, collectives.all_gather(net, tp, 1, nbytes), 0.0)
    scatter = np.where(split, collectives.reduce_scatter(net, tp, 1, nbytes), 0.0)
    reduce = np.where(split, 0.0, collectives.all_reduce(net, tp, 1, nbytes))
    chunks = 1.0 - 1.0 / tp  # a ring-pipelined GEMM hides all but one of tp chunks

    def edge(name: str, seconds: Seconds, gemm: Cost) -> Cost:
        cost = leaf(name, seconds, "link")
        if not setting.job.software.overlaps_tensor:
            return cost
        return behind(f"{name}, behind its GEMM", cost, gemm.seconds * chunks)

    return Edges(
        enter=edge("all-gather input (TP)", gather, first.forward),
        leave=edge("reduce output (TP)", scatter + reduce, last.forward),
        enter_backward=edge("all-gather output gradient (TP)", gather, last.backward),
        leave_backward=seq(
            "input gradient (TP)",
            [
                behind(
                    "all-gather input again, behind input gradients",
                    leaf("all-gather", gather, "link"),
                    first.backward.seconds,
                ),
                behind(
                    "reduce input gradient, behind weight gradients",
                    leaf("reduce", scatter + reduce, "link"),
                    first.weight.seconds + last.weight.seconds,
                ),
            ],
        ),
    )
