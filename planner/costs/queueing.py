"""Waiting lines: how long a request waits for a server that others keep busy.

The forms widen from fixed service times and Poisson arrivals to any variability and any number of
servers; each reduces to the one before it.  ``rho = rate service / servers`` is the part of the
time that a server is busy, and waiting has no end from 1 on.  Coefficients of variation are those
of the times between arrivals and of service: 0 for a clock, 1 for Poisson arrivals.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

DISTSERVE = "DistServe, arXiv 2401.09670"
SAKASEGAWA = Ref("Sakasegawa, Ann. Inst. Statist. Math. 29 (1977)", "pages 67 to 75")
KINGMAN = Ref("Kingman, Proc. Camb. Phil. Soc. 57 (1961)", "pages 902 to 904")
HEAVY_TRAFFIC = Ref("Kingman, J. R. Statist. Soc. B 24 (1962)", "exponential limit of the wait")


@term("wait = R D^2 / (2 (1 - R D))", Ref(DISTSERVE, "equation 1"))
def md1_wait(rate: Seconds, service: Seconds) -> Seconds:
    """Mean wait of Poisson arrivals for one server that always takes as long [s].

    Parameters
    ----------
    rate : (n,)
        Arrivals R [1/s], per server: N equal replicas share R as R / N each.
    service : (n,)
        Service time D [s].

    Examples
    --------
    >>> round(float(0.1 + md1_wait(5.0, 0.1)), 6)
    0.15
    """
    return mg1_wait(rate, service, np.square(service))


@term("TTFT = D_s + R D_m^2 / (2 (1 - R D_m))", Ref(DISTSERVE, "equation 2"))
def pipeline_ttft(rate: Seconds, total: Seconds, slowest: Seconds) -> Seconds:
    """Mean wait and passage through a pipeline of stages [s].

    Parameters
    ----------
    rate : (n,)
        Arrivals R [1/s].
    total, slowest : (n,)
        Time D_s of all stages and D_m of the slowest [s], which sets the pace; two equal stages of
        D / 2 give D + R D^2 / (4 (2 - R D)).
    """
    return total + md1_wait(rate, slowest)


@term("TTFT = D/K + R D^2 / (2 K (K - R D))", Ref(DISTSERVE, "equation 3"))
def tensor_parallel_ttft(rate: Seconds, service: Seconds, speedup: Seconds) -> Seconds:
    """Mean wait and service on devices that share every request [s].

    Parameters
    ----------
    rate : (n,)
        Arrivals R [1/s].
    service : (n,)
        Service time D of one device [s].
    speedup : (n,)
        Service time of one device over that of all of them, K; below their number.
    """
    return pipeline_ttft(rate, service / speedup, service / speedup)


@term(
    "wait = R E[D^2] / (2 (1 - R E[D]))",
    Ref("Pollaczek 1930 and Khinchine 1932; Kleinrock, Queueing Systems I (1975)", "section 5.6"),
)
def mg1_wait(rate: Seconds, service: Seconds, second_moment: Seconds) -> Seconds:
    """Mean wait of Poisson arrivals for one server with varying service times [s]; exact.

    Parameters
    ----------
    rate : (n,)
        Arrivals R [1/s].
    service, second_moment : (n,)
        Mean E[D] [s] and mean square E[D^2] [s^2] of the service time.
    """
    return _stable(rate * second_moment / 2.0, rate * service)


@term("wait = rho / (1 - rho) (C_a^2 + C_s^2) / 2 E[D]", KINGMAN)
def gg1_wait(rate: Seconds, service: Seconds, arrivals_cv: Seconds, service_cv: Seconds) -> Seconds:
    """Mean wait of any arrivals for one server [s]: Kingman's formula.

    An upper bound for regular arrivals, exact for Poisson ones and in heavy traffic.

    Parameters
    ----------
    rate : (n,)
        Arrivals R [1/s]; rho = R E[D].
    service : (n,)
        Mean service time E[D] [s].
    arrivals_cv, service_cv : (n,)
        Coefficients of variation C_a of the times between arrivals and C_s of service.
    """
    return ggm_wait(rate, service, 1.0, arrivals_cv, service_cv)


@term("P(W > 0) = rho^(sqrt(2 (m + 1)) - 1), rho = R E[D] / m", SAKASEGAWA)
def wait_probability(rate: Seconds, service: Seconds, servers: Seconds) -> Seconds:
    """Share of the requests that find all servers busy; from 0 to 1, shape ``(n,)``.

    Exact for Poisson arrivals at one server; for several, within 0.06 of Erlang's C, which holds
    for exponential service.

    Parameters
    ----------
    rate : (n,)
        Arrivals R at all servers [1/s].
    service : (n,)
        Mean service time E[D] of one server [s].
    servers : (n,)
        Servers m behind one queue.
    """
    busy = np.minimum(rate * service / servers, 1.0)
    return np.asarray(busy ** (np.sqrt(2.0 * (servers + 1.0)) - 1.0))


@term("wait = P(W > 0) / (m (1 - rho)) (C_a^2 + C_s^2) / 2 E[D]", SAKASEGAWA)
def ggm_wait(
    rate: Seconds,
    service: Seconds,
    servers: Seconds,
    arrivals_cv: Seconds,
    service_cv: Seconds,
) -> Seconds:
    """Mean wait of any arrivals for the first of several servers that is free [s].

    Parameters
    ----------
    rate : (n,)
        Arrivals R at all servers [1/s].
    service : (n,)
        Mean service time E[D] of one server [s].
    servers : (n,)
        Servers m behind one queue; with one it is Kingman's formula.
    arrivals_cv, service_cv : (n,)
        Coefficients of variation C_a of the times between arrivals and C_s of service.
    """
    waits = wait_probability(rate, service, servers)
    each = (np.square(arrivals_cv) + np.square(service_cv)) / 2.0 * service / servers
    return _stable(waits * each, rate * service / servers)


@term("P(W > t) = P(W > 0) exp(-P(W > 0) t / E[W])", HEAVY_TRAFFIC)
def wait_tail(time: Seconds, probability: Seconds, wait: Seconds) -> Seconds:
    """Share of the requests that wait longer than a time; shape ``(n,)``.

    Those that wait at all wait exponentially long.  With Kingman's mean and ``rho`` as probability
    the exponent is -2 (1 - rho) t / ((C_a^2 + C_s^2) E[D]), the limit of heavy traffic.

    Parameters
    ----------
    time : (n,)
        Time t [s]; before 0 everyone has yet to wait.
    probability : (n,)
        Share P(W > 0) of the requests that wait at all.
    wait : (n,)
        Mean wait E[W] of all requests [s]; without end, nobody is served.
    """
    time, probability, wait = np.broadcast_arrays(time, probability, wait)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = probability * np.exp(-probability * np.maximum(time, 0.0) / wait)
    tail = np.where(wait > 0.0, tail, 0.0)
    tail = np.where(np.isinf(wait), 1.0, tail)
    return np.asarray(np.where(time < 0.0, 1.0, tail))


@term("W_q = E[W] / P(W > 0) ln(P(W > 0) / (1 - q)), at least 0", HEAVY_TRAFFIC)
def wait_percentile(share: Seconds, probability: Seconds, wait: Seconds) -> Seconds:
    """Time that a share of the requests wait at most [s]: the inverse of ``wait_tail``.

    Parameters
    ----------
    share : (n,)
        Share q, below 1.
    probability, wait : (n,)
        As for ``wait_tail``.
    """
    share, probability, wait = np.broadcast_arrays(share, probability, wait)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = wait / probability * np.log(np.maximum(probability / (1.0 - share), 1.0))
    found = np.where((wait > 0.0) & (probability > 0.0), found, 0.0)
    return np.asarray(np.where(np.isinf(wait), np.inf, found))


@term("(1 - a^(k+1)) / (1 - a)", Ref("Leviathan et al., arXiv 2211.17192", "equation 1"))
def accepted_tokens(acceptance: Seconds, drafts: Seconds) -> NDArray[np.float64]:
    """Tokens that a step of speculative decoding makes on average, 1 without drafts; ``(n,)``.

    Parameters
    ----------
    acceptance : (n,)
        Probability a that a drafted token is accepted, from 0 to 1, alike for all of them.
    drafts : (n,)
        Tokens k drafted for a step.

    Examples
    --------
    >>> round(float(accepted_tokens(0.7, 1)), 6)
    1.7
    """
    sure = np.asarray(acceptance) >= 1.0
    chance = np.where(sure, 0.0, acceptance)
    return np.asarray(
        np.where(sure, drafts + 1.0, (1.0 - chance ** (drafts + 1.0)) / (1.0 - chance))
    )


def _stable(over: Seconds, busy: Seconds) -> NDArray[np.float64]:
    """``over / (1 - busy)``, without end where the servers cannot keep up."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(np.asarray(busy) < 1.0, over / (1.0 - np.asarray(busy)), np.inf))
