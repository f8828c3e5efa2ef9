"""Better machines: a cluster with one of its numbers a tenth better, to ask what would help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.specs.fits import scale_line
from planner.specs.hardware import Cluster, Tier

TENTH = 0.1
"""Relative size of a change."""


def better_clusters(cluster: Cluster) -> Iterator[tuple[str, Cluster]]:
    """The cluster with each number a tenth better, and what was changed."""
    device, more = cluster.accelerator, 1.0 + TENTH
    peaks = {dtype: rate * more for dtype, rate in device.peak.items()}
    power = None if device.power is None else device.power * more
    stronger = replace(device, peak=peaks, power=power)
    yield "+10 % peak compute and power", replace(cluster, accelerator=stronger)
    faster = replace(device, memory_bandwidth=device.memory_bandwidth * more)
    yield "+10 % memory bandwidth", replace(cluster, accelerator=faster)
    for index, tier in enumerate(cluster.tiers):
        for text, changed in (
            (f"+10 % bandwidth of {tier.name}", wider(tier, more)),
            (f"-10 % latency of {tier.name}", _quicker(tier)),
        ):
            tiers = (*cluster.tiers[:index], changed, *cluster.tiers[index + 1 :])
            yield text, replace(cluster, tiers=tiers)


def _quicker(tier: Tier) -> Tier:
    less = 1.0 - TENTH
    lines = {
        name: replace(line, base=line.base * less, step=line.step * less, switch=line.switch * less)
        for name, line in tier.collectives.items()
    }
    return replace(tier, latency=tier.latency * less, collectives=lines)


def wider(tier: Tier, factor: float) -> Tier:
    """The tier with every bandwidth multiplied by ``factor``; latencies stay."""
    return replace(
        tier,
        bandwidth=tier.bandwidth * factor,
        pair_bandwidth=tier.pair_bandwidth * factor,
        collectives={name: scale_line(line, factor) for name, line in tier.collectives.items()},
    )
