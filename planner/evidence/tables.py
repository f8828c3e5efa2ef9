"""Tables of published measurements: one row is one measured value of one run.

The columns are those of ``data/SOURCES.md``; an empty cell means that the source does not say.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import PlannerError

DATA = Path(__file__).parent / "data"
"""The project's own copy of the public tables."""

TRAINING_TABLES = ("training", "training_oom")
KERNEL_TABLE = "kernels"
SERVING_TABLE = "serving"

TIME_METRICS = ("iteration_s", "tokens_per_s_per_device")
UTILISATION_METRICS = ("model_tflops_per_device", "hardware_tflops_per_device", "mfu")
MEMORY_METRICS = ("peak_memory_bytes",)
LATENCY_METRICS = tuple(
    f"{name}_{kind}_s" for name in ("ttft", "tpot") for kind in ("mean", "p50", "p99")
)
RATE_METRICS = tuple(f"{kind}_tokens_per_s_per_device" for kind in ("output", "input", "total"))
SERVING_METRICS = (*LATENCY_METRICS, *RATE_METRICS)
TRAINING_METRICS = (*TIME_METRICS, *UTILISATION_METRICS, *MEMORY_METRICS, "oom")

_NUMBERS = (
    *("num_devices", "devices_per_node", "seq_len", "global_batch", "micro_batch", "tp", "pp"),
    *("vpp", "cp", "ep", "etp", "dp", "zero"),
)
_TEXTS = (
    *("id", "source", "model", "accelerator", "sequence_parallel", "recompute", "precision"),
    *("schedule", "method", "metric", "notes"),
)


@dataclass(frozen=True)
class Row:
    """One measured value; None or ``""`` where the source does not state something."""

    id: str
    source: str
    model: str
    accelerator: str
    metric: str
    value: float
    sequence_parallel: str
    recompute: str
    precision: str
    schedule: str
    method: str
    notes: str
    assumed: frozenset[str]
    """What a predictor must choose because the source does not say."""
    num_devices: int | None
    devices_per_node: int | None
    seq_len: int | None
    global_batch: int | None
    micro_batch: int | None
    tp: int | None
    pp: int | None
    vpp: int | None
    cp: int | None
    ep: int | None
    etp: int | None
    dp: int | None
    zero: int | None


def read_training(path: Path) -> list[Row]:
    """Read a training table.

    Raises
    ------
    PlannerError
        When a column is missing or a cell is not the number that it should be.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        wanted = {*_NUMBERS, *_TEXTS, "value", "assumed"}
        missing = sorted(wanted - set(reader.fieldnames or ()))
        if missing:
            raise PlannerError(
                f"{path}: found no column {missing[0]!r}, expected a training table."
            )
        return [_row(path, number, cells) for number, cells in enumerate(reader, start=2)]


def _row(path: Path, line: int, cells: dict[str, str]) -> Row:
    def number(name: str) -> int | None:
        text = (cells[name] or "").strip()
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            message = f"{path}: line {line}, {name}: found {text!r}, expected a whole number."
            raise PlannerError(message) from None

    text = (cells["value"] or "").strip()
    if not text and cells["metric"] == "oom":
        text = "1"
    try:
        value = float(text)
    except ValueError:
        raise PlannerError(
            f"{path}: line {line}, value: found {text!r}, expected a number."
        ) from None
    cells_by_name: dict[str, Any] = {name: (cells[name] or "").strip() for name in _TEXTS}
    cells_by_name |= {name: number(name) for name in _NUMBERS}
    assumed = frozenset(filter(None, (cells["assumed"] or "").split(";")))
    return Row(value=value, assumed=assumed, **cells_by_name)
