"""Means of columns as the distributions that ``percentiles`` works on, and targets on them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from planner.costs.queueing import ggm_wait, wait_probability
from planner.layers.inference import Array
from planner.serving.percentiles import Times, step_spread, tpot_share, ttft_share
from planner.serving.question import Question


def some_times(times: Times, index: NDArray[np.int64]) -> Times:
    """Some of the candidates."""
    arrays = {
        item.name: getattr(times, item.name)[..., index]
        for item in fields(times)
        if item.name != "lengths"
    }
    return replace(times, **arrays)


def steady_times(
    asked: Question, fixed: float, prompt: Array, ttft: Array, tpot: Array, step: Array, rate: Array
) -> Times:
    """Of replicas that do both, from their means.

    Parameters
    ----------
    fixed : float
        Time of a request outside the engine [s].
    prompt : (cells, n)
        Own prompt [s].
    ttft, tpot : (n,)
        Means [s].
    step : (n,)
        Decode step without prompts [s].
    rate : (n,)
        Prompts for each decode step.

    Notes
    -----
    What a token waits for prompts is laid on those that come, in proportion to their length; the
    share of requests that wait is that of an M/D/1 queue with the same mean wait.
    """
    lengths = asked.lengths
    own = lengths.mean(prompt)
    served = np.isfinite(ttft) & np.isfinite(tpot)
    wait = np.where(served, np.maximum(np.where(served, ttft, 0.0) - fixed - own, 0.0), np.inf)
    with np.errstate(invalid="ignore"):
        waits = np.where(served, 2.0 * wait / (own + 2.0 * wait), 1.0)
    later = np.where(served, tpot, 0.0) - np.where(served, step, 0.0)
    stall = np.maximum(later, 0.0) / np.maximum(rate, 1e-12) * prompt / own
    none = np.zeros_like(ttft)
    return Times(
        lengths,
        fixed + none,
        wait,
        waits,
        prompt,
        tpot - rate * lengths.mean(stall),
        none,
        stall,
        rate,
    )


def decode_times(asked: Question, step: Array, running: Array, token: Array) -> Times:
    """Of replicas that only generate: contexts differ, and nothing stalls.

    Parameters
    ----------
    step : (n,)
        Mean decode step [s].
    running : (n,)
        Sequences of a batch.
    token : (n,)
        What a token of context adds to a step [s].
    """
    none = np.zeros_like(step)
    cells = np.zeros((len(asked.lengths.weight), len(step)))
    random = asked.concurrency is None  # how many run together varies too
    sequence = token * (asked.isl + 0.5 * asked.osl) * random
    spread = step_spread(asked.lengths, running, sequence, token)
    return Times(asked.lengths, none, none, none, cells, step, spread, cells, none)


def prefill_times(asked: Question, fixed: Array, prompt: Array) -> Times:
    """Of idle replicas that only take in prompts; ``fixed`` ``(n,)``, ``prompt`` ``(cells, n)``."""
    none = np.zeros_like(fixed)
    return Times(asked.lengths, fixed, none, none, prompt, none, none, np.zeros_like(prompt), none)


def queued(
    times: Times, asked: Question, rate: Array, service: Array, variation: Array, servers: Array
) -> Times:
    """The same with waiting for one of ``servers`` ``(n,)`` that take ``rate`` requests [1/s].

    A request goes to the server that is free first; ``service`` and ``variation`` are mean [s] and
    coefficient of variation of a server's time for one.
    """
    wait = ggm_wait(rate, service, servers, asked.variation, variation)
    waits = wait_probability(rate, service, servers)
    return replace(times, wait=np.asarray(wait), waits=np.asarray(waits))


def mean_ttft(times: Times) -> Array:
    """Mean time to the first token ``(n,)`` [s]."""
    return np.asarray(times.fixed + times.wait + times.lengths.mean(times.prompt))


def prompt_held(times: Times, asked: Question) -> NDArray[np.bool_]:
    """Where the target on the first token is met ``(n,)``."""
    limit, share = asked.targets.ttft, asked.percentile
    if share is None or np.isinf(limit):
        return np.asarray(mean_ttft(times) <= limit)
    return np.asarray(ttft_share(times, limit + np.zeros_like(times.wait)) >= share - 1e-12)


def tokens_held(times: Times, tpot: Array, asked: Question) -> NDArray[np.bool_]:
    """Where the target on further tokens is met ``(n,)``; ``tpot`` are the means [s]."""
    limit, share = asked.targets.tpot, asked.percentile
    if share is None or np.isinf(limit):
        return np.asarray(tpot <= limit)
    return np.asarray(tpot_share(times, limit + np.zeros_like(times.step)) >= share - 1e-12)


def whole_held(ttft: Array, tpot: Array, asked: Question) -> NDArray[np.bool_]:
    """Where the target on the mean of whole requests is met ``(n,)``."""
    return np.asarray(ttft + (asked.osl - 1.0) * tpot <= asked.targets.end_to_end)
