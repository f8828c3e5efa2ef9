"""What a replay found: times of every request, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.layers.inference import Array

QUANTILES = (0.50, 0.90, 0.99)
Window = tuple[float, float]
"""Start and end [s]."""


@dataclass(frozen=True)
class Summary:
    """Mean and percentiles of a time [s]; nan of none."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Result:
    """Times and shares of a replay.

    Throughput, batch and utilisation are those of the steady window: from the first answer to the
    last sending, or of the whole run where that is empty.
    """

    ttft: Summary
    tpot: Summary
    """Time of an output token, the first excluded, of requests with more than one."""
    end_to_end: Summary
    throughput: float
    """Output tokens per second of all replicas."""
    batch: float
    """Sequences that generate on one replica, mean over time."""
    utilisation: Mapping[str, float]
    """Part of the time in which the ranks of a role compute."""
    within: float
    """Part of the requests that meet both targets."""
    sent: Array
    """When every request reached the engine ``(requests,)`` [s]."""
    first: Array
    """When its first token left it."""
    finished: Array
    """When its last did."""


def result(
    times: Array,
    osl: NDArray[np.int64],
    outside: float,
    polls: float,
    replicas: float,
    busy: Mapping[str, list[list[tuple[float, float]]]],
    targets: tuple[float, float],
) -> Result:
    """Summarise a replay.

    Parameters
    ----------
    times : array (3, n)
        When every request was sent, had its first token and its last [s].
    osl : array (n,)
        Output tokens.
    outside : float
        Time of a request outside the engine [s].
    polls : float
        Iterations that pass before a request is read and until its first token is sent.
    replicas : float
        Replicas that generate.
    busy : mapping
        Spans in which each rank of a role computes [s].
    targets : tuple
        Longest TTFT and TPOT [s].
    """
    sent, first, finished = times
    window = float(finished.min()), float(sent.max())
    if window[0] >= window[1]:
        window = 0.0, float(finished.max())
    length = window[1] - window[0]
    more = osl - 1
    several = more > 0
    each = (finished - first)[several] / more[several]
    waited = outside + first - sent
    waited[several] += polls * each
    fast = np.ones(len(osl), dtype=bool)
    fast[several] = each <= targets[1]
    generating = _overlap(first, finished, window)
    share = generating / np.maximum(finished - first, 1e-12)
    tokens = np.sum((first >= window[0]) & (first < window[1])) + np.sum(more * share)
    return Result(
        _summary(waited),
        _summary(each),
        _summary(waited + finished - first),
        float(tokens / length),
        float(np.sum(generating) / length / replicas),
        {role: _busy(ranks, window) for role, ranks in busy.items()},
        float(np.mean((waited <= targets[0]) & fast)),
        sent,
        first,
        finished,
    )


def _overlap(start: Array, end: Array, window: Window) -> Array:
    """Part of each span that lies in the window [s]."""
    found: Array = np.minimum(end, window[1]) - np.maximum(start, window[0])
    return np.maximum(found, 0.0)


def _busy(ranks: list[list[tuple[float, float]]], window: Window) -> float:
    spans = np.array([span for rank in ranks for span in rank]).reshape(-1, 2)
    inside = float(np.sum(_overlap(spans[:, 0], spans[:, 1], window)))
    return inside / (window[1] - window[0]) / len(ranks)


def _summary(values: Array) -> Summary:
    if not len(values):
        return Summary(*(1 + len(QUANTILES)) * (math.nan,))
    return Summary(float(values.mean()), *np.quantile(values, QUANTILES).tolist())
