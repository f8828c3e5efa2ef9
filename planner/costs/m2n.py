"""Transfers between two pools of devices: M senders, N receivers, every one of a side alike.

A transfer ends when the busiest sender has sent everything and the busiest receiver has taken
everything.  A message costs its bytes and, beyond a fast domain, the time to post it, so that many
small messages reach a small part of the bandwidth: x / (x + post B) of it for messages of x bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

MEGASCALE = "MegaScale-Infer, arXiv 2504.02263"


@dataclass(frozen=True)
class Wire:
    """What joins two pools; floats, or arrays of shape ``(n,)``."""

    first: Seconds
    """Achieved bandwidth of a device of the first pool, per direction [B/s]."""
    second: Seconds
    """The same of the second pool [B/s]."""
    latency: Seconds
    """Of the first message [s]."""
    post: Seconds = 0.0
    """Of every message, one after the other [s]."""

    @property
    def back(self) -> Wire:
        """The same network from the second pool to the first."""
        return Wire(self.second, self.first, self.latency, self.post)


@term(
    "alpha + max(q_s p + S_s / B_s, q_r p + S_r / B_r)",
    Ref(MEGASCALE, "section 4.2, T_c, with x / (x + p B) as Util(x)"),
)
def many_to_many(
    wire: Wire, sent: Seconds, messages: Seconds, received: Seconds, arrivals: Seconds
) -> Seconds:
    """Time of a transfer from the first pool to the second [s].

    Parameters
    ----------
    sent, received : float or (n,)
        Bytes of one sender and of the busiest receiver [B].
    messages, arrivals : float or (n,)
        Messages of one sender and of one receiver.

    Examples
    --------
    >>> wire = Wire(50e9, 25e9, 8e-6, 1e-6)
    >>> print(round(1e6 * many_to_many(wire, 1e6, 8, 1e6, 2), 3))
    50.0
    """
    out = messages * wire.post + sent / wire.first
    into = arrivals * wire.post + received / wire.second
    return np.asarray(wire.latency + np.maximum(out, into))


@term(
    "M N messages, or at most one for each token copy",
    Ref(MEGASCALE, "section 5; Janus, arXiv 2512.13525, section 4, messages m n and N_a N_e"),
)
def peers(
    others: Seconds, copies: Seconds, shards: Seconds, other_shards: Seconds
) -> NDArray[np.float64]:
    """Messages of a device that has ``copies`` token copies for ``others`` groups of devices.

    Parameters
    ----------
    shards, other_shards : float or (n,)
        Devices of an own group and of another, each of which holds as large a part of a token.
    """
    found = np.minimum(others, copies) * np.ceil(np.asarray(other_shards) / shards)
    return np.asarray(found)
