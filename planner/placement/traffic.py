"""What a layer's dispatch sends over every tier when a token goes once to each domain it needs.

A flat all-to-all sends a token K times, once to every expert.  A hierarchical one sends it once to
each domain of the outermost tier that holds one of its experts, from there once to each domain
inside, and so on to the devices; the copies that it saves depend on the placement (`reach`).
Sources: HierMoE, arXiv 2508.09591, section III; DeepEP's normal kernels do it with nodes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.topology import Network
from planner.costs.tree import Seconds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def tiers_between(net: Network) -> Ints:
    """Index of the innermost tier that two devices share, -1 for a device itself, shape (G, G)."""
    device = np.arange(net.devices)
    between = np.full((net.devices, net.devices), -1)
    for size in (1, *net.domains[:-1]):
        domain = device // size
        between += domain[:, np.newaxis] != domain
    return between


def seconds_per_byte(net: Network) -> Floats:
    """Time that a device takes to send a byte over each tier [s/B], shape (tiers,)."""
    return np.array(
        [net.slowdown * t.oversubscription / (t.bandwidth * t.efficiency) for t in net.tiers]
    )


@term(
    "T D_i (1 - m_(i-1) / m_i) S; sent K times: T K (m_i - m_(i-1)) / G S",
    Ref("HierMoE, arXiv 2508.09591", "section III; tokens start evenly on all devices"),
)
def bytes_by_tier(
    net: Network, tokens: Seconds, nbytes: Seconds, copies: Floats, top_k: int | None = None
) -> Floats:
    """Bytes that a device sends over each tier in one dispatch [B], shape (..., tiers).

    Parameters
    ----------
    tokens
        Tokens that a device sends.
    nbytes
        Size of a token [B].
    copies : (..., tiers)
        Domains inside each tier (devices for the innermost) that a token reaches, see `copies_of`
        in `reach`.
    top_k
        If given, a token is sent to each of its experts by itself and ``copies`` is not read.
    """
    outer = np.array(net.domains, dtype=float)
    inner = np.array([1, *net.domains[:-1]], dtype=float)
    if top_k is not None:
        return np.asarray(tokens * nbytes * top_k * (outer - inner) / net.devices)
    return np.asarray(tokens * nbytes * copies * (1.0 - inner / outer))


@term(
    "t_d = sum over i < d of (a_i + b_i n_i) + a'_d + b'_d n_G,  n_i = D_i T S",
    Ref("HierMoE, arXiv 2508.09591", "equations 3 to 5"),
)
def level_times(across: Floats, within: Floats, nbytes: Seconds, copies: Floats) -> Floats:
    """Time of an all-to-all with 1 to D levels [s], shape (D,); the least is the one to use.

    Parameters
    ----------
    across : (D - 1, 2)
        Latency [s] and time per byte [s/B] of the exchange between the domains of level i.
    within : (D, 2)
        The same of the last exchange, among the devices of one domain of level d - 1; the first
        is the flat exchange among all devices.
    nbytes
        Tokens of a device times the size of one [B].
    copies : (D,)
        Domains that a token reaches at each level, devices last; for uneven loads the number of
        domains times the chance of the busiest.
    """
    hops = across[:, 0] + across[:, 1] * copies[:-1] * nbytes
    before = np.concatenate([[0.0], np.cumsum(hops)])
    return np.asarray(before + within[:, 0] + within[:, 1] * copies[-1] * nbytes)
