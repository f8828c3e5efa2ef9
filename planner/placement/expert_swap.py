"""Expert swap: exchange two experts at a time until the hierarchical dispatch gets no faster.

Unlike grouping by pairs (`coactivation`) this counts recorded tokens exactly: which tokens a domain
loses and gains when experts r and c change places, for all pairs at once and at all levels.
Source: HierMoE, arXiv 2508.09591, section IV (the counts, and the smooth maximum).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.placement.reach import counted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHARPNESS = 10.0
"""Exponent of the smooth maximum over domains (HierMoE, section IV; it beats the plain one)."""


@dataclass(frozen=True)
class Level:
    """One exchange of a hierarchical all-to-all."""

    domain: Ints
    """Domain of every device, shape (G,)."""
    price: float
    """Seconds, or any other cost, of one copy of every token."""

    @property
    def domains(self) -> int:
        return int(self.domain.max()) + 1


@term(
    "sum over levels of price_i R_i M (sum over j of (P_ij / M)^10)^(1/10), M = max of P_ij",
    Ref("HierMoE, arXiv 2508.09591", "section IV, smooth maximum"),
)
def dispatch_price(routing: Ints, device: Ints, levels: Sequence[Level]) -> float:
    """Cost of all exchanges with the busiest domain of each.

    Parameters
    ----------
    routing : (T, K)
        Experts of every token in one layer.
    device : (E,)
        Device of every expert.
    """
    total = 0.0
    for level in levels:
        reach = counted(routing, level.domain[device], level.domains)
        powers = float(((reach / reach.max()) ** SHARPNESS).sum())
        total += level.price * level.domains * float(reach.max()) * powers ** (1.0 / SHARPNESS)
    return total


def swap_experts(routing: Ints, device: Ints, levels: Sequence[Level], rounds: int = 64) -> Ints:
    """Device of every expert after the best exchanges, at most ``rounds``, shape (E,).

    Every device keeps its number of experts.  A round costs O(T K (K + R) + E^2).
    """
    device = device.copy()
    now = dispatch_price(routing, device, levels)
    for _ in range(rounds):
        prices = sum(level.price * _after(routing, device, level) for level in levels)
        first, second = divmod(int(np.argmin(prices)), len(device))
        swapped = device.copy()
        swapped[[first, second]] = device[[second, first]]
        then = dispatch_price(routing, swapped, levels)
        if not then < now * (1.0 - 1e-12):
            break
        device, now = swapped, then
    return device


def _after(routing: Ints, device: Ints, level: Level) -> Floats:
    """Copies of the busiest domain, smoothly, after exchanging r and c, shape (E, E)."""
    domain = level.domain[device]
    change = _change(routing, domain, level.domains)
    tokens = counted(routing, domain, level.domains) * len(routing)
    scale = tokens.max()
    powers = (tokens / scale) ** SHARPNESS
    own = tokens[domain, np.newaxis] + change
    moved = (own / scale) ** SHARPNESS - powers[domain, np.newaxis]
    apart = domain[:, np.newaxis] != domain
    smooth = (powers.sum() + np.where(apart, moved + moved.T, 0.0)) ** (1.0 / SHARPNESS)
    return np.asarray(level.domains * scale / len(routing) * smooth)


def _change(routing: Ints, domain: Ints, domains: int) -> Floats:
    """Tokens that r's domain gains when c takes r's place, shape (E, E) over r and c.

    It loses those that came for r alone, unless they need c too, and gains those of c that did not
    come before.
    """
    tokens = len(routing)
    experts = len(domain)
    reached = domain[routing]
    row = np.arange(tokens)[:, np.newaxis]
    count = np.bincount((row * domains + reached).ravel(), minlength=tokens * domains)
    count = count.reshape(tokens, domains)
    alone = count[row, reached] == 1
    lost = np.bincount(routing[alone], minlength=experts)
    pairs = routing[:, :, np.newaxis] * experts + routing[:, np.newaxis, :]
    both = np.bincount(pairs[alone].ravel(), minlength=experts**2).reshape(experts, experts)
    uses = np.zeros((tokens, experts), dtype=np.float32)
    uses[row, routing] = 1.0
    new = uses.T @ (count == 0).astype(np.float32)
    return np.asarray(new[:, domain].T - lost[:, np.newaxis] + both, dtype=float)
