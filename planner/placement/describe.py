"""What is told of a placement: before and after, in balance, time and bytes, and another day."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.imbalance import balance
from planner.placement import methods
from planner.placement.affinity import cluster_flows, distances
from planner.placement.drift import best_interval, drifted, drifted_balance
from planner.placement.layer_time import Work, dispatched, layer_seconds
from planner.placement.methods import Placed
from planner.placement.movement import Movement, movement
from planner.placement.question import Question
from planner.placement.reads import Reads, busiest_reads
from planner.placement.result import Drift, LayerResult, Placement
from planner.placement.splitting import device_loads, equal_shares, water_filled

Floats = NDArray[np.float64]

DAYS = 32
"""Layers times days that the loss by drift is a mean over, at least."""
WEATHER = 20260
"""Seed of those days; loads generated from another seed must not drift along with themselves."""


def times(work: Work, loads: Floats, placed: Placed) -> Floats:
    """Time of every layer under a placement [s], shape (L,)."""
    copies = placed.copies(loads.shape[1], work.devices)
    held = (copies > 0).sum(axis=1).astype(float)
    return layer_seconds(work, loads, equal_shares(copies), held)


@dataclass(frozen=True)
class _View:
    """What is told of a placement, before and after."""

    by_device: Floats
    balance: Floats
    seconds: Floats | None
    tiers: dict[str, float] | None
    hops: float | None
    local: float | None


def _view(asked: Question, placed: Placed) -> _View:
    shares = equal_shares(placed.copies(asked.loads.experts, asked.devices))
    by_device = device_loads(asked.loads.counts, shares)
    seconds = tiers = hops = local = None
    if asked.work is not None:
        seconds = times(asked.work, asked.loads.counts, placed)
        sent = dispatched(
            asked.work, asked.loads.counts, placed.slots, placed.device, asked.loads.routing
        )
        tiers = dict(zip((t.name for t in asked.work.net.tiers), sent.tolist(), strict=True))
    if asked.transitions is not None and asked.net is not None:
        flows = cluster_flows(asked.transitions, shares)
        total = float(flows.sum())
        hops = float((flows * distances(asked.net, "hops")).sum()) / total
        local = float(np.trace(flows, axis1=1, axis2=2).sum()) / total
    return _View(by_device, balance(by_device), seconds, tiers, hops, local)


def described(asked: Question, placed: Placed, started: float) -> Placement:
    """All that is told of a placement, whose question came at ``started`` by the counter [s]."""
    layers, experts = asked.loads.counts.shape
    today = methods.contiguous(layers, experts) if asked.current is None else asked.current
    start = Placed("today", today, methods.even(today, asked.devices), placed.bound)
    before, after = _view(asked, start), _view(asked, placed)
    gap = after.balance / placed.bound - 1.0
    moved = _moved(asked, start, placed) if asked.current is not None else None
    drift = _drift(asked, placed)
    replicas = [int(np.bincount(row).max()) for row in placed.slots]
    loss = drift.balance / float(after.balance.mean()) - 1.0
    window, move = asked.options.window, None if moved is None else moved[1]
    every = None
    if window is not None and move is not None and move.seconds > 0 and loss > 0:
        every = float(best_interval(loss / window**0.5, move.seconds))
    return Placement(
        slots=placed.slots,
        device=np.ascontiguousarray(placed.device),
        device_loads=after.by_device / after.by_device.mean(axis=1, keepdims=True),
        device_loads_before=before.by_device / before.by_device.mean(axis=1, keepdims=True),
        experts=experts,
        model_layers=None if asked.model is None else asked.model.num_layers,
        method=placed.method,
        objective=asked.objective,
        balance_before=float(before.balance.mean()),
        balance_after=float(after.balance.mean()),
        bound=float(placed.bound.mean()),
        gap=float(gap.mean()),
        worst_gap=float(gap.max()),
        by_layer=tuple(
            LayerResult(
                layer,
                float(before.balance[i]),
                float(after.balance[i]),
                float(placed.bound[i]),
                float(gap[i]),
                replicas[i],
                None if before.seconds is None else float(before.seconds[i]),
                None if after.seconds is None else float(after.seconds[i]),
            )
            for i, layer in enumerate(asked.loads.layers)
        ),
        layer_time_before_s=None if before.seconds is None else float(before.seconds.mean()),
        layer_time_after_s=None if after.seconds is None else float(after.seconds.mean()),
        reads=_reads(asked, placed),
        bytes_by_tier=after.tiers,
        bytes_by_tier_before=before.tiers,
        hops_before=before.hops,
        hops_after=after.hops,
        local_before=before.local,
        local_after=after.local,
        moved_experts=None if moved is None else moved[0],
        moved_bytes=None if move is None else move.total,
        move_time_s=None if move is None else move.seconds,
        drift=drift,
        rebalance_every_s=every,
        certificate=placed.certificate,
        inputs=asked.record,
        notes=_notes(asked, placed, gap),
        seconds=time.perf_counter() - started,
    )


def _moved(asked: Question, start: Placed, placed: Placed) -> tuple[int, Movement | None]:
    """Copies that devices lack, and what fetching them costs."""
    now, then = (one.copies(asked.loads.experts, asked.devices) > 0 for one in (start, placed))
    copies = int((then & ~now).sum())
    if asked.work is None:
        return copies, None
    return copies, movement(now, then, asked.work.net, asked.work.expert_bytes)


def _drift(asked: Question, placed: Placed) -> Drift:
    """Balance on other days, with equal splits and with the best ones."""
    table, shares, deviation = (
        asked.loads.counts,
        equal_shares(placed.copies(asked.loads.experts, asked.devices)),
        asked.drift,
    )
    draws = -(-DAYS // len(table))
    equal = float(drifted_balance(table, shares, deviation, draws, WEATHER).mean())
    split = equal
    hosted = shares > 0
    if (hosted.sum(axis=2) > 1).any():
        days = drifted(table, deviation, draws, WEATHER).reshape(-1, table.shape[1])
        homes = np.tile(hosted, (draws, 1, 1))
        split = float(balance(device_loads(days, water_filled(days, homes))).mean())
    measured = asked.options.drift is None and asked.loads.drift is not None
    return Drift(deviation, measured, equal, min(split, equal))


def _reads(asked: Question, placed: Placed) -> Reads | None:
    """Experts that a decode step reads."""
    work = asked.work
    if work is None or work.phase != "decode":
        return None
    shares = equal_shares(placed.copies(asked.loads.experts, asked.devices))
    tokens = work.tokens * work.devices
    return busiest_reads(asked.loads.counts, shares, tokens, work.spec.top_k)


def _notes(asked: Question, placed: Placed, gap: Floats) -> tuple[str, ...]:
    found = list(methods.told(placed.certificate, len(gap)))
    if gap.max() > 0.01:
        worst = asked.loads.layers[int(gap.argmax())]
        found.append(
            f"layer {worst} is {gap.max():.1%} above its bound: more slots help where the packing"
            " cannot"
        )
    if placed.slots.shape[1] < asked.slots:
        found.append(
            f"{placed.slots.shape[1]} of {asked.slots} slots are used: more replicas would only be"
            " read for nothing"
        )
    if asked.current is None:
        found.append("before is the contiguous placement without replicas")
    return tuple(found)
