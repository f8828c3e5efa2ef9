"""Prefill and decode on separate replicas, each with its own layout, joined by a transfer of cache.

A request waits for a prefill replica, is prefilled in a batch of its own, moves its cache to a
decode replica and generates there among the others.  Source: DistServe, arXiv 2401.09670.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.layers.inference import Array, Runtime, Step
from planner.serving.aggregated import Load, Steady, apart, most_running, serving
from planner.serving.iteration import Replica, iteration
from planner.serving.memory import sequence_bytes
from planner.specs.model import ModelSpec

READS = 2.0
"""Engines that read a request one after the other, each between its own iterations."""
LEAST = 1e-3
"""Sequences that generate on a rank, at least."""
HALVINGS = 24
"""Of the logarithm of the sequences that generate: they are found to a millionth."""


@dataclass(frozen=True)
class Pool:
    """Replicas of one role."""

    run: Runtime
    replica: Replica
    count: Array


def prefill_seconds(
    pool: Pool, model: ModelSpec, isl: Array, hit: Array, together: Array | float = 1.0
) -> Array:
    """Time of a prompt, or of several ``together`` in the same iterations, on a replica [s]."""
    fresh, one = np.maximum(isl * (1.0 - hit), 1.0), np.ones_like(isl)
    pieces = np.ceil(fresh / pool.run.engine.chunk)
    chunk = fresh / pieces
    cached = isl * hit + 0.5 * (fresh - chunk)
    step = Step(together * one, chunk, cached, 0.0 * one, one, one)
    seconds: Array = np.asarray(iteration(pool.run, model, pool.replica, step).seconds)
    return pieces * seconds


def decode_seconds(pool: Pool, model: ModelSpec, load: Load, running: Array) -> Array:
    """Time of a token of every sequence, ``running`` of them on one attention rank [s]."""
    zero, one = np.zeros_like(running), np.ones_like(running)
    context = load.isl + 0.5 * load.osl
    step = Step(zero, one, zero, running, context, 1.0 + load.drafts)
    seconds = np.asarray(iteration(pool.run, model, pool.replica, step).seconds)
    return seconds / load.tokens_a_step


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
    """Closed loop over both pools; the throughput is that of all decode replicas.

    The more sequences generate, the more requests pass and the longer they wait for prompts; the
    number is found at which generating, waiting and moving requests are those in flight.
    """
    engine = prefill.run.engine
    sources = prefill.count * prefill.replica.split.attention_dp * prefill.replica.pp
    lanes = decode.replica.pp * decode.count * decode.replica.split.attention_dp
    limit = most_running(decode.run, model, decode.replica, load)
    places = np.maximum(np.floor(limit / decode.replica.pp), 1.0)
    fresh = np.maximum(load.isl * (1.0 - load.hit), 1.0)
    several = np.clip(load.concurrency / sources, 1.0, np.maximum(engine.chunk / fresh, 1.0))
    prompt = prefill_seconds(prefill, model, load.isl, load.hit)
    beside = prefill_seconds(prefill, model, load.isl, load.hit, several) / several
    moved = transfer_seconds(prefill, model, load.isl)
    all_at_once = 0.5 * (np.maximum(load.concurrency / sources, 1.0) + 1.0)

    def waiting(rate: Array, tpot: Array) -> tuple[Array, Array]:
        """A request's time before its first token, and the prompts taken with it."""
        busy = np.minimum(rate * beside / sources, 1.0)
        together = np.where(load.fixed > 0, engine.together, apart(busy))
        together = np.minimum(together, all_at_once)
        return prompt + (together - 1.0) * beside + moved + READS * engine.waits * tpot, together

    low, high = np.full_like(places, LEAST), places
    for _ in range(HALVINGS):
        running = np.sqrt(low * high)
        tpot = decode_seconds(decode, model, load, running)
        rate = running * lanes / (load.osl * tpot)
        own, together = waiting(rate, tpot)
        many = rate * (load.osl * tpot + own) > load.concurrency
        many = many | (rate * beside > sources)
        low, high = np.where(many, low, running), np.where(many, running, high)
    life, rate = load.osl * tpot, np.minimum(rate, sources / beside)
    burst = (all_at_once - together) / load.waves
    queue = np.maximum(load.concurrency / rate - life - own, 0.0)
    ttft = engine.first + own + beside * burst + queue
    fits = limit >= 1.0
    tpot, ttft = (np.where(fits, found, np.inf) for found in (tpot, ttft))
    return Steady(running, limit, tpot, ttft, np.where(fits, rate * load.osl, 0.0), prompt)


def at_rate(prefill: Pool, decode: Pool, model: ModelSpec, load: Load, rate: Array) -> Steady:
    """Open loop with ``rate`` requests per second over both pools, see ``aggregated.at_rate``."""
    limit = most_running(decode.run, model, decode.replica, load)
    most = limit * decode.count * decode.replica.split.attention_dp
    return serving(rate, load, most, lambda some: disaggregated(prefill, decode, model, some))
