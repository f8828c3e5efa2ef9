"""Deployments: replicas and how many of each, found exactly from columns evaluated once.

A column is a replica at a batch.  An aggregated deployment is copies of one column; a disaggregated
one joins a prefill and a decode column, whose counts balance the two rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
from numpy.typing import NDArray

from planner.layers.inference import Array, Runtime, Split
from planner.serving.aggregated import Load, most_running, steady
from planner.serving.disaggregated import (
    Pool,
    decode_seconds,
    prefill_seconds,
    transfer_seconds,
)
from planner.serving.iteration import Replica
from planner.specs.model import ModelSpec

BATCHES = 14
"""Batches of a replica, from one sequence to what its memory holds."""
ALTERNATIVES = 3
"""Layouts of one size that are paired; the first is the best, the others are worth showing."""
BUSIEST = 0.95
"""Utilisation that a prefill replica is loaded to at most."""


@dataclass(frozen=True)
class Question:
    """Traffic, targets and how many devices."""

    isl: float
    osl: float
    hit: float = 0.0
    ttft: float = np.inf
    """Longest mean time to the first token [s]."""
    tpot: float = np.inf
    """Longest mean time of an output token [s]."""
    devices: int = 1
    rate: float | None = None
    """Requests per second that must be served; None for as many as the devices can."""
    price: float | None = None
    """US dollars per device-hour."""

    def load(self, concurrency: Array) -> Load:
        """The load of so many requests in flight, spread over time."""
        one = np.ones_like(concurrency)
        endless = np.full_like(one, np.inf)
        return Load(self.isl * one, self.osl * one, concurrency, self.hit * one, endless, 0.0 * one)


@dataclass(frozen=True)
class Deployment:
    """Counts and layouts; ``prefill`` is None where the same replicas do both."""

    replica: Replica
    count: int
    batch: float
    """Sequences that generate on one replica."""
    requests: float
    """Requests per second of the whole."""
    ttft: float
    tpot: float
    prefill: Replica | None = None
    prefill_count: int = 0

    @property
    def devices(self) -> int:
        """Devices that the replicas take."""
        own = int(self.replica.devices[0]) * self.count
        other = 0 if self.prefill is None else int(self.prefill.devices[0]) * self.prefill_count
        return own + other


@dataclass(frozen=True)
class Columns:
    """Replicas at batches; arrays of shape ``(n,)``."""

    replica: Replica
    batch: Array
    """Sequences on the replica."""
    ttft: Array
    tpot: Array
    requests: Array
    """Requests per second of one replica."""


def pick(replica: Replica, index: NDArray[np.int64] | list[int]) -> Replica:
    """Some of the replicas."""
    split = replica.split
    parts = (split.tp, split.attention_dp, split.ep, split.moe_tp)
    return Replica(Split(*(part[index] for part in parts)), replica.pp[index])


def grid(run: Runtime, model: ModelSpec, found: Replica, asked: Question) -> tuple[Replica, Array]:
    """Every replica that holds a sequence, at batches up to its memory's limit."""
    limit = most_running(run, model, found, asked.load(np.ones_like(found.pp)))
    limit = limit * found.split.attention_dp
    rows: list[int] = []
    batches: list[float] = []
    for index in np.flatnonzero(limit >= found.split.attention_dp):
        least = found.split.attention_dp[index]
        steps = np.unique(np.round(np.geomspace(least, limit[index], BATCHES)))
        rows += [int(index)] * len(steps)
        batches += list(steps)
    return pick(found, rows), np.array(batches)


def aggregated_columns(run: Runtime, model: ModelSpec, found: Replica, asked: Question) -> Columns:
    """Replicas that do both."""
    replica, batch = grid(run, model, found, asked)
    state = steady(run, model, replica, asked.load(batch))
    return Columns(replica, batch, state.ttft, state.tpot, state.throughput / asked.osl)


def decode_columns(run: Runtime, model: ModelSpec, found: Replica, asked: Question) -> Columns:
    """Replicas that only generate."""
    replica, batch = grid(run, model, found, asked)
    lanes = replica.split.attention_dp * replica.pp
    running = np.maximum(batch / lanes, 1.0)
    tpot = decode_seconds(
        Pool(run, replica, np.ones_like(batch)), model, asked.load(batch), running
    )
    return Columns(replica, batch, 0.0 * tpot, tpot, running * lanes / (asked.osl * tpot))


