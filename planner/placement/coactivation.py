"""Groups of experts of one layer that accompany each other, so that a token reaches few nodes.

Where a token goes once to each node that it needs, two of its experts on one node save one copy.
The groups keep their number of experts and their load: starting from a packing, experts of two
groups change places as long as that brings more company together and the load allows it.  To keep
the tokens of every device in balance as well, the devices of a node are packed afterwards.

Sources: HierMoE, arXiv 2508.09591, section III (what a copy saves); Kernighan and Lin 1970, Bell
System Technical Journal 49(2) (the gain of an exchange).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PASSES = 20
"""Passes over the experts at most; the last changes nothing, five to ten are usual."""
SMALL = 1e-12
"""Gain over an expert's whole company that is taken for rounding."""


def company(routing: Ints, experts: int) -> Floats:
    """Tokens that go to both of two experts, zero on the diagonal, shape (E, E).

    Parameters
    ----------
    routing : (T, K)
        Experts of every token in one layer.
    """
    pairs = routing[:, :, np.newaxis] * experts + routing[:, np.newaxis, :]
    together = np.bincount(pairs.ravel(), minlength=experts**2).reshape(experts, experts)
    np.fill_diagonal(together, 0)
    return together.astype(float)


@term(
    "sum over pairs of experts of a group of the tokens that go to both",
    Ref("Janus, arXiv 2512.13525", "section 4, co-activation a(e, e'), here to be large"),
)
def company_kept(together: Floats, group: Ints) -> Floats:
    """Company inside the groups, each pair once, shape (L,).

    Parameters
    ----------
    together : (L, E, E)
        Tokens that go to both of two experts, see `company`.
    group : (L, E)
        Group of every expert.
    """
    same = group[:, :, np.newaxis] == group[:, np.newaxis, :]
    return np.asarray((together * same).sum(axis=(1, 2)) / 2.0)


def gather(together: Floats, loads: Floats, group: Ints, limit: float) -> Ints:
    """Groups with more company inside, each with as many experts as before, shape (L, E).

    One expert after the other changes places with the one for which that gains most, in all layers
    at once, until no exchange gains.

    Parameters
    ----------
    together : (L, E, E)
        Company of two experts: symmetric, zero on the diagonal.
    loads : (L, E)
        Use of every expert.
    group : (L, E)
        Groups to start from, packed for balance.
    limit
        Largest load of a group over the mean; a group that starts above it gets no more.
    """
    group = group.copy()
    layers, experts = group.shape
    groups = int(group.max()) + 1
    each = np.arange(layers)
    member = np.equal(group[:, :, np.newaxis], np.arange(groups)).astype(float)
    near = together @ member  # company of an expert in each group, shape (L, E, groups)
    load = (loads[:, np.newaxis] @ member)[:, 0]
    ceiling = np.maximum(limit * loads.sum(axis=1, keepdims=True) / groups, load)
    for _ in range(PASSES):
        changed = False
        for expert in range(experts):
            home = group[:, expert]
            there = np.take_along_axis(near[:, expert], group, axis=1)
            back = near[each, :, home]
            stay = np.take_along_axis(near, group[:, :, np.newaxis], axis=2)[:, :, 0]
            gain = there + back - stay - stay[:, [expert]] - 2.0 * together[:, expert]
            more = loads - loads[:, [expert]]  # what the home gains and the other group loses
            fits = load[each, home, np.newaxis] + more <= ceiling[each, home, np.newaxis]
            other = np.take_along_axis(load - ceiling, group, axis=1)
            fits &= other - more <= 0.0
            gain = np.where(fits & (group != home[:, np.newaxis]), gain, 0.0)
            partner = gain.argmax(axis=1)
            worth = np.flatnonzero(gain[each, partner] > SMALL * near[each, expert].sum(axis=1))
            if len(worth):
                _exchange(together, loads, group, near, load, worth, expert, partner[worth])
                changed = True
        if not changed:
            break
    return group


def _exchange(
    together: Floats,
    loads: Floats,
    group: Ints,
    near: Floats,
    load: Floats,
    layers: Ints,
    first: int,
    second: Ints,
) -> None:
    """Let two experts change places in some layers, in the arrays themselves."""
    a, b = group[layers, first], group[layers, second]
    change = together[layers, second] - together[layers, first]
    near[layers, :, a] += change
    near[layers, :, b] -= change
    more = loads[layers, second] - loads[layers, first]
    load[layers, a] += more
    load[layers, b] -= more
    group[layers, first], group[layers, second] = b, a
