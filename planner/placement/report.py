"""A placement as text: a summary with a map of device loads for a terminal, rows for a pipe."""

from __future__ import annotations

from dataclasses import asdict, fields

import numpy as np
from numpy.typing import NDArray

from planner.placement.result import LayerResult, Placement
from planner.units import format_bytes, format_time

Floats = NDArray[np.float64]
Value = float | int | str | None

SHADES = " .,:-=+*#%@"
"""From idle to twice the mean and more; the mean is in the middle."""
FULL = 2.0
ROWS, COLUMNS = 16, 64
"""Largest size of a map; neighbouring layers and devices share a cell, which shows the largest."""


def heat_map(loads: Floats) -> list[str]:
    """Lines of a map of device loads over the mean, layers down, devices across.

    Parameters
    ----------
    loads : (L, G)
        Load of every device over the mean of its layer.
    """
    for axis, most in ((0, ROWS), (1, COLUMNS)):
        size = loads.shape[axis]
        first = np.unique(np.arange(min(size, most)) * size // min(size, most))
        loads = np.maximum.reduceat(loads, first, axis=axis)
    shade = np.clip(np.rint(loads / FULL * (len(SHADES) - 1)), 0, len(SHADES) - 1).astype(int)
    return ["".join(SHADES[cell] for cell in row) for row in shade]


def summary(placement: Placement) -> str:
    """What a person reads on a terminal."""
    p, asked = placement, placement.inputs
    rows: list[tuple[str, str, str]] = [
        ("busiest device / mean", f"{p.balance_before:.3f}", f"{p.balance_after:.4f}"),
    ]
    if p.layer_time_before_s is not None and p.layer_time_after_s is not None:
        times = format_time(p.layer_time_before_s), format_time(p.layer_time_after_s)
        rows.append(("experts and exchange of a layer", *times))
    if p.bytes_by_tier is not None and p.bytes_by_tier_before is not None:
        rows += [
            (f"dispatch over {tier}", format_bytes(p.bytes_by_tier_before[tier]), format_bytes(n))
            for tier, n in p.bytes_by_tier.items()
        ]
    if p.hops_before is not None and p.hops_after is not None:
        rows.append(("tiers climbed between layers", f"{p.hops_before:.3f}", f"{p.hops_after:.3f}"))
    if p.local_before is not None and p.local_after is not None:
        rows.append(("steps that stay", f"{p.local_before:.1%}", f"{p.local_after:.1%}"))
    lines = [
        f"{asked['layers']} layers x {p.experts} experts in {p.slots.shape[1]} slots on"
        f" {p.devices} devices: {p.method}, for {p.objective}",
        f"{'':32}{'before':>12}{'after':>12}",
        *(f"{name:32}{before:>12}{after:>12}" for name, before, after in rows),
        f"bound {p.bound:.4f}, gap {p.gap:.2%} on average, {p.worst_gap:.2%} at worst",
        _drift(placement),
    ]
    if p.reads is not None:
        lines.append(
            f"a step reads {p.reads.split:.1f} experts on the busiest device,"
            f" {p.reads.scheduled:.1f} with one replica of each"
        )
    if p.moved_experts is not None:
        size = "" if p.moved_bytes is None else f", {format_bytes(p.moved_bytes)}"
        took = "" if p.move_time_s is None else f" in {format_time(p.move_time_s)}"
        lines.append(f"moves {p.moved_experts} copies of experts{size}{took}")
    if p.rebalance_every_s is not None:
        lines.append(f"place anew about every {format_time(p.rebalance_every_s)}")
    lines += [f"note: {note}" for note in p.notes]
    return "\n".join([*lines, "", *_maps(placement), f"placed in {p.seconds:.2f} s"])


def _drift(placement: Placement) -> str:
    drift = placement.drift
    origin = "as recorded" if drift.measured else "assumed or given"
    return (
        f"after drift of {drift.deviation:.2f} ({origin}): {drift.balance:.3f},"
        f" {drift.balance_split:.3f} with the best split of tokens"
    )


def _maps(placement: Placement) -> list[str]:
    before, after = (
        heat_map(one) for one in (placement.device_loads_before, placement.device_loads)
    )
    wide = max(map(len, before + after))
    title = f"loads of devices, '{SHADES[0]}' none to '{SHADES[-1]}' twice the mean"
    if 2 * wide + 3 <= 80:
        pairs = (f"{a:{wide}} | {b}" for a, b in zip(before, after, strict=True))
        return [f"{title}: before | after", *pairs]
    return [f"{title}: before", *before, "after", *after]


def table(placement: Placement) -> tuple[list[str], list[list[Value]]]:
    """Names and one row a layer, for a pipe or a spreadsheet."""
    names = [item.name for item in fields(LayerResult)]
    return names, [list(asdict(one).values()) for one in placement.by_layer]
