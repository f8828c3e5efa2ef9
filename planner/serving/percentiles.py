"""From means to distributions: what share of the requests meets a target, and percentiles.

A request of a cell of lengths gets its first token after a fixed time, a wait, and its own prompt;
the wait is nothing or exponential.  Its further tokens take the mean step and now and then a stall
by the prompts of others.  Both depend on the lengths, so every distribution is a mixture over the
cells; what is left, given its lengths, is taken as independent.

The caller brings means from any architecture; arrays are ``(cells,)``, ``(n,)`` for candidates, or
``(cells, n)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from planner.costs.queueing import wait_percentile, wait_tail
from planner.layers.inference import Array
from planner.serving.lengths import Lengths

HALVINGS = 32
"""Of the range of a percentile: found to 1e-9 of it."""
LEAST_SKEW = 1e-3
"""Below it a distribution is as good as normal."""


@dataclass(frozen=True)
class Times:
    """Means of a deployment's times, and what varies about them."""

    lengths: Lengths
    fixed: Array
    """Of every request before its first token: host, network, transfer ``(n,)`` [s]."""
    wait: Array
    """Mean wait of all requests ``(n,)`` [s]."""
    waits: Array
    """Share of the requests that wait at all ``(n,)``."""
    prompt: Array
    """Own prompt ``(cells, n)`` [s]."""
    step: Array
    """Decode step without prompts ``(n,)`` [s]."""
    spread: Array
    """Standard deviation of the mean step that a request sees ``(n,)`` [s]."""
    stall: Array
    """What a prompt adds to the steps of those that decode beside it ``(cells, n)`` [s]."""
    stalls: Array
    """Prompts for each decode step ``(n,)``; none where prompts have devices of their own."""


def step_spread(lengths: Lengths, running: Array, sequence: Array, token: Array) -> Array:
    """Standard deviation of a decode step by what happens to run together ``(n,)`` [s].

    Parameters
    ----------
    running : (n,)
        Sequences in the batch, on average.
    sequence : (n,)
        What a further sequence of mean context adds to the step [s], where requests come at random
        and their number varies as Poisson's; 0 where it is kept, as in a closed loop.
    token : (n,)
        What a further token of context adds to the step [s].

    Notes
    -----
    A sequence is found in the batch in proportion to its output, anywhere in it; sequences are
    independent.  The batch of a moment is taken for that of a request's life: an upper bound, as
    others come and go meanwhile.
    """
    share = lengths.weight * lengths.osl / lengths.mean(lengths.osl)
    middle = lengths.isl + 0.5 * lengths.osl
    away = middle - share @ middle
    context = share @ (np.square(away) + np.square(lengths.osl) / 12.0)
    return np.asarray(np.sqrt(running * (np.square(sequence) + np.square(token) * context)))


def ttft_share(times: Times, limit: Array | float) -> Array:
    """Share of the requests whose first token comes within ``limit`` ``(n,)`` [s]."""
    return times.lengths.mean(_ttft(times, limit))


def tpot_share(times: Times, limit: Array | float) -> Array:
    """Share of the requests whose mean further token takes ``limit`` ``(n,)`` [s] at most.

    One token only has no further ones and meets any limit.
    """
    return times.lengths.mean(_tpot(times, limit))


def end_to_end_share(times: Times, limit: Array | float) -> Array:
    """Share of the requests whose last token comes within ``limit`` ``(n,)`` [s]."""
    return times.lengths.mean(_end_to_end(times, limit))


def attainment(
    times: Times,
    *,
    ttft: Array | float = np.inf,
    tpot: Array | float = np.inf,
    end_to_end: Array | float = np.inf,
) -> Array:
    """Share of the requests that meet all targets ``(n,)``; targets are ``(n,)`` [s].

    Given the lengths of a request, its first token and its further ones are independent.  With an
    end-to-end target it is an upper bound: of the requests that miss it as many as can be are taken
    to miss another target too.
    """
    both = _ttft(times, ttft) * _tpot(times, tpot)
    if not np.all(np.isinf(end_to_end)):
        both = np.minimum(both, _end_to_end(times, end_to_end))
    return times.lengths.mean(both)


def ttft_percentile(times: Times, share: float) -> Array:
    """TTFT that ``share``, below 1, of the requests do not exceed ``(n,)`` [s]."""
    most = times.fixed + times.prompt.max(axis=0) + wait_percentile(share, times.waits, times.wait)
    return _percentile(lambda limit: ttft_share(times, limit), share, most)


def tpot_percentile(times: Times, share: float) -> Array:
    """TPOT that ``share`` of the requests with two tokens or more do not exceed ``(n,)`` [s]."""
    cells = times.lengths.osl > 1.0
    counted = float(times.lengths.weight[cells].sum())
    if not counted:
        return np.zeros_like(times.step)
    mean, deviation, _ = _tokens(times)
    most = mean + deviation[cells].max(axis=0) / np.sqrt(1.0 - share)  # Cantelli's inequality
    return _percentile(
        lambda limit: (tpot_share(times, limit) - (1.0 - counted)) / counted, share, most
    )


