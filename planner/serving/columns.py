"""Columns: replicas at batches, each evaluated once for one role on one fleet.

A deployment is a composition of columns; ``compose`` decides how many of each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from planner.layers.inference import Array, Split
from planner.serving import attention_ffn, shared_device
from planner.serving.aggregated import Load, apart, most_running, steady
from planner.serving.attention_ffn import Unit
from planner.serving.disaggregated import Pool, decode_seconds, prefill_seconds
from planner.serving.fleet import Fleet
from planner.serving.iteration import Replica
from planner.serving.memory import memory, sequence_bytes
from planner.serving.percentiles import Times
from planner.serving.question import Question
from planner.serving.shared_device import BUSIEST, SHARES, Alone, alone, divided
from planner.serving.space import fast_domain, layout_of, pick, replicas, tensor_degrees
from planner.serving.times import (
    decode_times,
    mean_ttft,
    prefill_times,
    some_times,
    steady_times,
)
from planner.serving.transfer import Link, visible_seconds
from planner.specs.model import ModelSpec

EACH = 2.0 ** np.arange(0.0, 10.5, 0.5)
"""Sequences of a micro-batch on one attention replica that are tried."""
BIGGEST = 1024.0
"""Most of them."""
BIG = 2.0**30
"""More than the devices of any pool, so that a sum names a pair."""
BATCHES = 14
"""Batches of a replica in an open loop, from one sequence to what its memory holds."""
COUNTS = 24
"""Numbers of replicas that are tried in a closed loop where fewer devices are allowed."""
PREFIX = {"any": "", "shared": "", "decode": "", "prefill": "prefill_"}
"""What stands before the names of a role's axes."""


ARRAYS = ("batch", "tpot", "requests", "count", "share", "service", "variation")
"""Fields of ``Columns`` that hold a number for each."""


@dataclass(frozen=True)
class Experts:
    """The experts' pool of each attention-ffn unit; arrays of shape ``(n,)``."""

    fleet: Fleet
    unit: Unit
    idle_attention: Array
    """Part of the time in which the attention pool waits."""
    idle_ffn: Array
    """The same of the experts' pool."""


@dataclass(frozen=True)
class Columns:
    """Replicas at batches; arrays of shape ``(n,)``."""

    role: str
    """any, shared, prefill, decode or attention (a unit with a pool of experts)."""
    fleet: Fleet
    replica: Replica
    batch: Array
    """Requests in flight on the replica; for decode, sequences that generate."""
    times: Times
    """Means and what varies about them; of idle replicas for prefill."""
    tpot: Array
    requests: Array
    """Requests per second of one replica, busy all the time."""
    count: Array
    """Replicas that share the requests in flight; 0 where any number may be taken."""
    share: Array
    """Of the multiprocessors for prompts; 0 where they are not divided."""
    service: Array
    """Time that a prompt keeps a lane of a prefill replica busy [s]; 0 for other roles."""
    variation: Array
    """Its coefficient of variation."""
    experts: Experts | None = None
    """Of attention-ffn units, whose ``replica`` is the attention alone."""

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def ttft(self) -> Array:
        """Mean time to the first token [s]."""
        return mean_ttft(self.times)

    @property
    def lanes(self) -> Array:
        """Batches that a replica has in flight: attention ranks times stages."""
        return self.replica.split.attention_dp * self.replica.pp

    @property
    def devices(self) -> Array:
        """Devices of one replica."""
        own = self.replica.devices
        return own if self.experts is None else own + self.experts.unit.ffn

    @property
    def layouts(self) -> list[tuple[float, ...]]:
        """What tells one kind of replica from another, whatever its batch."""
        own = layout_of(self.replica)
        if self.experts is None:
            return own
        unit = self.experts.unit
        more = zip(unit.ep, unit.expert_tp, unit.micro_batches, strict=True)
        return [(*one, *other) for one, other in zip(own, more, strict=True)]

    @property
    def devices_by_fleet(self) -> list[tuple[Fleet, Array]]:
        """The fleets that a replica takes devices of, and how many of each."""
        own = [(self.fleet, self.replica.devices)]
        if self.experts is None:
            return own
        return [*own, (self.experts.fleet, self.experts.unit.ffn)]

    def row(self, index: int) -> Columns:
        """One of the columns."""
        return self.rows(np.array([index]))

    def rows(self, index: NDArray[np.int64]) -> Columns:
        """Some of the columns."""
        arrays = {name: getattr(self, name)[index] for name in ARRAYS}
        times = some_times(self.times, index)
        experts = self.experts and Experts(
            self.experts.fleet,
            self.experts.unit.rows(index),
            self.experts.idle_attention[index],
            self.experts.idle_ffn[index],
        )
        replica = pick(self.replica, index)
        return replace(self, replica=replica, times=times, experts=experts, **arrays)


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
    engine = fleet.run.engine
    ttft = engine.first + engine.waits * state.tpot + state.prompt * apart(state.busy)
    ttft, tpot = (np.where(steady_state, t, np.inf) for t in (ttft, state.tpot))
    requests = np.where(steady_state, state.rate * lanes[every], 0.0)
    return _done(
        "shared",
        fleet,
        model,
        asked,
        pick(replica, every),
        batch[every],
        share,
        ttft,
        tpot,
        requests,
        tpot,
    )


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
    step = np.zeros_like(batch)
    for run, rows in fleet.grouped(replica):
        some, load = pick(replica, rows), asked.load(batch[rows])
        if role == "shared":
            state = shared_device.steady(run, model, some, share[rows], load)
        else:
            state = steady(run, model, some, load)
        ttft[rows], tpot[rows] = state.ttft, state.tpot
        requests[rows] = state.throughput / asked.osl
        step[rows] = state.tpot
        if role == "any" and asked.percentile is not None:
            pool = Pool(run, some, np.ones(len(rows)))
            step[rows] = decode_seconds(pool, model, load, state.running)
    return _done(role, fleet, model, asked, replica, batch, share, ttft, tpot, requests, step)


