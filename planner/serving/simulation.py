"""A deployment replayed request by request, to hold beside its closed form.

A discrete-event simulation: requests arrive, go to the attention rank with the fewest of them, wait
for a place and their turn, and generate in batches whose iterations take the times of
``serving.iteration``.  It shows what means leave out: percentiles, groups, evictions, the burst at
the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from planner.errors import Infeasible, PlannerError
from planner.layers.inference import Array
from planner.serving.batching import Lane, Request
from planner.serving.disaggregated import Pool, transfer_seconds
from planner.serving.lockstep import Ranks
from planner.serving.memory import memory, sequence_bytes
from planner.serving.simulation_result import Result, result
from planner.serving.step_table import step_table
from planner.specs.model import ModelSpec

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Traffic:
    """Requests and when they are sent.

    By ``concurrency`` clients, all at once and then each its next when the last is answered; or at
    a ``rate``; or at given ``arrivals``.
    """

    isl: Array
    osl: Array
    weight: Array
    """How often requests of these lengths come, relative to others; all three ``(k,)``."""
    requests: int = 1000
    concurrency: int | None = None
    rate: float | None = None
    """Requests per second ..."""
    variation: float = 1.0
    """... and the coefficient of variation of the times between them, gamma distributed."""
    arrivals: Array | None = None
    """Times ``(requests,)`` [s]."""
    hit: float = 0.0
    """Part of every prompt that is in the prefix cache."""
    seed: int = 0

    def __post_init__(self) -> None:
        given = (self.concurrency, self.rate, self.arrivals)
        if sum(one is not None for one in given) != 1:
            raise PlannerError(
                f"traffic: found {given} for concurrency, rate and arrivals, expected one of them."
            )
        if self.arrivals is not None and len(self.arrivals) != self.requests:
            raise PlannerError(
                f"arrivals: found {len(self.arrivals)}, expected {self.requests}, one a request."
            )

    def lengths(self) -> tuple[Tokens, Tokens]:
        """Prompt and output tokens of every request."""
        generator = np.random.default_rng([self.seed, 0])
        share = self.weight / np.sum(self.weight)
        drawn = generator.choice(len(share), size=self.requests, p=share)
        isl, osl = (np.maximum(np.rint(lengths), 1.0)[drawn] for lengths in (self.isl, self.osl))
        return isl.astype(np.int64), osl.astype(np.int64)

    def sent(self) -> Array:
        """Times that are known beforehand: of a closed loop, those of the burst [s]."""
        if self.concurrency is not None:
            return np.zeros(min(self.concurrency, self.requests))
        if self.arrivals is not None:
            return np.sort(self.arrivals)
        assert self.rate is not None
        if self.variation <= 0.0:
            return np.arange(self.requests) / self.rate
        generator, squared = np.random.default_rng([self.seed, 1]), self.variation**2
        gaps: Array = generator.gamma(1.0 / squared, squared / self.rate, self.requests)
        return np.cumsum(gaps)


def simulate(
    model: ModelSpec,
    traffic: Traffic,
    pool: Pool,
    prefill: Pool | None = None,
    *,
    ttft: float = math.inf,
    tpot: float = math.inf,
) -> Result:
    """Replay traffic on a deployment; the same input gives the same answer.

    Parameters
    ----------
    pool : Pool
        Replicas, of one layout, that generate.
    prefill : Pool, optional
        Replicas that take in the prompts; None where those of ``pool`` do.
    ttft, tpot : float
        Targets of a request [s].

    Raises
    ------
    Infeasible
        If the cache of a rank has no room for the longest request.
    """
    isl, osl = traffic.lengths()
    fresh = np.maximum(np.rint(isl * (1.0 - traffic.hit)), 1.0).astype(np.int64)
    pools = {"both": pool} if prefill is None else {"prefill": prefill, "decode": pool}
    stages = [_ranks(one, model, isl, osl, fresh) for one in pools.values()]
    due = (osl - 1).tolist()
    requests = [
        Request(number, *numbers)
        for number, numbers in enumerate(zip(isl.tolist(), fresh.tolist(), due, strict=True))
    ]
    moves: list[float] = []
    if prefill is not None:
        moves = transfer_seconds(prefill, model, isl.astype(float)).tolist()
    _play(requests, traffic.sent().tolist(), stages, moves)
    times = np.array([(one.sent, one.first, one.finished) for one in requests]).T
    busy = {role: [ranks.spans for ranks in one] for role, one in zip(pools, stages, strict=True)}
    engine = pool.run.engine
    around = (engine.first, engine.waits)
    return result(times, osl, *around, float(pool.count[0]), busy, (ttft, tpot))


def _ranks(pool: Pool, model: ModelSpec, isl: Tokens, osl: Tokens, fresh: Tokens) -> list[Ranks]:
    """What steps together in a pool: the attention ranks of every replica and pipeline stage."""
    run, replica, chunk = pool.run, pool.replica, pool.run.engine.chunk
    stages = int(replica.pp[0])
    longest = int((isl + osl).max())
    held = sequence_bytes(run, model, replica, np.arange(longest + 1.0))
    room = float(memory(run, model, replica).room[0]) / stages
    if held[-1] > room:
        raise Infeasible(
            f"{model.name}: found a request of {longest} tokens, expected at most the"
            f" {int(np.sum(held <= room))} that the cache of a rank has room for."
        )
    places = max(run.engine.most_running // stages, 1)
    usual = np.quantile(fresh, np.linspace(0.0, 1.0, 9), method="nearest")
    usual = np.minimum(np.outer(usual, np.arange(1.0, 5.0)), chunk)
    table = step_table(run, model, replica, float(places), float(longest), usual)
    cells: list[float] = (held / room).tolist()
    ranks, groups = int(replica.split.attention_dp[0]), int(pool.count[0]) * stages
    return [
        Ranks(table, [Lane(run.engine, cells, places) for _ in range(ranks)]) for _ in range(groups)
    ]


def _play(
    requests: list[Request], sent: list[float], stages: list[list[Ranks]], moves: list[float]
) -> None:
    """Follow every request to its end.

    Requests beyond those of ``sent`` are each sent when another is answered.  ``moves`` are the
    times to bring caches from prefill to decode replicas [s], empty where one does both.
    """
    order, due = count(), [request.due for request in requests]
    events: list[tuple[float, int, int, Request | Ranks]] = []

    def arrive(time: float, stage: int, request: Request) -> None:
        heappush(events, (time, next(order), stage, request))

    for request, time in zip(requests, sent, strict=False):
        request.sent = time
        arrive(time, 0, request)
    following = iter(requests[len(sent) :])
    if moves:
        for request in requests:
            request.due = 0
    while events:
        now, touched = events[0][0], {}
        while events and events[0][0] == now:
            _, _, stage, what = heappop(events)
            if isinstance(what, Request):
                ranks = min(stages[stage], key=attrgetter("least"))
                ranks.put(what, now)
                touched[ranks] = stage
            elif what.end == now:  # else cut short since
                touched[what] = stage
                for request in what.finish():
                    if stage == 0 and moves and due[request.number]:
                        request.move(due[request.number])
                        arrive(now + moves[request.number], 1, request)
                        continue
                    request.finished = now
                    client = next(following, None)
                    if client is not None:
                        client.sent = now
                        arrive(now, 0, client)
        for ranks, stage in touched.items():
            if math.isnan(ranks.end):
                ranks.begin(now)
            if not math.isnan(ranks.end):
                heappush(events, (ranks.end, next(order), stage, ranks))