def prefill_columns(run: Runtime, model: ModelSpec, found: Replica, asked: Question) -> Columns:
    """Replicas that only take in prompts, as busy as the target lets them be (M/D/1)."""
    load = asked.load(np.ones_like(found.pp))
    held = most_running(run, model, found, load) >= 1.0
    replica = pick(found, np.flatnonzero(held))
    one = np.ones_like(replica.pp)
    prompt = prefill_seconds(Pool(run, replica, one), model, asked.isl * one, asked.hit * one)
    moved = transfer_seconds(Pool(run, replica, one), model, asked.isl * one)
    wait = asked.ttft - run.engine.first - moved - prompt
    wait = np.clip(wait, 0.0, 1e6)
    busy = np.minimum(2.0 * wait / (prompt + 2.0 * wait), BUSIEST)
    ttft = run.engine.first + moved + prompt * (1.0 + busy / (2.0 * (1.0 - busy)))
    lanes = replica.split.attention_dp * replica.pp
    return Columns(replica, one, ttft, 0.0 * one, busy * lanes / prompt)


def compose_aggregated(columns: Columns, asked: Question) -> list[Deployment]:
    """The best batch of every layout, copied."""
    fits = (columns.ttft <= asked.ttft) & (columns.tpot <= asked.tpot) & (columns.requests > 0)
    found = []
    for index in _best(columns, fits, _layout(columns.replica)):
        count = _copies(columns, index, asked)
        if count:
            found.append(
                Deployment(
                    pick(columns.replica, [index]),
                    count,
                    float(columns.batch[index]),
                    float(columns.requests[index]) * count,
                    float(columns.ttft[index]),
                    float(columns.tpot[index]),
                )
            )
    return found


def _copies(columns: Columns, index: int, asked: Question) -> int:
    """Replicas of a column: what the rate needs, or what the devices hold."""
    most = int(asked.devices // columns.replica.devices[index])
    if asked.rate is None:
        return most
    needed = int(np.ceil(asked.rate / columns.requests[index] - 1e-9))
    return needed if needed <= most else 0


def compose_disaggregated(prefill: Columns, decode: Columns, asked: Question) -> list[Deployment]:
    """Every pair of layouts with the counts that serve most requests, by enumeration."""
    first = _strongest(prefill, prefill.requests > 0)
    second = _strongest(decode, decode.tpot <= asked.tpot)
    found = []
    for p in first:
        for d in second:
            counts = _balance(
                float(prefill.requests[p]),
                int(prefill.replica.devices[p]),
                float(decode.requests[d]),
                int(decode.replica.devices[d]),
                asked,
            )
            if counts is None:
                continue
            many, more = counts
            rate = min(many * float(prefill.requests[p]), more * float(decode.requests[d]))
            found.append(
                Deployment(
                    pick(decode.replica, [d]),
                    more,
                    float(decode.batch[d]),
                    rate,
                    float(prefill.ttft[p]),
                    float(decode.tpot[d]),
                    pick(prefill.replica, [p]),
                    many,
                )
            )
    return found


def _balance(
    prefill: float, prefill_devices: int, decode: float, decode_devices: int, asked: Question
) -> tuple[int, int] | None:
    """Prefill and decode replicas: the fewest for the rate, or the best use of the devices."""
    if asked.rate is not None:
        many, more = (int(np.ceil(asked.rate / one - 1e-9)) for one in (prefill, decode))
        fits = many * prefill_devices + more * decode_devices <= asked.devices
        return (many, more) if fits else None
    decoding = np.arange(1, asked.devices // decode_devices + 1)
    filling = (asked.devices - decoding * decode_devices) // prefill_devices
    served = np.minimum(filling * prefill, decoding * decode)
    if not len(decoding) or served.max() <= 0.0:
        return None
    best = int(served.argmax())
    needed = min(int(filling[best]), int(np.ceil(decoding[best] * decode / prefill)))
    return needed, int(decoding[best])


def _strongest(columns: Columns, allowed: NDArray[np.bool_]) -> list[int]:
    """The best columns of every size of a replica: no other can be part of the best pair."""
    found = _best(columns, allowed, _layout(columns.replica))
    found.sort(key=lambda index: (columns.replica.devices[index], -columns.requests[index]))
    sizes = groupby(found, key=lambda index: columns.replica.devices[index])
    return [index for _, group in sizes for index in islice(group, ALTERNATIVES)]


def _layout(replica: Replica) -> list[tuple[float, ...]]:
    split = replica.split
    return list(zip(split.tp, split.attention_dp, split.ep, replica.pp, strict=True))


def _best(
    columns: Columns, allowed: NDArray[np.bool_], layout: list[tuple[float, ...]]
) -> list[int]:
    """The column of every layout that serves most requests a device."""
    best: dict[tuple[float, ...], int] = {}
    worth = columns.requests / columns.replica.devices
    for index in np.flatnonzero(allowed):
        kept = best.get(layout[index])
        if kept is None or worth[index] > worth[kept]:
            best[layout[index]] = int(index)
    return list(best.values())