def _done(
    role: str,
    fleet: Fleet,
    model: ModelSpec,
    asked: Question,
    replica: Replica,
    batch: Array,
    share: Array,
    ttft: Array,
    tpot: Array,
    requests: Array,
    step: Array,
) -> Columns:
    """Columns of replicas that do both, from their steady state and plain decode step."""
    lanes = replica.split.attention_dp * replica.pp
    prompt = _prompts(fleet, model, asked, replica)
    if role == "shared":
        prompt = prompt / share
    served = requests > 0.0
    rate = np.where(served, requests / lanes, 0.0) * np.where(served, step, 0.0)
    first = fleet.run.engine.first
    times = steady_times(asked, first, prompt, ttft, tpot, step, rate)
    none = np.zeros_like(batch)
    return Columns(role, fleet, replica, batch, times, tpot, requests, none, share, none, none)


def _prompts(fleet: Fleet, model: ModelSpec, asked: Question, replica: Replica) -> Array:
    """Time of a prompt alone by its length, ``(cells, n)`` [s]; found once for each layout."""
    layouts, index = np.unique(np.array(layout_of(replica)), axis=0, return_inverse=True)
    first = np.array([np.argmax(index == i) for i in range(len(layouts))], dtype=np.int64)
    isl, cell = np.unique(asked.lengths.isl, return_inverse=True)
    few = pick(replica, np.tile(first, len(isl)))
    tokens = np.repeat(isl, len(first))
    found = np.zeros_like(tokens)
    for run, rows in fleet.grouped(few):
        pool = Pool(run, pick(few, rows), np.ones(len(rows)))
        hit = np.full(len(rows), asked.hit)
        found[rows] = prefill_seconds(pool, model, tokens[rows], hit)
    return np.asarray(found.reshape(len(isl), len(first))[cell][:, index.ravel()])


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
    """Sequences that an attention rank has room for; 0 where the longest request has none."""
    run, lengths = fleet.run, asked.lengths  # the network takes no memory
    longest = np.full_like(found.pp, float((lengths.isl + lengths.osl).max()))
    fits = sequence_bytes(run, model, found, longest) <= memory(run, model, found).room
    limit = most_running(run, model, found, asked.load(np.ones_like(found.pp)))
    return np.where(fits, limit, 0.0)


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
    tpot, token = np.zeros_like(batch), np.zeros_like(batch)
    for run, rows in fleet.grouped(replica):
        some = pick(replica, rows)
        pool = Pool(run, some, np.ones(len(rows)))
        tpot[rows] = decode_seconds(pool, model, asked.load(batch[rows]), running[rows])
        ends = asked.isl + np.array([0.0, 1.0])[:, np.newaxis] + np.zeros(len(rows))
        low, high = (sequence_bytes(run, model, some, end) for end in ends)
        token[rows] = (high - low) / run.device.memory_bandwidth
    requests = batch / (asked.osl * tpot)
    times, none = decode_times(asked, tpot, running, token), np.zeros_like(batch)
    return Columns("decode", fleet, replica, batch, times, tpot, requests, none, none, none, none)