def end_to_end_percentile(times: Times, share: float) -> Array:
    """End-to-end time that ``share`` of the requests do not exceed ``(n,)`` [s]."""
    mean, deviation, further = _tokens(times)
    decode = further * (mean + deviation / np.sqrt(0.5 * (1.0 - share)))
    wait = wait_percentile(0.5 + 0.5 * share, times.waits, times.wait)
    most = times.fixed + wait + (times.prompt + decode).max(axis=0)
    return _percentile(lambda limit: end_to_end_share(times, limit), share, most)


def _ttft(times: Times, limit: Array | float) -> Array:
    """P(TTFT <= limit) by cell ``(cells, n)``."""
    own = times.fixed + times.prompt
    with np.errstate(invalid="ignore"):
        late = wait_tail(limit - own, times.waits, times.wait)
    return np.asarray(np.where(np.isinf(own), 0.0, 1.0 - late))


def _tokens(times: Times) -> tuple[Array, Array, Array]:
    """Mean ``(n,)`` and deviation ``(cells, n)`` of TPOT [s], and further tokens ``(cells, 1)``."""
    further = np.maximum(times.lengths.osl - 1.0, 1.0)[:, np.newaxis]
    mean = times.step + times.stalls * times.lengths.mean(times.stall)
    by_stalls = times.stalls * times.lengths.second_moment(times.stall) / further
    return mean, np.sqrt(np.square(times.spread) + by_stalls), further


def _tpot(times: Times, limit: Array | float) -> Array:
    """P(TPOT <= limit) by cell ``(cells, n)``.

    Over m further tokens Poisson many prompts come, ``stalls`` m on average: none, and the step is
    normal; or some, and their sum is known by three moments.
    """
    further = np.maximum(times.lengths.osl - 1.0, 1.0)[:, np.newaxis]
    one, two, three = (times.lengths.mean(times.stall**power) for power in (1, 2, 3))
    many = times.stalls * further
    some = -np.expm1(-many)
    with np.errstate(invalid="ignore"):
        count = many / np.maximum(some, 1e-300)
        first = count * one
        second = count * (two + many * one**2)
        third = count * (three + 3.0 * many * one * two + many**2 * one**3)
        variance = np.maximum(second - first**2, 0.0) / further**2 + np.square(times.spread)
        skewed = third - 3.0 * first * second + 2.0 * first**3
        left = limit - times.step
        stalled = _pearson(left - first / further, variance, skewed / further**3)
        plain = _pearson(left, np.square(times.spread), np.zeros_like(times.step))
    found = (1.0 - some) * plain + some * stalled
    found = np.nan_to_num(found)  # infinite times meet no target
    return np.asarray(np.where(times.lengths.osl[:, np.newaxis] > 1.0, found, 1.0))


def _pearson(away: Array, variance: Array, third: Array) -> Array:
    """P(X <= mean + away) of a gamma distribution with that variance and third central moment.

    Pearson's type III; without skewness it is normal, without variance a step.
    """
    from scipy.special import gammainc, ndtr

    deviation = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        skew = third / deviation**3
        shape = 4.0 / np.square(skew)
        far = away / deviation
        gamma = gammainc(shape, np.maximum(shape + far * np.sqrt(shape), 0.0))
    found = np.where(skew > LEAST_SKEW, gamma, ndtr(far))
    return np.asarray(np.where(deviation > 0.0, found, away >= 0.0))


def _end_to_end(times: Times, limit: Array | float) -> Array:
    """P(end to end <= limit) by cell: an exponential wait and a normal rest, ``(cells, n)``."""
    from scipy.special import log_ndtr, ndtr

    mean, deviation, further = _tokens(times)
    further = np.where(times.lengths.osl[:, np.newaxis] > 1.0, further, 0.0)
    own = times.fixed + times.prompt + further * mean
    width = np.maximum(further * deviation, 1e-12)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        left = limit - own
        rate = times.waits / times.wait
        late = rate * (0.5 * rate * np.square(width) - left)
        late = times.waits * np.exp(late + log_ndtr(left / width - rate * width))
        found = ndtr(left / width) - np.where(times.wait > 0.0, late, 0.0)
    found = np.where(np.isinf(times.wait), 0.0, np.nan_to_num(found))
    return np.clip(found, 0.0, 1.0)


def _percentile(reached: Callable[[Array], Array], share: float, most: Array) -> Array:
    """The shortest time within which ``share`` of the requests are served, by halving ``(n,)``."""
    served = np.isfinite(most)
    low, high = np.zeros_like(most), np.where(served, most, 0.0)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        enough = reached(middle) >= share
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(served, high, np.inf)
