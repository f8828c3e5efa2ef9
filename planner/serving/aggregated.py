"""Steady state of an engine that prefills and decodes on the same devices.

Requests of ``isl`` and ``osl`` tokens run at most ``running`` at a time.  In an average iteration
``decodes`` sequences take a token, so ``decodes / osl`` prompts must be taken in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from planner.layers.inference import Array, Runtime, Step
from planner.serving.iteration import Replica, iteration
from planner.serving.memory import memory, sequence_bytes
from planner.specs.model import ModelSpec

ROUNDS = 12
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
    budget = np.maximum(engine.chunk - (running if engine.mixes else zero), 256.0)
    pieces = np.ceil(fresh / budget)
    chunk = fresh / pieces
    cached = load.isl * load.hit + 0.5 * (fresh - chunk)
    most = budget / chunk
    """Pieces of prompts in one iteration."""

    def seconds(decodes: Array, prefills: Array) -> Array:
        step = Step(prefills, chunk, cached, decodes, context, one)
        return np.asarray(iteration(run, model, replica, step).seconds)

    prompt = pieces * seconds(zero, one)
    all_at_once = 0.5 * (running + 1.0)
    full = load.osl * most / pieces if engine.mixes else np.inf  # no iteration takes in more
    decodes = np.minimum(running, full)
    for _ in range(ROUNDS):
        arrivals = decodes / load.osl * pieces  # pieces that an iteration takes in
        mixed = np.clip(np.maximum(-np.expm1(-arrivals), arrivals / most), 1e-9, 1.0)
        taken = np.minimum(arrivals / mixed, most)
        others = 1.0 - 1.0 / running  # a sequence does not wait for its own prompt
        plain = seconds(decodes, zero)
        if engine.mixes:
            mean = plain + others * mixed * (seconds(decodes, taken) - plain)
            together = np.where(load.fixed > 0, engine.together, apart(mixed))
        else:
            stalls = others * (1.0 - 0.5 * load.fixed)  # in step, half of the prompts come before
            mean = plain + stalls * arrivals / taken * seconds(zero, taken)
            together = np.where(load.fixed > 0, all_at_once, apart(mixed))
        together = np.minimum(together, all_at_once)
        life = load.osl * mean
        target = running * life / (life + prompt * together)
        decodes = np.clip(0.5 * decodes + 0.5 * target, 0.05, full)
    throughput = decodes / mean * batches
    queue = np.maximum(load.concurrency - running * batches, 0.0) * load.osl / throughput
    burst = (all_at_once - together) / load.waves
    inside = np.maximum(running * life / decodes - life, prompt * together)  # Little's law
    ttft = engine.first + inside + prompt * burst + queue
    fits = limit >= 1.0
    tpot, ttft = (np.where(fits, found, np.inf) for found in (mean, ttft))
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
