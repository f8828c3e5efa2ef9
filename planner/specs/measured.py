"""Measured parameters of kernels and collectives: a device's own, or borrowed from a relative.

Efficiencies and launch costs are properties of the software more than of the chip, so a device
without measurements copies its nearest relative's.  Collective lines of a relative are scaled: the
bandwidths in the ratio of the links, the latencies kept.  A borrowed parameter says ``like NAME``
and has no error of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from planner.specs.blocks import Place, Value, require
from planner.specs.hardware import CollectiveLine, SmoothRoofline

ROOFLINE_FIELDS = ("compute", "memory", "launch", "smoothness")
LINE_FIELDS = ("base", "step", "low_bandwidth", "switch", "bandwidth")
OPTIONAL_FIELDS = ("head_dim_exponent", "error")

Kernels = dict[str, dict[str, SmoothRoofline]]
Lines = dict[str, CollectiveLine]


def read_kernels(place: Place, values: Mapping[str, Value]) -> Kernels:
    """The parameters under ``kernels`` by family and datatype."""
    kernels: Kernels = {}
    for name, fields in _groups(values, "kernels").items():
        family, dtype = name.split(".")
        parameters = _parameters(place / f"kernels.{name}", fields, ROOFLINE_FIELDS)
        kernels.setdefault(family, {})[dtype] = SmoothRoofline(**parameters)
    return kernels


def read_lines(place: Place, values: Mapping[str, Value]) -> Lines:
    """The parameters under ``collectives`` by operation."""
    return {
        operation: CollectiveLine(
            **_parameters(place / f"collectives.{operation}", fields, LINE_FIELDS)
        )
        for operation, fields in _groups(values, "collectives").items()
    }


def borrow_kernels(own: Kernels, relative: Kernels, name: str) -> Kernels:
    """``own``, and those of the relative called ``name`` for families and datatypes without."""
    borrowed = {
        family: {dtype: replace(k, source=f"like {name}", error=None) for dtype, k in by.items()}
        for family, by in relative.items()
    }
    return {
        family: {**borrowed.get(family, {}), **own.get(family, {})}
        for family in {**borrowed, **own}
    }


def borrow_lines(
    own: Lines, relative: Mapping[str, CollectiveLine], ratio: float, name: str
) -> Lines:
    """``own``, and the relative's on a link ``ratio`` times as fast for operations without."""
    borrowed = {
        operation: replace(scale_line(line, ratio), source=f"like {name}", error=None)
        for operation, line in relative.items()
    }
    return {**borrowed, **own}


def scale_line(line: CollectiveLine, ratio: float) -> CollectiveLine:
    """The line on a link ``ratio`` times as fast: bandwidths scale, latencies stay."""
    return replace(line, low_bandwidth=line.low_bandwidth * ratio, bandwidth=line.bandwidth * ratio)


def _groups(values: Mapping[str, Value], head: str) -> dict[str, dict[str, Value]]:
    """``{"gemm.bf16": {"compute": ...}}`` from the names that start with ``head``."""
    groups: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        if name.startswith(f"{head}."):
            group, _, field = name[len(head) + 1 :].rpartition(".")
            groups.setdefault(group, {})[field] = value
    return groups


def _parameters(place: Place, fields: Mapping[str, Value], names: Sequence[str]) -> dict[str, Any]:
    """Arguments of a SmoothRoofline or CollectiveLine."""
    require(place, fields, names)
    given = [name for name in (*names, *OPTIONAL_FIELDS) if name in fields]
    return {**{name: fields[name].value for name in given}, "source": fields[names[0]].source}
