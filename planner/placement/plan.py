"""Where the experts of a model go, and what that is worth: `plan_placement`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.costs.imbalance import balance
from planner.errors import PlannerError
from planner.placement import methods
from planner.placement.affinity import cluster_flows, distances
from planner.placement.drift import best_interval, drifted, drifted_balance
from planner.placement.layer_time import dispatched, layer_seconds
from planner.placement.methods import Placed
from planner.placement.movement import Movement, kept_slots, movement, relabelled
from planner.placement.question import Options, Question, database, resolve
from planner.placement.rebalance import rebalanced
from planner.placement.result import Drift, LayerResult, Placement
from planner.placement.splitting import device_loads, equal_shares, water_filled
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAYS = 32
"""Layers times days that the loss by drift is a mean over, at least."""
KEPT = 1.01
"""Balance over that of a new placement at which few changes to the current one are preferred."""


def plan_placement(
    loads: Any,
    cluster: str | Path | Cluster | None = None,
    *,
    devices: int,
    slots: int | None = None,
    nodes: int | None = None,
    groups: int | None = None,
    model: str | Path | ModelSpec | None = None,
    phase: str | None = None,
    tokens: float | None = None,
    precision: str | None = None,
    objective: str | None = None,
    method: str = "auto",
    counts: str = "auto",
    transitions: Any = None,
    current: Any = None,
    drift: float | None = None,
    window: float | None = None,
    time_limit: float = 10.0,
    overrides: Mapping[str, str] | None = None,
    db: Iterable[str | Path] = (),
) -> Placement:
    """Decide how many replicas each expert gets and which device holds each.

    Parameters
    ----------
    loads
        Tokens of every expert: a file (see ``planner.placement.loads_formats``), an array (L, E)
        or (windows, L, E), or `Loads`.
    cluster
        A name in the database, a YAML file or an object; without one nothing crosses a network.
    devices
        Devices that share the experts.
    slots
        Experts that the devices of a layer hold, replicas counted; by default one of each, rounded
        up to a multiple of the devices.
    nodes, groups
        For EPLB's hierarchical policy: by default those of the cluster and of the model's routing.
    model, phase, tokens, precision
        What a step is: ``decode`` (default), ``prefill`` or ``training`` of so many tokens a
        device.  Without a model there are no times, and the objective is balance.
    objective
        ``balance``, ``time`` (default with a model), ``hops`` or ``bytes``.
    method
        ``auto``, ``eplb``, ``lpt``, ``milp`` or ``affinity``.
    counts
        ``equal`` numbers on all devices, ``unequal``, or ``auto``: unequal where experts are few
        and have no replicas.
    transitions
        Tokens from each expert to each of the next layer (L - 1, E, E), or a file.
    current
        Expert of every slot today (L, S), or a file; the answer moves few bytes.
    drift
        Standard deviation of the logarithm of a load from one day to the next; by default that of
        the record's windows, else 0.12.
    window
        Length of a window or day [s], to say how often to place anew.
    time_limit
        Longest time of the solver [s].

    Returns
    -------
    Placement

    Raises
    ------
    PlannerError
        If an input is wrong; the message names it.
    """
    start = time.perf_counter()
    options = Options(
        devices, slots, nodes, groups, phase, tokens, precision, objective, method, counts, drift,
        window, time_limit, database(db), overrides,
    )  # fmt: skip
    asked = resolve(loads, cluster, model, transitions, current, options)
    placed = _chosen(asked)
    found = _described(asked, placed)
    return replace(found, seconds=time.perf_counter() - start)


def _chosen(asked: Question) -> Placed:
    """The placement of the method, or the best of those that the objective leaves open."""
    options, table = asked.options, asked.loads.counts
    slots, devices = asked.slots, asked.devices
    few = asked.loads.experts <= methods.FEW_EXPERTS and slots == asked.loads.experts
    if options.counts == "unequal":
        if options.method not in ("auto", "lpt"):
            raise PlannerError(
                f"counts: found 'unequal' with method {options.method!r}, expected auto or lpt."
            )
        return methods.by_unequal(table, devices, _room(asked))
    if options.method == "eplb":
        return methods.by_eplb(table, slots, asked.groups, asked.nodes, devices)
    if options.method == "milp":
        return methods.by_milp(table, slots, devices, options.time_limit)
    if slots % devices:
        return methods.by_unequal(table, devices, _room(asked))
    best = methods.by_lpt(table, slots, devices)
    if options.method == "affinity" or (
        options.method == "auto" and asked.objective in ("hops", "bytes")
    ):
        assert asked.transitions is not None and asked.net is not None
        best = methods.by_affinity(table, asked.transitions, best, asked.net, asked.objective)
    elif options.method == "auto" and few and options.counts == "auto" and asked.current is None:
        best = min(
            (methods.by_unequal(table, devices, _room(asked)), best),
            key=lambda one: _worth(asked, one),
        )
    return _settled(asked, best)


def _worth(asked: Question, placed: Placed) -> float:
    """What the objective minimises, where it is balance or time."""
    if asked.objective == "time":
        return float(_times(asked, placed).mean())
    return float(balance(_by_device(asked, placed)).mean())


def _room(asked: Question) -> int:
    """Experts that a device holds over all layers."""
    return -(-asked.slots * len(asked.loads.layers) // asked.devices)


def _settled(asked: Question, placed: Placed) -> Placed:
    """The same placement with devices named, and slots ordered, for the fewest moves."""
    current, devices = asked.current, asked.devices
    if current is None:
        return placed
    if current.shape[1] == asked.slots and asked.options.method == "auto":
        limit = KEPT * float(balance(_by_device(asked, placed)).mean())
        few = rebalanced(asked.loads.counts, current, devices, limit)
        kept = Placed("kept", few, methods.even(few, devices), placed.bound)
        if _worth(asked, kept) <= KEPT * _worth(asked, placed):
            return kept
    node = 1 if asked.cluster is None else asked.cluster.devices_per_node
    node = node if devices % node == 0 and placed.method == "affinity" else 1
    new = _hosted(asked, placed)
    parts = relabelled(_held(current, devices, asked.loads.experts), new, node)
    contents = placed.slots.reshape(len(current), devices, -1)
    named = np.take_along_axis(contents, parts[:, :, np.newaxis], axis=1)
    slots = named.reshape(placed.slots.shape)
    if slots.shape == current.shape:
        slots = kept_slots(current, slots, devices)
    return replace(placed, slots=slots)


def _copies(slots: Ints, device: Ints, experts: int, devices: int) -> Ints:
    """Replicas of every expert on every device, shape (L, E, G)."""
    copies = np.zeros((len(slots), experts, devices), dtype=np.int64)
    np.add.at(copies, (np.arange(len(slots))[:, np.newaxis], slots, device), 1)
    return copies


def _held(slots: Ints, devices: int, experts: int) -> NDArray[np.bool_]:
    return np.asarray(_copies(slots, methods.even(slots, devices), experts, devices) > 0)


def _hosted(asked: Question, placed: Placed) -> NDArray[np.bool_]:
    copies = _copies(placed.slots, placed.device, asked.loads.experts, asked.devices)
    return np.asarray(copies > 0)


def _shares(asked: Question, placed: Placed) -> Floats:
    return equal_shares(_copies(placed.slots, placed.device, asked.loads.experts, asked.devices))


def _by_device(asked: Question, placed: Placed) -> Floats:
    return device_loads(asked.loads.counts, _shares(asked, placed))


def _times(asked: Question, placed: Placed) -> Floats:
    assert asked.work is not None
    hosted = _hosted(asked, placed).sum(axis=1).astype(float)
    return layer_seconds(asked.work, asked.loads.counts, _shares(asked, placed), hosted)


@dataclass(frozen=True)
class _View:
    """What is told of a placement, before and after."""

    by_device: Floats
    balance: Floats
    times: Floats | None
    tiers: dict[str, float] | None
    hops: float | None
    local: float | None


def _view(asked: Question, placed: Placed) -> _View:
    shares = _shares(asked, placed)
    by_device = device_loads(asked.loads.counts, shares)
    times = tiers = hops = local = None
    if asked.work is not None:
        times = _times(asked, placed)
        sent = dispatched(
            asked.work, asked.loads.counts, placed.slots, placed.device, asked.loads.routing
        )
        tiers = dict(zip((t.name for t in asked.work.net.tiers), sent.tolist(), strict=True))
    if asked.transitions is not None and asked.net is not None:
        flows = cluster_flows(asked.transitions, shares)
        total = float(flows.sum())
        hops = float((flows * distances(asked.net, "hops")).sum()) / total
        local = float(np.trace(flows, axis1=1, axis2=2).sum()) / total
    return _View(by_device, balance(by_device), times, tiers, hops, local)


def _described(asked: Question, placed: Placed) -> Placement:
    """All that is told of a placement."""
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
                None if before.times is None else float(before.times[i]),
                None if after.times is None else float(after.times[i]),
            )
            for i, layer in enumerate(asked.loads.layers)
        ),
        layer_time_before_s=None if before.times is None else float(before.times.mean()),
        layer_time_after_s=None if after.times is None else float(after.times.mean()),
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
        seconds=0.0,
    )


def _moved(asked: Question, start: Placed, placed: Placed) -> tuple[int, Movement | None]:
    """Copies that devices lack, and what fetching them costs."""
    now, then = _hosted(asked, start), _hosted(asked, placed)
    copies = int((then & ~now).sum())
    if asked.work is None:
        return copies, None
    return copies, movement(now, then, asked.work.net, asked.work.expert_bytes)


def _drift(asked: Question, placed: Placed) -> Drift:
    """Balance on other days, with equal splits and with the best ones."""
    table, shares, deviation = asked.loads.counts, _shares(asked, placed), asked.drift
    draws = -(-DAYS // len(table))
    equal = float(drifted_balance(table, shares, deviation, draws).mean())
    split = equal
    hosted = shares > 0
    if (hosted.sum(axis=2) > 1).any():
        days = drifted(table, deviation, draws).reshape(-1, table.shape[1])
        homes = np.tile(hosted, (draws, 1, 1))
        split = float(balance(device_loads(days, water_filled(days, homes))).mean())
    measured = asked.options.drift is None and asked.loads.drift is not None
    return Drift(deviation, measured, equal, min(split, equal))


def _notes(asked: Question, placed: Placed, gap: Floats) -> tuple[str, ...]:
    found = list(methods.told(placed.certificate, len(gap)))
    if gap.max() > 0.01:
        worst = asked.loads.layers[int(gap.argmax())]
        found.append(
            f"layer {worst} is {gap.max():.1%} above its bound: more slots help where the packing"
            " cannot"
        )
    if asked.current is None:
        found.append("before is the contiguous placement without replicas")
    return tuple(found)
