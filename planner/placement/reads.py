"""Experts that the busiest device reads in a decode step, by how tokens choose among replicas.

Shared out equally, the tokens of an expert wake most of its replicas, and each is one more to read.
With one replica an expert, chosen anew every step (`activated`), a device reads fewer.
Source: Janus, arXiv 2512.13525, section 4; METRO, arXiv 2512.09277.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.placement.activated import scheduled
from planner.placement.generate import capped

Floats = NDArray[np.float64]

STEPS = 8
"""Drawn steps of each layer."""
SEED = 1912
"""Of those steps."""


@dataclass(frozen=True)
class Reads:
    """Distinct experts of the busiest device, mean over layers and steps."""

    split: float
    """Where replicas share an expert's tokens equally."""
    scheduled: float
    """Where one replica of each expert serves a step."""


def busiest_reads(loads: Floats, shares: Floats, tokens: float, top_k: int) -> Reads:
    """Reads of steps of so many tokens, whose experts are drawn by their loads.

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert, on any scale.
    shares : (L, E, G)
        Part of an expert's tokens that each device serves.
    tokens
        Tokens of a step, over all devices.
    """
    random = np.random.default_rng(SEED)
    both = np.zeros(2)
    for chance, share in zip(capped(loads, top_k), shares, strict=True):
        own = np.minimum(chance[:, np.newaxis] * share, 1.0 - 1e-12)
        awake = random.random((STEPS, *own.shape)) < -np.expm1(tokens * np.log1p(-own))
        used = awake.any(axis=2)
        one = scheduled(used, share > 0)
        both += awake.sum(axis=1).max(axis=1).mean(), one.max(axis=1).mean()
    split, single = both / len(loads)
    return Reads(float(split), float(single))
