"""The front of tokens/s for a user against tokens/s for a device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.serving.deployment import Deployment
from planner.serving.evaluate import whole
from planner.serving.request import Request
from planner.serving.search import Tables, compose

LEVELS = 16
"""Longest times of a token for which the best deployment is sought."""


def front(request: Request, found: Tables) -> list[Deployment]:
    """Deployments that no other beats on both speeds, the fastest for a user first.

    The other targets hold; the one on tpot, where there is one, bounds the front.
    """
    times = np.concatenate(
        [one.tpot[(one.tpot > 0.0) & np.isfinite(one.tpot)] for one in found.tables]
    )
    if not len(times):
        return []
    slowest = min(float(times.max()), request.asked.targets.tpot)
    best: list[Deployment] = []
    most = 0.0
    for level in np.geomspace(times.min(), max(slowest, times.min()), LEVELS):
        asked = replace(request.asked, targets=replace(request.asked.targets, tpot=float(level)))
        deployments = compose(found, request.model, request.means, asked)
        one = max(deployments, key=lambda d: _worth(d, request), default=None)
        if one is not None and _worth(one, request) > most * (1.0 + 1e-9):
            most = _worth(one, request)
            best.append(whole(one, request.model, asked))
    return best


def _worth(found: Deployment, request: Request) -> float:
    """Requests per second for each device that counts."""
    return found.requests / request.means.counted(found.parts)
