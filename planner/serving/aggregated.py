"""Steady state of an engine that prefills and decodes on the same devices.

Requests of ``isl`` and ``osl`` tokens run at most ``running`` at a time.  In an average iteration
``decodes`` sequences take a token, so ``decodes / osl`` prompts must be taken in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from planner.costs.queueing import accepted_tokens
from planner.layers.inference import Array, Runtime, Step
from planner.serving.iteration import Replica, iteration
from planner.serving.memory import memory, sequence_bytes
from planner.specs.model import ModelSpec

ROUNDS = 5
"""Steps of the fixed point."""
BISECTIONS = 24
"""Halvings of the logarithm of the requests in flight: they are found to a millionth."""


@dataclass(frozen=True)
class Load:
    """What a replica is asked for; arrays of shape ``(n,)``."""

    isl: Array
    osl: Array
    concurrency: Array
    """Requests in flight, those that wait included."""
    hit: Array
    """Part of the prompt that is in the cache already."""
    waves: Array
    """How often every place is taken in the period that is looked at; the first all at once."""
    fixed: Array
    """1 if all requests have the same lengths, so that they keep step; else 0."""
    drafts: Array = field(default_factory=lambda: np.zeros(()))
    """Tokens that a step drafts for every sequence, all checked by the next."""
    acceptance: Array = field(default_factory=lambda: np.zeros(()))
    """Chance that a drafted token is the right one."""

    def __post_init__(self) -> None:
        for name in ("drafts", "acceptance"):
            object.__setattr__(self, name, getattr(self, name) + np.zeros_like(self.isl))

    @property
    def tokens_a_step(self) -> Array:
        """Tokens of a sequence that a step yields."""
        return accepted_tokens(self.acceptance, self.drafts)


@dataclass(frozen=True)
class Steady:
    """Arrays of shape ``(n,)``."""

    running: Array
    """Sequences in the engine of one attention rank."""
    limit: Array
    """Sequences that the cache has room for, of one attention rank."""
    tpot: Array
    ttft: Array
    throughput: Array
    """Output tokens per second of the replica."""
    prompt: Array
    """Time of a prompt alone [s]."""


def most_running(run: Runtime, model: ModelSpec, replica: Replica, load: Load) -> Array:
    """Sequences of one attention rank that the cache has room for."""
    room = memory(run, model, replica).room
    part = 1.0 if run.engine.reserves else 0.5
    each = sequence_bytes(run, model, replica, load.isl + part * load.osl)
    return np.minimum(np.floor(room / each), run.engine.most_running)


def steady(run: Runtime, model: ModelSpec, replica: Replica, load: Load) -> Steady:
    """Closed loop with a number of requests in flight on the replica.

    Every attention rank and every stage of a pipeline has a batch of its own in flight.  Where not
    one sequence has room the times are infinite.
    """
    engine = run.engine
    batches = replica.split.attention_dp * replica.pp
    each = load.concurrency / batches
    limit = most_running(run, model, replica, load)
    running = np.maximum(np.minimum(each, np.floor(limit / replica.pp)), 1.0)
    fresh = np.maximum(load.isl * (1.0 - load.hit), 1.0)
    context = load.isl + 0.5 * load.osl
    zero, one = np.zeros_like(running), np.ones_like(running)
    verified, steps = 1.0 + load.drafts, load.osl / load.tokens_a_step
    budget = np.maximum(engine.chunk - (running if engine.mixes else zero), 256.0)
    pieces = np.ceil(fresh / budget)
    chunk = fresh / pieces
    cached = load.isl * load.hit + 0.5 * (fresh - chunk)
    most = budget / chunk
    """Pieces of prompts in one iteration."""

    def seconds(decodes: Array, prefills: Array) -> Array:
        step = Step(prefills, chunk, cached, decodes, context, verified)
        return np.asarray(iteration(run, model, replica, step).seconds)

    prompt = beside = pieces * seconds(zero, one)
    if not engine.mixes:  # a prompt's part of an iteration of nothing else
        several = np.minimum(most, running)
        beside = pieces * seconds(zero, several) / several
    all_at_once = 0.5 * (running + 1.0)
    others = 1.0 - 1.0 / running  # a sequence does not wait for its own prompt
    in_step = load.fixed > 0

    def mean_and_own(decodes: Array) -> tuple[Array, Array, Array]:
        """Mean iteration, a request's time before its first token, and prompts taken with it."""
        arrivals = decodes / steps * pieces  # pieces that an iteration takes in
        mixed = np.clip(np.maximum(-np.expm1(-arrivals), arrivals / most), 1e-9, 1.0)
        taken = np.minimum(arrivals / mixed, most)
        if engine.mixes:
            plain = seconds(decodes, zero)
            mean = plain + others * mixed * (seconds(decodes, taken) - plain)
            together = np.where(in_step, engine.together, apart(mixed))
        else:  # in step, all decode together and half of the other prompts come before
            half = 0.5 * (running - 1.0) / steps * beside
            stalls = others * arrivals / taken * seconds(zero, taken)
            mean = seconds(np.where(in_step, running, decodes), zero)
            mean = mean + np.where(in_step, half, stalls)
            together = np.where(in_step, all_at_once, apart(mixed))
        together = np.minimum(together, all_at_once)
        return mean, engine.waits * mean + prompt + (together - 1.0) * beside, together

    full = steps * most / pieces if engine.mixes else np.inf  # no iteration takes in more
    decodes = np.minimum(running, full)
    last = ahead = np.zeros_like(decodes)
    for number in range(ROUNDS):
        mean, own, together = mean_and_own(decodes)
        life = steps * mean
        target = np.minimum(running * life / (life + own), full)
        slope = (target - ahead) / np.where(decodes == last, 1.0, decodes - last)
        slope = np.where((decodes == last) | (number == 0), 0.0, np.clip(slope, -2.0, 0.5))
        last, ahead = decodes, target
        decodes = np.clip(decodes + (target - decodes) / (1.0 - slope), 0.05, full)
    throughput = decodes * load.osl / life * batches
    queue = np.maximum(load.concurrency - running * batches, 0.0) * load.osl / throughput
    burst = (all_at_once - together) / load.waves
    inside = np.maximum(running * life / decodes - life, own)  # Little's law
    ttft = engine.first + inside + beside * burst + queue
    fits = limit >= 1.0
    tpot, ttft = (np.where(fits, found, np.inf) for found in (life / load.osl, ttft))
    return Steady(running, limit, tpot, ttft, np.where(fits, throughput, 0.0), prompt)