def prefill_columns(fleet: Fleet, model: ModelSpec, asked: Question, link: Link) -> Columns:
    """Replicas that only take in prompts.

    A lane is kept by a prompt until its devices have sent the cache away.
    """
    found = layouts(fleet, model, asked, "prefill")
    replica = pick(found, np.flatnonzero(_room(fleet, model, asked, found) >= 1.0))
    prompt = _prompts(fleet, model, asked, replica)
    isl, nbytes = asked.lengths.isl, np.zeros_like(prompt)
    for run, rows in fleet.grouped(replica):
        some = pick(replica, rows)
        held = [sequence_bytes(run, model, some, np.full(len(rows), one)) for one in isl]
        nbytes[:, rows] = np.array(held)
    service = np.maximum(prompt, nbytes / link.bandwidth)
    moved = visible_seconds(link, nbytes, model.num_layers, prompt)
    mean, variation = asked.lengths.mean(service), asked.lengths.variation(service)
    times = prefill_times(asked, fleet.run.engine.first + 0.0 * mean, prompt + moved)
    none, one = np.zeros_like(mean), np.ones_like(mean)
    lanes = replica.split.attention_dp * replica.pp
    served = lanes / mean
    return Columns("prefill", fleet, replica, one, times, none, served, none, none, mean, variation)


def unit_columns(
    fleets: tuple[Fleet, Fleet], model: ModelSpec, asked: Question, link: Link
) -> Columns:
    """Attention-ffn units: of every size those that no other beats on tpot and requests."""
    domain = fast_domain(fleets[0].cluster)
    tensor = [t for t in tensor_degrees(model, domain) if domain % t == 0]
    unit = attention_ffn.candidates(fleets, model, tensor, asked.fixed)
    middle = asked.isl + 0.5 * asked.osl
    limit = attention_ffn.room(fleets, model, unit, middle)
    lanes = unit.micro_batches * unit.copies
    tried = lanes[:, np.newaxis] * EACH
    rows, column = np.nonzero(tried <= np.minimum(limit, lanes * BIGGEST)[:, np.newaxis])
    return _fronts(unit_rows(fleets, model, asked, link, unit.rows(rows), tried[rows, column]))


def unit_rows(
    fleets: tuple[Fleet, Fleet],
    model: ModelSpec,
    asked: Question,
    link: Link,
    unit: Unit,
    batch: Array,
) -> Columns:
    """Units on which ``batch`` sequences generate."""
    middle = asked.isl + 0.5 * asked.osl
    drafted = {"drafts": asked.drafts, "acceptance": asked.acceptance}
    state = attention_ffn.evaluate(
        fleets, link, model, unit, np.maximum(batch, 1.0), middle, **drafted
    )
    requests = batch / (asked.osl * state.tpot)
    none = np.zeros_like(batch)
    running = batch / (unit.micro_batches * unit.copies)
    token = _bytes_of_a_token(fleets[0], model, unit, middle)
    token = unit.micro_batches * token / fleets[0].run.device.memory_bandwidth
    times = decode_times(asked, state.tpot, running, token)
    experts = Experts(fleets[1], unit, state.idle_attention, state.idle_ffn)
    one = np.ones_like(unit.tp)
    replica = Replica(Split(unit.tp, unit.copies, one, unit.tp * unit.copies), one)
    rest = (none, none, none, none)
    return Columns(
        "attention", fleets[0], replica, batch, times, state.tpot, requests, *rest, experts
    )


def _bytes_of_a_token(fleet: Fleet, model: ModelSpec, unit: Unit, tokens: float) -> Array:
    """What a further token of context adds to the cache of an attention device."""
    one = np.ones_like(unit.tp)
    replica = Replica(Split(unit.tp, one, one, unit.tp), one)
    low, high = (sequence_bytes(fleet.run, model, replica, (tokens + k) * one) for k in (0.0, 1.0))
    return np.asarray(high - low)


def _fronts(columns: Columns) -> Columns:
    """Of every size and pair of pools, the columns that serve more than all that are faster."""
    assert columns.experts is not None
    pools = columns.replica.devices * BIG + columns.experts.unit.ffn
    order = np.lexsort((-columns.requests, columns.tpot, pools))
    group = np.searchsorted(np.unique(pools), pools[order])
    lifted = columns.requests[order] + group * (1.0 + columns.requests.max(initial=0.0))
    best = np.maximum.accumulate(lifted)
    kept = np.concatenate([[True], lifted[1:] > best[:-1] * (1.0 + 1e-12)])[: len(order)]
    return columns.rows(order[kept])


def _some(load: Load, rows: NDArray[np.int64]) -> Load:
    """Some of the loads."""
    return Load(*(getattr(load, field.name)[rows] for field in fields(load)))
