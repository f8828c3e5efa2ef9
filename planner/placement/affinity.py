"""What it costs that consecutive layers' experts sit on different devices.

A token that an expert of layer l served goes on to an expert of layer l + 1.  Where its context
stays with its expert (ExFlow), every such step between two devices is a transfer, whose price is
a number of hops or the bytes weighted by the tier that they cross.  With the usual dispatch and
combine a token returns to its own device after every layer, and affinity saves nothing.
`affinity_search` finds the placement.

Sources: ExFlow, arXiv 2401.08383 (experts, equal counts); MoETuner, arXiv 2502.06643, section 5
(the second program: clusters of experts that were packed for balance).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.costs.topology import Network
from planner.placement.traffic import seconds_per_byte, tiers_between

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def distances(net: Network, objective: str) -> Floats:
    """Price of a token's step from one device to another, shape (G, G).

    ``hops`` counts the tiers that it climbs (one inside a node, two between nodes), ``bytes``
    weighs a byte by the time that its tier takes for it over that of the innermost tier.
    """
    between = tiers_between(net)
    slowness = seconds_per_byte(net)
    climbed = np.arange(1.0, len(net.tiers) + 1)
    price = climbed if objective == "hops" else slowness / slowness[0]
    return np.append(price, 0.0)[between]  # the last entry is for -1, the device itself


def cluster_flows(transitions: Floats, shares: Floats) -> Floats:
    """Tokens from each cluster of a layer to each of the next, shape (L - 1, C, C).

    Parameters
    ----------
    transitions : (L - 1, E, E)
        Tokens that go from an expert of layer l to one of layer l + 1.
    shares : (L, E, C)
        Part of an expert's tokens that a cluster (the contents of one device) serves.
    """
    return np.asarray(shares[:-1].transpose(0, 2, 1) @ transitions @ shares[1:])


@term(
    "sum over l, e, e' of F[l, e, e'] d(g(l, e), g(l + 1, e'))",
    Ref("MoETuner, arXiv 2502.06643", "section 5, the second program, as a sum over pairs"),
)
def travelled(flows: Floats, device: Ints, distance: Floats) -> Floats:
    """Price of all steps between two layers, shape (L - 1,).

    Parameters
    ----------
    flows : (L - 1, E, E)
        Tokens from an expert, or a cluster, to one of the next layer.
    device : (L, E)
        The device of each.
    distance : (G, G)
        Price of a step, see `distances`.
    """
    steps = distance[device[:-1, :, np.newaxis], device[1:, np.newaxis, :]]
    return np.asarray((flows * steps).sum(axis=(1, 2)))


def local_share(flows: Floats, device: Ints) -> float:
    """Part of all steps that stay on their device: 1 / G for a random placement."""
    stays = device[:-1, :, np.newaxis] == device[1:, np.newaxis, :]
    return float((flows * stays).sum() / flows.sum())


@term(
    "sum over levels of (d_i - d_(i-1)) (all - most that can stay within a domain of level i)",
    Ref("MoETuner, arXiv 2502.06643", "section 5, each level of the tree relaxed by itself"),
)
def least_travelled(flows: Floats, distance: Floats) -> float:
    """Price that no placement can go below.

    At every level of the tree an expert keeps no more steps than the ``s`` strongest, where a
    domain has room for ``s`` of a layer; with one cluster a device the innermost level is an exact
    assignment, which makes the bound tight on a network of one tier.
    """
    from scipy.optimize import linear_sum_assignment

    experts, devices = flows.shape[-1], len(distance)
    slots = experts // devices
    prices = np.unique(distance[0])
    out, into = (-np.sort(-flows, axis=axis) for axis in (2, 1))
    total, below = 0.0, 0.0
    for inner, price in pairwise(prices):
        room = slots * int((distance[0] <= inner).sum())
        if room == 1:
            kept = np.array([f[linear_sum_assignment(-f)].sum() for f in flows])
        else:
            rows, columns = out[:, :, :room].sum(axis=(1, 2)), into[:, :room].sum(axis=(1, 2))
            kept = np.minimum(rows, columns)
        total += (price - below) * float((flows.sum(axis=(1, 2)) - kept).sum())
        below = float(price)
    return total
