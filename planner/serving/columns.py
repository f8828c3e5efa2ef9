"""Columns: replicas at batches, each evaluated once for one role on one fleet.

A deployment is a composition of columns; ``compose`` decides how many of each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from planner.layers.inference import Array
from planner.serving import shared_device
from planner.serving.aggregated import Load, apart, most_running, steady
from planner.serving.disaggregated import Pool, decode_seconds, prefill_seconds
from planner.serving.fleet import Fleet
from planner.serving.iteration import Replica
from planner.serving.memory import sequence_bytes
from planner.serving.question import Question
from planner.serving.shared_device import BUSIEST, SHARES, Alone, alone, divided
from planner.serving.space import pick, replicas
from planner.serving.transfer import Link, visible_seconds
from planner.specs.model import ModelSpec

BATCHES = 14
"""Batches of a replica in an open loop, from one sequence to what its memory holds."""
COUNTS = 24
"""Numbers of replicas that are tried in a closed loop where fewer devices are allowed."""
PREFIX = {"any": "", "shared": "", "decode": "", "prefill": "prefill_"}
"""What stands before the names of a role's axes."""


ARRAYS = ("batch", "ttft", "tpot", "requests", "count", "share", "busy")
"""Fields of ``Columns`` that hold a number for each."""


@dataclass(frozen=True)
class Columns:
    """Replicas at batches; arrays of shape ``(n,)``."""

    role: str
    """any, shared, prefill or decode."""
    fleet: Fleet
    replica: Replica
    batch: Array
    """Requests in flight on the replica; for decode, sequences that generate."""
    ttft: Array
    tpot: Array
    requests: Array
    """Requests per second of one replica."""
    count: Array
    """Replicas that share the requests in flight; 0 where any number may be taken."""
    share: Array
    """Of the multiprocessors for prompts; 0 where they are not divided."""
    busy: Array
    """Part of the time that the replica works: below 1 for prompts that arrive at random."""

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def devices(self) -> Array:
        """Devices of one replica."""
        return self.replica.devices

    @property
    def devices_by_fleet(self) -> list[tuple[Fleet, Array]]:
        """The fleets that a replica takes devices of, and how many of each."""
        return [(self.fleet, self.replica.devices)]

    def row(self, index: int) -> Columns:
        """One of the columns."""
        return self.rows(np.array([index]))

    def rows(self, index: NDArray[np.int64]) -> Columns:
        """Some of the columns."""
        arrays = {name: getattr(self, name)[index] for name in ARRAYS}
        return replace(self, replica=pick(self.replica, index), **arrays)


def layouts(fleet: Fleet, model: ModelSpec, asked: Question, role: str) -> Replica:
    """The replicas of a role that the fleet can hold and the question allows."""
    found = replicas(model, fleet.cluster, fleet.devices)
    allowed = np.ones(len(found.pp), dtype=bool)
    split = found.split
    parts = {"tp": split.tp, "attention_dp": split.attention_dp, "ep": split.ep, "pp": found.pp}
    for name, values in parts.items():
        chosen = asked.fixed.get(PREFIX[role] + name)
        if chosen is not None:
            allowed &= np.isin(values, chosen)
    return pick(found, np.flatnonzero(allowed))


def aggregated_columns(fleet: Fleet, model: ModelSpec, asked: Question) -> Columns:
    """Replicas that prefill and decode in turn."""
    found = layouts(fleet, model, asked, "any")
    rows, batch, count = _grid(fleet, model, asked, found)
    replica, whole = pick(found, rows), np.zeros_like(batch)
    return replace(state_rows("any", fleet, model, asked, replica, batch, whole), count=count)


def shared_columns(fleet: Fleet, model: ModelSpec, asked: Question) -> Columns:
    """Replicas that prefill and decode side by side."""
    found = layouts(fleet, model, asked, "shared")
    shares = np.array(asked.fixed.get("prefill_share", ())) / 100.0
    shares = shares if len(shares) else np.array(SHARES)
    rows, batch, count = _grid(fleet, model, asked, found)
    replica, many = pick(found, rows), len(shares)
    share = np.tile(shares, len(rows))
    every = np.repeat(np.arange(len(rows)), many)
    if asked.concurrency is not None:
        wide = pick(replica, every)
        columns = state_rows("shared", fleet, model, asked, wide, batch[every], share)
        return replace(columns, count=count[every])
    return _divided(fleet, model, asked, replica, batch, (every, share))


def _divided(
    fleet: Fleet,
    model: ModelSpec,
    asked: Question,
    replica: Replica,
    batch: Array,
    divisions: tuple[NDArray[np.int64], Array],
) -> Columns:
    """Replicas in an open loop, each with several shares for prompts: its costs are found once."""
    lanes = replica.split.attention_dp * replica.pp
    running, costs = np.maximum(batch / lanes, 1.0), np.zeros((3, len(batch)))
    load = asked.load(batch)
    for run, rows in fleet.grouped(replica):
        found = alone(run, model, pick(replica, rows), running[rows], _some(load, rows))
        costs[:, rows] = found.decode, found.prompt, found.read
    every, share = divisions
    state = divided(Alone(*costs[:, every]), share, running[every], load.osl[every])
    steady_state = state.busy <= BUSIEST
    ttft = fleet.run.engine.first + state.prompt * apart(state.busy)
    ttft, tpot = (np.where(steady_state, t, np.inf) for t in (ttft, state.tpot))
    requests = np.where(steady_state, state.rate * lanes[every], 0.0)
    none, one = np.zeros_like(share), np.ones_like(share)
    wide = pick(replica, every)
    return Columns("shared", fleet, wide, batch[every], ttft, tpot, requests, none, share, one)


