"""Prefill and decode side by side on one device, each on its share of the multiprocessors.

Two engines share weights and cache: prompts take a share of the multiprocessors, decoding all
that is left, and everything while no prompt is there.  Computation slows with its share; reading
memory only where too few multiprocessors ask for it.  Source: semi-PD, arXiv 2504.19867 (its own
latency equations are not published; these are derived from a roofline of the shares).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.layers.inference import Array, Runtime
from planner.serving.aggregated import ROUNDS, Load, Steady, apart, most_running
from planner.serving.disaggregated import Pool, decode_seconds, prefill_seconds
from planner.serving.iteration import Replica
from planner.serving.memory import weight_bytes
from planner.specs.model import ModelSpec

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Shares of the multiprocessors for prompts that are tried."""
SATURATION = 0.4
"""Share of the multiprocessors that draws the whole memory bandwidth; 0.3 to 0.5 on NVIDIA's
data-centre devices (assumed)."""
BUSIEST = 0.95
"""Utilisation of the prompts' share beyond which their queue has no steady state worth planning."""


@dataclass(frozen=True)
class Alone:
    """What each phase takes with the whole device; arrays of shape ``(n,)``."""

    decode: Array
    """A decode step [s]."""
    prompt: Array
    """A prompt [s]."""
    read: Array
    """Reading the weights once for every piece of a prompt [s]."""


@dataclass(frozen=True)
class Divided:
    """One lane of a divided device; arrays of shape ``(n,)``."""

    rate: Array
    """Requests per second."""
    tpot: Array
    prompt: Array
    """A prompt on its share [s]."""

    @property
    def busy(self) -> Array:
        """Part of the time in which there is a prompt."""
        return self.rate * self.prompt


def alone(run: Runtime, model: ModelSpec, replica: Replica, running: Array, load: Load) -> Alone:
    """Both phases with the whole device, ``running`` sequences generating on each lane."""
    pool = Pool(run, replica, np.ones_like(running))
    pieces = np.ceil(np.maximum(load.isl * (1.0 - load.hit), 1.0) / run.engine.chunk)
    read = pieces * weight_bytes(run, model, replica) * replica.pp / run.device.memory_bandwidth
    prompt = prefill_seconds(pool, model, load.isl, load.hit)
    return Alone(decode_seconds(pool, model, load, running), prompt, read)


def slowdown(share: Array) -> Array:
    """Time of a decode step on a share of the multiprocessors over that on all of them."""
    return np.maximum(1.0, SATURATION / np.maximum(share, 1e-9))


def divided(found: Alone, share: Array, running: Array, osl: Array) -> Divided:
    """Steady state of a lane with ``running`` sequences and ``share`` for prompts.

    While there is a prompt, a decode step is slowed by the multiprocessors that it lacks and by the
    bandwidth that the prompt's weights take: ``tpot = decode (1 + rate prompt beside)``, and by
    Little's law ``running = rate osl tpot``, so the rate solves a quadratic.
    """
    prompt = found.prompt / share
    beside = slowdown(1.0 - share) - 1.0 + np.minimum(found.read / prompt, 1.0)
    bend = prompt * beside
    plain = running / (osl * found.decode)
    rate = 2.0 * plain / (1.0 + np.sqrt(1.0 + 4.0 * bend * plain))
    return Divided(rate, found.decode * (1.0 + rate * bend), prompt)


def steady(run: Runtime, model: ModelSpec, replica: Replica, share: Array, load: Load) -> Steady:
    """Closed loop on a replica whose prompts have ``share`` ``(n,)`` of the multiprocessors."""
    lanes = replica.split.attention_dp * replica.pp
    limit = most_running(run, model, replica, load)
    places = np.maximum(np.floor(limit / replica.pp), 1.0)
    each = load.concurrency / lanes
    running = np.clip(each, 1e-3, places)
    all_at_once = 0.5 * (np.maximum(each, 1.0) + 1.0)
    rate = np.zeros_like(each)
    for _ in range(ROUNDS):
        state = divided(alone(run, model, replica, running, load), share, running, load.osl)
        life = load.osl * state.tpot
        together = np.where(load.fixed > 0, run.engine.together, apart(rate * state.prompt))
        inside = state.prompt * np.minimum(together, all_at_once)
        most = np.minimum(places / life, BUSIEST / state.prompt)
        rate = np.minimum(most, each / (life + inside))
        running = np.clip(0.5 * running + 0.5 * rate * life, 1e-3, places)
    burst = (all_at_once - np.minimum(together, all_at_once)) / load.waves
    waiting = np.maximum(each / rate - life - inside, 0.0)
    outside = run.engine.first + run.engine.waits * state.tpot
    ttft = outside + inside + state.prompt * burst + waiting
    fits = limit >= 1.0
    tpot, ttft = (np.where(fits, found, np.inf) for found in (state.tpot, ttft))
    throughput = np.where(fits, rate * load.osl * lanes, 0.0)
    return Steady(running, limit, tpot, ttft, throughput, state.prompt)
