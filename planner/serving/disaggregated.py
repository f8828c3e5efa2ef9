"""Prefill and decode on separate replicas, each with its own layout, joined by a transfer of cache.

A request waits for a prefill replica, is prefilled in a batch of its own, moves its cache to a
decode replica and generates there among the others.  Source: DistServe, arXiv 2401.09670.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.layers.inference import Array, Runtime, Step
from planner.serving.aggregated import ROUNDS, Load, Steady, apart, most_running, serving
from planner.serving.iteration import Replica, iteration
from planner.serving.memory import sequence_bytes
from planner.specs.model import ModelSpec


@dataclass(frozen=True)
class Pool:
    """Replicas of one role."""

    run: Runtime
    replica: Replica
    count: Array


def prefill_seconds(pool: Pool, model: ModelSpec, isl: Array, hit: Array) -> Array:
    """Time of one prompt alone on a replica [s]."""
    fresh, one = np.maximum(isl * (1.0 - hit), 1.0), np.ones_like(isl)
    pieces = np.ceil(fresh / pool.run.engine.chunk)
    chunk = fresh / pieces
    step = Step(one, chunk, isl * hit + 0.5 * (fresh - chunk), 0.0 * one, one, one)
    seconds: Array = np.asarray(iteration(pool.run, model, pool.replica, step).seconds)
    return pieces * seconds


def decode_seconds(pool: Pool, model: ModelSpec, load: Load, running: Array) -> Array:
    """Time of a decode step with ``running`` sequences on one attention rank [s]."""
    zero, one = np.zeros_like(running), np.ones_like(running)
    step = Step(zero, one, zero, running, load.isl + 0.5 * load.osl, one)
    return np.asarray(iteration(pool.run, model, pool.replica, step).seconds)


def transfer_seconds(pool: Pool, model: ModelSpec, isl: Array) -> Array:
    """Time to move a prompt's cache from one replica to another [s].

    Every device sends its part over the outermost tier; the layers before the last move while
    later ones are computed, so that only the last layer's part is waited for.
    """
    tier = pool.run.net.tiers[-1]
    rate = tier.bandwidth / tier.oversubscription * tier.efficiency
    whole = sequence_bytes(pool.run, model, pool.replica, isl) / rate
    return tier.latency + whole / model.num_layers


def disaggregated(prefill: Pool, decode: Pool, model: ModelSpec, load: Load) -> Steady:
    """Closed loop over both pools; the throughput is that of all decode replicas."""
    engine = prefill.run.engine
    sources = prefill.count * prefill.replica.split.attention_dp * prefill.replica.pp
    lanes = decode.replica.pp * decode.count * decode.replica.split.attention_dp
    limit = most_running(decode.run, model, decode.replica, load)
    places = np.maximum(np.floor(limit / decode.replica.pp), 1.0)
    prompt = prefill_seconds(prefill, model, load.isl, load.hit)
    moved = transfer_seconds(prefill, model, load.isl)
    all_at_once = 0.5 * (np.maximum(load.concurrency / sources, 1.0) + 1.0)
    running = np.clip(load.concurrency / lanes, 1e-3, places)
    for _ in range(ROUNDS):
        tpot = decode_seconds(decode, model, load, running)
        life = load.osl * tpot
        rate = np.minimum(sources / prompt, lanes * places / life)
        rate = np.minimum(rate, load.concurrency / (life + prompt + moved))
        running = np.clip(0.5 * running + 0.5 * rate * life / lanes, 1e-3, places)
    busy = np.minimum(rate * prompt / sources, 0.95)
    together = np.where(load.fixed > 0, engine.together, apart(busy))
    together = np.minimum(together, all_at_once)
    burst = (all_at_once - together) / load.waves
    own = prompt * together + moved
    queue = np.maximum(load.concurrency / rate - life - own, 0.0)
    queue = np.where(rate < 0.99 * load.concurrency / (life + prompt + moved), queue, 0.0)
    ttft = engine.first + own + prompt * burst + queue
    fits = limit >= 1.0
    tpot, ttft = (np.where(fits, found, np.inf) for found in (tpot, ttft))
    return Steady(running, limit, tpot, ttft, np.where(fits, rate * load.osl, 0.0), prompt)


def at_rate(prefill: Pool, decode: Pool, model: ModelSpec, load: Load, rate: Array) -> Steady:
    """Open loop with ``rate`` requests per second over both pools, see ``aggregated.at_rate``."""
    limit = most_running(decode.run, model, decode.replica, load)
    most = limit * decode.count * decode.replica.split.attention_dp
    return serving(rate, load, most, lambda some: disaggregated(prefill, decode, model, some))