def state_rows(
    role: str,
    fleet: Fleet,
    model: ModelSpec,
    asked: Question,
    replica: Replica,
    batch: Array,
    share: Array,
) -> Columns:
    """Replicas of role any or shared with ``batch`` requests in flight on each."""
    if role == "shared" and asked.concurrency is None:
        return _divided(fleet, model, asked, replica, batch, (np.arange(len(batch)), share))
    ttft, tpot, requests = (np.zeros_like(batch) for _ in range(3))
    for run, rows in fleet.grouped(replica):
        some, load = pick(replica, rows), asked.load(batch[rows])
        if role == "shared":
            state = shared_device.steady(run, model, some, share[rows], load)
        else:
            state = steady(run, model, some, load)
        ttft[rows], tpot[rows] = state.ttft, state.tpot
        requests[rows] = state.throughput / asked.osl
    none, one = np.zeros_like(batch), np.ones_like(batch)
    return Columns(role, fleet, replica, batch, ttft, tpot, requests, none, share, one)


def _grid(
    fleet: Fleet, model: ModelSpec, asked: Question, found: Replica
) -> tuple[NDArray[np.int64], Array, Array]:
    """Rows of replicas that hold a sequence, their batches, and the replicas that share them."""
    rows: list[int] = []
    batches: list[float] = []
    counts: list[float] = []
    limit = _room(fleet, model, asked, found)
    for index in np.flatnonzero(limit >= 1.0):
        lanes = found.split.attention_dp[index]
        if asked.concurrency is None:
            steps: Array = np.unique(np.round(np.geomspace(lanes, limit[index] * lanes, BATCHES)))
            number = np.zeros_like(steps)
        else:
            number = _numbers(int(fleet.devices // found.devices[index]), asked)
            steps = asked.concurrency / number
        rows += [int(index)] * len(steps)
        batches += list(steps)
        counts += list(number)
    return np.array(rows, dtype=np.int64), np.array(batches), np.array(counts)


def _room(fleet: Fleet, model: ModelSpec, asked: Question, found: Replica) -> Array:
    """Sequences that an attention rank of each replica has room for."""
    load = asked.load(np.ones_like(found.pp))
    return most_running(fleet.run, model, found, load)  # the network takes no memory


def _numbers(most: int, asked: Question) -> Array:
    """How many replicas may share the requests in flight."""
    if "replicas" in asked.fixed:
        return np.array([float(n) for n in asked.fixed["replicas"] if n <= most])
    if asked.whole:
        return np.array([float(most)])
    return np.unique(np.round(np.geomspace(1, most, COUNTS)))


def decode_columns(fleet: Fleet, model: ModelSpec, asked: Question) -> Columns:
    """Replicas that only generate."""
    found = layouts(fleet, model, asked, "decode")
    rows, batch, _ = _grid(fleet, model, replace(asked, concurrency=None), found)
    return decode_rows(fleet, model, asked, pick(found, rows), batch)


def decode_rows(
    fleet: Fleet, model: ModelSpec, asked: Question, replica: Replica, batch: Array
) -> Columns:
    """Replicas on which ``batch`` sequences generate."""
    running = np.maximum(batch / (replica.split.attention_dp * replica.pp), 1.0)
    tpot = np.zeros_like(batch)
    for run, rows in fleet.grouped(replica):
        pool = Pool(run, pick(replica, rows), np.ones(len(rows)))
        tpot[rows] = decode_seconds(pool, model, asked.load(batch[rows]), running[rows])
    requests = batch / (asked.osl * tpot)
    none, one = np.zeros_like(batch), np.ones_like(batch)
    return Columns("decode", fleet, replica, batch, none, tpot, requests, none, none, one)


def prefill_columns(fleet: Fleet, model: ModelSpec, asked: Question, link: Link) -> Columns:
    """Replicas that only take in prompts, as busy as the target lets them be."""
    found = layouts(fleet, model, asked, "prefill")
    held = np.flatnonzero(_room(fleet, model, asked, found) >= 1.0)
    return prefill_rows(fleet, model, asked, pick(found, held), link)


def prefill_rows(
    fleet: Fleet,
    model: ModelSpec,
    asked: Question,
    replica: Replica,
    link: Link,
    requests: Array | None = None,
) -> Columns:
    """Prefill replicas that serve ``requests`` per second, or all that the target allows (M/D/1).

    A replica serves no more prompts than its devices can send away.
    """
    one = np.ones_like(replica.pp)
    isl, prompt, nbytes = asked.isl * one, np.zeros_like(one), np.zeros_like(one)
    for run, rows in fleet.grouped(replica):
        some = pick(replica, rows)
        pool = Pool(run, some, one[rows])
        prompt[rows] = prefill_seconds(pool, model, isl[rows], asked.hit * one[rows])
        nbytes[rows] = sequence_bytes(run, model, some, isl[rows])
    service = np.maximum(prompt, nbytes / link.bandwidth)
    lanes = replica.split.attention_dp * replica.pp
    moved = visible_seconds(link, nbytes, model.num_layers, prompt)
    own = fleet.run.engine.first + moved + prompt
    if requests is None:
        wait = np.clip(asked.targets.ttft - own, 0.0, 1e6)
        busy = np.minimum(2.0 * wait / (service + 2.0 * wait), BUSIEST)
    else:
        busy = np.minimum(requests * service / lanes, BUSIEST)
    ttft = own + service * busy / (2.0 * (1.0 - busy))
    none = np.zeros_like(one)
    served = busy * lanes / service
    return Columns("prefill", fleet, replica, one, ttft, none, served, none, none, busy)


def _some(load: Load, rows: NDArray[np.int64]) -> Load:
    """Some of the loads."""
    return Load(*(getattr(load, field.name)[rows] for field in fields(load)))
