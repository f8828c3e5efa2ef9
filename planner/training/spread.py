"""What follows from the number of stages: data-parallel groups and hand-overs on the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from planner.costs import collectives
from planner.costs.topology import Count, Network
from planner.costs.tree import Seconds
from planner.layers.part import Array, Distinct, Setting
from planner.training.columns import Columns

Collective = Callable[[Network, Count, Count, Seconds], Seconds]

BIG = 2.0**31
"""Collectives over gradient and weight buffers are evaluated as the time of an empty buffer and
the rate of one of two GiB: a line that no faster hardware raises."""


@dataclass(frozen=True)
class Line:
    """latency + per_byte * bytes, each of shape ``(n,)``."""

    latency: Array
    per_byte: Array

    def __call__(self, nbytes: Seconds, calls: float = 1.0) -> Array:
        """Time of moving ``nbytes`` in ``calls`` collectives [s]."""
        return calls * self.latency + self.per_byte * nbytes

    def over(self, groups: Distinct) -> Line:
        """The lines of distinct groups spread over all rows."""
        return Line(groups.spread(self.latency), groups.spread(self.per_byte))


def long_line(collective: Collective, net: Network, size: Count, stride: Count) -> Line:
    """A collective of many groups over long buffers as a line."""
    both = collective(net, size, stride, np.array([[1.0], [BIG]]))
    empty, full = np.broadcast_to(both, (2, *np.shape(size)))
    return Line(empty, full / BIG)


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
    synchronise: Callable[[], Seconds]
    """One all-reduce of a hand-over's bytes over the pipeline [s], which few schedules need."""


def spread(setting: Setting, columns: Columns, p: int) -> Spread:
    """Place ``p`` stages on the network and find every data-parallel group."""
    rows, net, mesh, expert_mesh = columns.rows, setting.net, columns.mesh, columns.expert_mesh
    (tp, cp), (meshed,) = mesh.keys, expert_mesh.keys
    # Distinct meshes may also be those of rows that do not fit p stages: no group is empty.
    shards = np.maximum(1, net.devices // (tp * cp * p)) * cp
    expert_shards = np.maximum(1, net.devices // (meshed * p))

    def both(collective: Collective) -> tuple[Line, Line]:
        return (
            long_line(collective, net, shards, tp).over(mesh),
            long_line(collective, net, expert_shards, meshed).over(expert_mesh),
        )

    dense = rows.tp * rows.cp
    dp = net.devices // (dense * p)

    transfer = hand_over = np.zeros(len(rows))
    if p > 1:
        span = (p - 1) * dense * dp  # some hop crosses every domain that the pipeline spans
        hand_over = np.asarray(collectives.point_to_point(net, span, 0.0 * columns.boundary))
        transfer = np.asarray(collectives.point_to_point(net, span, columns.boundary))
    return Spread(
        p,
        dp.astype(float),
        mesh.spread(shards),
        expert_mesh.spread(expert_shards),
        setting.job.global_batch / (dp * rows.micro_batch),
        both(collectives.reduce_scatter),
        both(collectives.all_gather),
        both(collectives.all_reduce),
        transfer,
        hand_over,
        lambda: collectives.all_reduce(net, np.full(len(rows), p), dense * dp, columns.boundary),
    )
