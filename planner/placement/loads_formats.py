"""Files that loads come in: tables, and what serving systems record.

=========================== ====================================================================
``.csv``                    one row a layer and one column an expert, with a header or not; or
                            the columns ``layer``, ``expert``, ``count`` in any order
``.json`` of SGLang         ``logical_count``, [layers][experts] or [steps][layers][experts]
``.json`` of vLLM           ``load_history``, a list of windows with ``logical_expert_load``
``meta_info.json`` or its   TensorRT-LLM's expert statistic: ``num_experts`` beside
folder                      ``rank*.safetensors`` with one count of the experts for
                            ``<iteration>_<layer>``
``.npy``, ``.npz``          ``logical_count`` [layers, experts] or [steps, layers, experts];
                            ``routing`` [tokens, layers, k]; SGLang's ``topk_ids_of_layer``
                            [layers, tokens, k]; vLLM's ``expert_load_window`` [windows,
                            layers, slots] with its ``physical_to_logical_map``
=========================== ====================================================================
"""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.placement.loads import Loads, check_loads, moe_layers
from planner.specs.model import ModelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LONG = ("layer", "expert", "count")
MOST_EXPERTS_OF_A_TOKEN = 32
"""A last axis of whole numbers longer than this is taken for experts, not for a token's choice."""
SAFETENSORS = {"I64": "<i8", "I32": "<i4", "F32": "<f4", "U8": "u1"}
"""NumPy's names of the types in a safetensors file."""


def read_loads(path: str | Path, model: ModelSpec | None = None) -> Loads:
    """Loads from a file in any of the formats above.

    Raises
    ------
    PlannerError
        If the file cannot be read, is of no known format, or its counts are wrong.
    """
    target = Path(path)
    where = str(path)
    try:
        if target.is_dir() or target.name == "meta_info.json":
            return _tensorrt_llm(target if target.is_dir() else target.parent, where, model)
        if target.suffix == ".csv":
            return _csv(target.read_text(encoding="utf-8-sig"), where, model)
        if target.suffix == ".json":
            return _json(json.loads(target.read_text(encoding="utf-8")), where, model)
        if target.suffix in (".npy", ".npz"):
            return _arrays(np.load(target, allow_pickle=False), where, model)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text or no array"
        raise PlannerError(f"{where}: cannot be read: {reason.lower()}.") from None
    except ValueError as error:
        text = " ".join(str(error).split())
        raise PlannerError(f"{where}: cannot be read: {text}.") from None
    told = " (save its logical_count with numpy.save)" if target.suffix == ".pt" else ""
    raise PlannerError(
        f"{where}: found {target.suffix or 'no ending'}, expected .csv, .json, .npy, .npz or a"
        f" folder of TensorRT-LLM's statistic{told}."
    )


def _csv(text: str, where: str, model: ModelSpec | None) -> Loads:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
    if not rows:
        raise PlannerError(f"{where}: found nothing, expected counts.")
    header = [cell.lower() for cell in rows[0]]
    if set(LONG) <= set(header):
        return _long(rows, header, where, model)
    named = not _is_number(rows[0][-1])
    body = rows[1:] if named else rows
    labelled = named and header[0] in ("layer", "layers", "")
    if len({len(row) for row in rows}) > 1:
        line = next(i for i, row in enumerate(rows) if len(row) != len(rows[0]))
        raise PlannerError(
            f"{where}: row {line + 1}: found {len(rows[line])} columns, expected"
            f" {len(rows[0])} as in the first."
        )
    numbers = [[_number(cell, where, i) for cell in row] for i, row in enumerate(body)]
    if not numbers:
        raise PlannerError(f"{where}: found a header and no counts, expected one row a layer.")
    layers = [int(row.pop(0)) for row in numbers] if labelled else None
    return check_loads(numbers, where=where, layers=layers, model=model)


def _long(rows: list[list[str]], header: list[str], where: str, model: ModelSpec | None) -> Loads:
    columns = [header.index(name) for name in LONG]
    if any(len(row) != len(header) for row in rows):
        raise PlannerError(f"{where}: found rows of different lengths, expected {len(header)}.")
    body = [[_number(row[c], where, i) for c in columns] for i, row in enumerate(rows[1:])]
    table = np.array(body).reshape(-1, 3)
    for name, column in zip(LONG[:2], table.T, strict=False):
        if ((column < 0) | (column != np.floor(column))).any():
            raise PlannerError(f"{where}: {name}: found {column.min():g}, expected its number.")
    layers, row = np.unique(table[:, 0].astype(np.int64), return_inverse=True)
    expert = table[:, 1].astype(np.int64)
    experts = int(expert.max(initial=-1)) + 1
    if model is not None:
        experts = max(experts, next(iter(moe_layers(model).values())).experts)
    if len({*zip(row.tolist(), expert.tolist(), strict=True)}) < len(expert):
        raise PlannerError(f"{where}: found an expert of a layer twice, expected once.")
    counts = np.zeros((len(layers), experts))
    counts[row, expert] = table[:, 2]
    return check_loads(counts, where=where, layers=layers.tolist(), model=model)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, where: str, row: int) -> float:
    if not _is_number(cell):
        raise PlannerError(f"{where}: row {row + 1}: found {cell!r}, expected a number.")
    return float(cell)