def apart(busy: Array) -> Array:
    """Prompts that one waits for and takes itself, where requests keep no step (M/D/1)."""
    return 1.0 + busy / (2.0 * np.maximum(1.0 - busy, 0.05))


def at_rate(run: Runtime, model: ModelSpec, replica: Replica, load: Load, rate: Array) -> Steady:
    """Open loop with ``rate`` requests per second: the requests in flight that serve as many.

    Arrivals are Poisson's: requests keep no step, and no burst comes first.  Above what the replica
    can take, all places are taken; how long requests wait then depends on how long it lasts.
    """
    most = most_running(run, model, replica, load) * replica.split.attention_dp
    return serving(rate, load, most, lambda some: steady(run, model, replica, some))


def serving(rate: Array, load: Load, most: Array, closed: Callable[[Load], Steady]) -> Steady:
    """The closed loop of at most ``most`` requests that serves ``rate`` [1/s], found by halving."""
    open_load = replace(load, fixed=np.zeros_like(rate), waves=np.full_like(rate, np.inf))
    low, high = np.full_like(rate, 1e-3), np.maximum(most, 1.0)
    for _ in range(BISECTIONS):
        middle = np.sqrt(low * high)
        enough = closed(replace(open_load, concurrency=middle)).throughput >= rate * load.osl
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    state = closed(replace(open_load, concurrency=high))
    return replace(state, throughput=np.minimum(state.throughput, rate * load.osl))
