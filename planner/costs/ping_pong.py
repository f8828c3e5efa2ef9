"""Attention and experts on separate pools: micro-batches go to and fro, and both pools stay busy.

Of ``m`` micro-batches each passes, in every layer, attention (t_a), the network (t_d), the experts
(t_e) and the network back (t_c); a pool or a direction of the network serves one at a time.  A
layer of all micro-batches then takes as long as the slowest station needs for all of them, or as
one micro-batch needs for its round, whichever is longer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

MEGASCALE = "MegaScale-Infer, arXiv 2504.02263"


@term(
    "period = max(m max(t_a, t_d, t_e, t_c), t_a + t_d + t_e + t_c)", Ref(MEGASCALE, "eq. 1 to 5")
)
def layer_period(
    micro_batches: Seconds,
    attention: Seconds,
    dispatch: Seconds,
    experts: Seconds,
    combine: Seconds,
) -> NDArray[np.float64]:
    """Time of one layer of all micro-batches in the steady state ``(n,)`` [s].

    With ``m >= 2 (1 + t_c / max(t_a, t_e))`` of equal transfers the first term rules; fewer
    micro-batches leave both pools waiting for the round.
    """
    slowest = np.maximum(np.maximum(attention, experts), np.maximum(dispatch, combine))
    chain = np.asarray(attention) + dispatch + experts + combine
    return np.asarray(np.maximum(micro_batches * slowest, chain))


@term(
    "T = c + (m - 1) t + (L - 1) max(m t, c); c + t (m L - 1) where m t >= c",
    Ref(MEGASCALE, "eq. 5, T_total; for any m"),
)
def whole_step(
    layers: Seconds,
    micro_batches: Seconds,
    attention: Seconds,
    dispatch: Seconds,
    experts: Seconds,
    combine: Seconds,
) -> NDArray[np.float64]:
    """Time of ``L`` layers of all micro-batches that begin together, on empty pools ``(n,)`` [s].

    ``c`` is the round of one micro-batch and ``t`` the slowest station.  Decoding does not drain
    between tokens, so that a step of the steady state is ``L`` periods; this one is longer by what
    filling takes.
    """
    slowest = np.maximum(np.maximum(attention, experts), np.maximum(dispatch, combine))
    chain = np.asarray(attention) + dispatch + experts + combine
    period = layer_period(micro_batches, attention, dispatch, experts, combine)
    return np.asarray(chain + (micro_batches - 1.0) * slowest + (layers - 1.0) * period)


@term("m >= 2 (1 + t_c / t_f)", Ref(MEGASCALE, "eq. 3"))
def fewest_micro_batches(stage: Seconds, transfer: Seconds) -> NDArray[np.float64]:
    """Micro-batches that keep both pools busy; stages and transfers of equal time [s].

    Examples
    --------
    >>> int(fewest_micro_batches(1.0, 0.4)), int(fewest_micro_batches(1.0, 0.9))
    (3, 4)
    """
    return np.asarray(np.ceil(2.0 * (1.0 + np.asarray(transfer) / stage) - 1e-9))


@term("idle = 1 - m t / period", Ref(MEGASCALE, "section 4.1"))
def idle_share(micro_batches: Seconds, stage: Seconds, period: Seconds) -> NDArray[np.float64]:
    """Part of the time in which a pool whose stage takes ``stage`` [s] waits ``(n,)``."""
    return np.asarray(np.maximum(1.0 - micro_batches * np.asarray(stage) / period, 0.0))


@term(
    "r* = max((t_A - b_F) / (a_F B), (t_C - b_F) / (a_F B), sqrt(b_F / (a_F B)))",
    Ref("arXiv 2601.21351", "theorem on the ratio of attention to feed-forward instances"),
)
def attention_ratio(
    attention: Seconds, transfer: Seconds, slope: Seconds, intercept: Seconds, slots: Seconds
) -> NDArray[np.float64]:
    """Attention instances for each feed-forward instance that serve most for their number.

    ``r`` instances of ``slots`` sequences make a cycle of max(t_A, t_C, slope r slots + intercept)
    and serve r slots of r + 1 instances.

    Parameters
    ----------
    attention, transfer : (n,)
        Times t_A and t_C of one instance's slots [s].
    slope, intercept : (n,)
        Of the feed-forward time: a_F [s] for each sequence, and b_F [s].
    slots : (n,)
        Sequences B of an attention instance.
    """
    each = np.asarray(slope) * slots
    level = np.maximum(attention, transfer)
    return np.asarray(np.maximum((level - intercept) / each, np.sqrt(intercept / each)))