def _json(data: Any, where: str, model: ModelSpec | None) -> Loads:
    if isinstance(data, Mapping) and "logical_count" in data:
        data = data["logical_count"]
        return check_loads(data, where=f"{where}: logical_count", model=model, idle_layers=True)
    if isinstance(data, Mapping) and isinstance(data.get("load_history"), list):
        history = [
            one.get("logical_expert_load") if isinstance(one, Mapping) else None
            for one in data["load_history"]
        ]
        place = f"{where}: load_history"
        if None in history:
            raise PlannerError(f"{place}: found a window without logical_expert_load.")
        return check_loads(history, where=place, model=model, idle_layers=True)
    if isinstance(data, list):
        return check_loads(data, where=where, model=model, idle_layers=True)
    raise PlannerError(
        f"{where}: found none of logical_count (SGLang) and load_history (vLLM), expected one."
    )


def _arrays(found: Any, where: str, model: ModelSpec | None) -> Loads:
    if isinstance(found, np.ndarray):
        if _is_routing(found):
            return _routed(found.transpose(1, 0, 2), where, model)
        return check_loads(found, where=where, model=model, idle_layers=True)
    arrays = {name: found[name] for name in found.files}
    if "routing" in arrays:
        return _routed(arrays["routing"].transpose(1, 0, 2), where, model)
    if "topk_ids_of_layer" in arrays:
        return _routed(arrays["topk_ids_of_layer"], where, model)
    if "logical_count" in arrays:
        return check_loads(arrays["logical_count"], where=where, model=model, idle_layers=True)
    if {"expert_load_window", "physical_to_logical_map"} <= arrays.keys():
        counts = _logical(arrays["expert_load_window"], arrays["physical_to_logical_map"])
        return check_loads(counts, where=where, model=model, idle_layers=True)
    raise PlannerError(
        f"{where}: found the arrays {', '.join(arrays) or 'none'}, expected logical_count, routing,"
        " topk_ids_of_layer, or expert_load_window with physical_to_logical_map."
    )


def _is_routing(found: NDArray[Any]) -> bool:
    """Whether a table of whole numbers holds different experts in every row."""
    whole = found.ndim == 3 and np.issubdtype(found.dtype, np.integer)
    if not whole or found.shape[2] > MOST_EXPERTS_OF_A_TOKEN:
        return False
    ordered = np.sort(found, axis=2)
    return bool((ordered[:, :, 1:] != ordered[:, :, :-1]).all() and found.shape[2] > 1)


def _routed(routing: NDArray[Any], where: str, model: ModelSpec | None) -> Loads:
    """Counts from the experts of every token, (L, T, K); -1 stands where a layer has none."""
    if routing.ndim != 3 or not np.issubdtype(routing.dtype, np.integer) or not routing.size:
        raise PlannerError(
            f"{where}: found an array of shape {routing.shape} of {routing.dtype}, expected the"
            " expert numbers of tokens, layers and choices."
        )
    used = routing.max(axis=(1, 2)) >= 0
    chosen = routing[used].astype(np.int64)
    if not used.any() or chosen.min() < 0:
        raise PlannerError(f"{where}: found an expert below 0, expected its number.")
    experts = int(chosen.max()) + 1
    if model is not None:
        known = next(iter(moe_layers(model).values())).experts
        if experts > known:
            raise PlannerError(
                f"{where}: found expert {experts - 1}, expected the {known} of {model.name}."
            )
        experts = known
    counts = np.array([np.bincount(one.ravel(), minlength=experts) for one in chosen])
    layers = None if used.all() else np.flatnonzero(used).tolist()
    return check_loads(counts, where=where, layers=layers, model=model, routing=chosen)


def _logical(windows: NDArray[Any], slots: NDArray[Any]) -> Floats:
    """Loads of experts from those of their slots, (W, L, E)."""
    experts = int(slots.max()) + 1
    counts = np.zeros((*windows.shape[:2], experts))
    for layer, expert in enumerate(slots):
        np.add.at(counts[:, layer].T, expert, windows[:, layer].T)
    return counts


def _tensorrt_llm(folder: Path, where: str, model: ModelSpec | None) -> Loads:
    """Counts of all ranks by iteration and layer."""
    meta = json.loads((folder / "meta_info.json").read_text(encoding="utf-8"))
    experts = meta.get("num_experts") if isinstance(meta, Mapping) else None
    files = [f for f in sorted(folder.glob("rank*.safetensors")) if not f.stem.endswith("_raw")]
    if not isinstance(experts, int) or not files:
        raise PlannerError(
            f"{where}: found no num_experts or no rank*.safetensors, expected TensorRT-LLM's"
            " expert statistic."
        )
    counts: dict[tuple[int, int], Floats] = {}
    for file in files:
        for name, values in _safetensors(file):
            iteration, _, layer = name.partition("_")
            if not (iteration.isdigit() and layer.isdigit()) or len(values) != experts:
                raise PlannerError(
                    f"{file}: found {name!r} of {len(values)} numbers, expected"
                    f" <iteration>_<layer> of {experts}."
                )
            key = int(iteration), int(layer)
            counts[key] = counts.get(key, np.zeros(experts)) + values
    iterations = sorted({i for i, _ in counts})
    layers = sorted({layer for _, layer in counts})
    table = np.zeros((len(iterations), len(layers), experts))
    for (step, number), total in counts.items():
        table[iterations.index(step), layers.index(number)] = total
    return check_loads(table, where=where, layers=layers, model=model)


def _safetensors(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Names and one-dimensional arrays of a file: a length, a JSON header, the numbers."""
    data = path.read_bytes()
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        for name, item in header.items():
            if name != "__metadata__":
                first, last = (8 + size + end for end in item["data_offsets"])
                yield name, np.frombuffer(data[first:last], SAFETENSORS[item["dtype"]])
    except (struct.error, KeyError, TypeError, ValueError) as error:
        raise PlannerError(f"{path}: found no whole safetensors file ({error!r}).") from None
