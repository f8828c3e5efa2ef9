"""Where the experts of a model go, and what that is worth: `plan_placement`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.costs.imbalance import balance
from planner.errors import PlannerError
from planner.placement import methods
from planner.placement.describe import described, times
from planner.placement.methods import Placed
from planner.placement.movement import kept_slots, relabelled
from planner.placement.question import Options, Question, database, resolve
from planner.placement.rebalance import rebalanced
from planner.placement.result import Placement
from planner.placement.splitting import device_loads, equal_shares
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec

ABOUT = 1.005
"""Objective over the least at which fewer slots are preferred."""
KEPT = 1.01
"""Balance over that of a new placement at which few changes to the current one are preferred."""


def plan_placement(
    loads: Any,
    cluster: str | Path | Cluster | None = None,
    *,
    devices: int,
    slots: int | Sequence[int] | None = None,
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
        up to a multiple of the devices.  Of several numbers the least is taken that is about as
        good as the best.
    nodes, groups
        For EPLB's hierarchical policy: by default those of the cluster and of the model's routing.
    model, phase, tokens, precision
        What a step is: ``decode`` (default), ``prefill`` or ``training`` of so many tokens a
        device.  Without a model there are no times, and the objective is balance.
    objective
        ``balance``, ``time`` (default with a model), ``hops`` from one layer to the next, or
        ``bytes``: those of a layer's dispatch where the tokens are known and experts have no
        replicas (experts that accompany each other share a node), else of the steps between layers.
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
    every = sorted(slots) if isinstance(slots, Sequence) else [slots]
    if not every:
        raise PlannerError("slots: found no number, expected one or several.")
    found: list[tuple[float, Question, Placed]] = []
    for number in every:
        options = Options(
            devices, number, nodes, groups, phase, tokens, precision, objective, method, counts,
            drift, window, time_limit, database(db), overrides,
        )  # fmt: skip
        asked = resolve(loads, cluster, model, transitions, current, options)
        placed = _chosen(asked)
        found.append((_worth(asked, placed), asked, placed))
    least = min(worth for worth, *_ in found)
    _, asked, placed = next(one for one in found if one[0] <= ABOUT * least)
    result = described(asked, placed, start)
    if len(found) == 1:
        return result
    tried = ", ".join(f"{one.slots}: {worth:.4g}" for worth, one, _ in found)
    what = "seconds of a layer" if asked.objective == "time" else "busiest device over the mean"
    return replace(result, notes=(*result.notes, f"{what} by slots: {tried}"))


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
        best = _near(asked, best)
    elif options.method == "auto" and asked.current is None:
        others = [best]
        if few and options.counts == "auto":
            others.append(methods.by_unequal(table, devices, _room(asked)))
        least = -(-asked.loads.experts // devices) * devices
        if asked.objective == "time" and least < slots:  # a replica may be one more to read
            others.append(methods.by_lpt(table, least, devices))
        best = min(others, key=lambda one: _worth(asked, one))
    return _settled(asked, best)


def _near(asked: Question, start: Placed) -> Placed:
    """Experts brought near those that follow them or, to save bytes, accompany them."""
    net, table, routing = asked.net, asked.loads.counts, asked.loads.routing
    assert net is not None
    single = start.slots.shape[1] == asked.loads.experts
    apart = net.devices > net.domains[net.scale_up]
    if asked.objective == "bytes" and routing is not None and single and apart:
        return methods.by_company(table, routing, start, net)
    assert asked.transitions is not None
    return methods.by_affinity(table, asked.transitions, start, net, asked.objective)


def _worth(asked: Question, placed: Placed) -> float:
    """What the objective minimises, where it is balance or time."""
    if asked.work is not None and asked.objective == "time":
        return float(times(asked.work, asked.loads.counts, placed).mean())
    return _mean_balance(asked, placed)


def _mean_balance(asked: Question, placed: Placed) -> float:
    shares = equal_shares(placed.copies(asked.loads.experts, asked.devices))
    return float(balance(device_loads(asked.loads.counts, shares)).mean())


def _room(asked: Question) -> int:
    """Experts that a device holds over all layers."""
    return -(-asked.slots * len(asked.loads.layers) // asked.devices)


def _settled(asked: Question, placed: Placed) -> Placed:
    """The same placement with devices named, and slots ordered, for the fewest moves."""
    current, devices = asked.current, asked.devices
    if current is None:
        return placed
    if current.shape[1] == asked.slots and asked.options.method == "auto":
        limit = KEPT * _mean_balance(asked, placed)
        few = rebalanced(asked.loads.counts, current, devices, limit)
        kept = Placed("kept", few, methods.even(few, devices), placed.bound)
        if _worth(asked, kept) <= KEPT * _worth(asked, placed):
            return kept
    node = 1 if asked.cluster is None else asked.cluster.devices_per_node
    node = node if devices % node == 0 and placed.method == "affinity" else 1
    start = Placed("today", current, methods.even(current, devices), placed.bound)
    now, new = (one.copies(asked.loads.experts, devices) > 0 for one in (start, placed))
    parts = relabelled(now, new, node)
    contents = placed.slots.reshape(len(current), devices, -1)
    named = np.take_along_axis(contents, parts[:, :, np.newaxis], axis=1)
    slots = named.reshape(placed.slots.shape)
    if slots.shape == current.shape:
        slots = kept_slots(current, slots, devices)
    return replace(placed, slots=slots)
