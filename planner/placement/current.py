"""The placement that runs today, from what serving systems keep.

SGLang's and vLLM's JSON with ``physical_to_logical_map``, TensorRT-LLM's YAML with
``initial_global_assignments``, an array, or a result of this planner.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.placement.loads import Loads

Ints = NDArray[np.int64]


def as_current(found: Any, loads: Loads, devices: int) -> Ints:
    """Expert of every slot now, shape (L, S), from an array or a file.

    Raises
    ------
    PlannerError
        If it cannot be read, is of other layers or experts, misses an expert, or its slots do not
        divide over the devices.
    """
    where = str(found) if isinstance(found, str | Path) else "current"
    data = _read(Path(found), where) if isinstance(found, str | Path) else found
    if isinstance(data, Mapping):
        data = _rows(data, loads, where)
    try:
        table = np.array(data)
        slots = table.astype(np.int64)
    except (ValueError, TypeError):
        raise PlannerError(f"{where}: found rows of different lengths or text.") from None
    if slots.ndim != 2 or (slots != table).any():
        raise PlannerError(f"{where}: found no table of experts by layer and slot, expected one.")
    if len(slots) > len(loads.layers) and max(loads.layers) < len(slots):
        slots = slots[list(loads.layers)]  # SGLang keeps layers without experts too
    if len(slots) != len(loads.layers):
        raise PlannerError(
            f"{where}: found {len(slots)} layers, expected the {len(loads.layers)} of the loads."
        )
    if slots.shape[1] % devices:
        raise PlannerError(
            f"{where}: found {slots.shape[1]} slots, expected a multiple of the {devices} devices."
        )
    if slots.min() < 0 or slots.max() >= loads.experts:
        raise PlannerError(
            f"{where}: found expert {slots.max() if slots.min() >= 0 else slots.min()}, expected"
            f" 0 to {loads.experts - 1}."
        )
    for layer, row in zip(loads.layers, slots, strict=True):
        missing = np.setdiff1d(np.arange(loads.experts), row)
        if len(missing):
            raise PlannerError(
                f"{where}: layer {layer}: found expert {missing[0]} on no device, expected one."
            )
    return slots


def _read(path: Path, where: str) -> Any:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".yaml", ".yml"):
            import yaml

            return yaml.safe_load(text)
        return json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PlannerError(f"{where}: cannot be read: {reason.lower()}.") from None
    except Exception as error:  # the parsers' own errors
        raise PlannerError(f"{where}: cannot be read: {' '.join(str(error).split())}.") from None


def _rows(data: Mapping[str, Any], loads: Loads, where: str) -> Any:
    if "physical_to_logical_map" in data:
        return data["physical_to_logical_map"]
    assigned = data.get("initial_global_assignments")
    if isinstance(assigned, Mapping):
        by_layer = {int(layer): row for layer, row in assigned.items()}
        missing = [layer for layer in loads.layers if layer not in by_layer]
        if missing:
            raise PlannerError(f"{where}: found no layer {missing[0]}, expected all of the loads.")
        return [by_layer[layer] for layer in loads.layers]
    raise PlannerError(
        f"{where}: found none of physical_to_logical_map and initial_global_assignments,"
        " expected one."
    )
