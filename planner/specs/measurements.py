"""Measured times of kernels and collectives as a table: its columns, its shapes, how it is read.

One row is one time.  The columns are ``op, accelerator, library, dtype, shape, latency_s``; a shape
is ``key=value`` pairs joined by semicolons, a library its name and version.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.specs.folders import near

COLUMNS = ("op", "accelerator", "library", "dtype", "shape", "latency_s")
_IGNORED = ("source", "notes", "id")
"""Columns that a table may have besides."""

SHAPES: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "attention_prefill": (
        "batch", "query_len", "cached_len", "heads", "kv_heads", "head_dim", "kv_dtype", "window",
    ),
    "attention_decode": (
        "batch", "kv_len", "heads", "kv_heads", "head_dim", "kv_dtype", "window",
    ),
    "mla_prefill": ("batch", "query_len", "cached_len", "heads", "kv_dtype"),
    "mla_decode": ("batch", "kv_len", "heads", "kv_dtype"),
    "moe": (
        "tokens", "hidden", "expert_width", "topk", "experts", "moe_tp", "ep", "routing", "kernel",
    ),
    "memory": ("bytes",),
    "nccl": ("collective", "ranks", "bytes"),
    "custom_allreduce": ("ranks", "bytes", "kernel"),
    "deepep_ll_dispatch": ("nodes", "ranks", "tokens_per_rank", "hidden", "topk", "experts"),
    "deepep_ll_combine": ("nodes", "ranks", "tokens_per_rank", "hidden", "topk", "experts"),
}  # fmt: skip
"""Parts of a shape by operation, in the order in which a table writes them."""

TEXTS = ("kv_dtype", "routing", "kernel", "collective")
_UNSAID: dict[str, Any] = {"window": 0, "cached_len": 0, "kernel": ""}
"""Parts that a shape may leave out, and what that means."""

_Row = tuple[dict[str, Any], float, int, str]
"""Shape, time [s], line of the file, shape as written."""


@dataclass(frozen=True)
class Group:
    """Rows of one operation, device, library and datatype, as arrays of shape ``(n,)``."""

    op: str
    accelerator: str
    library: str
    dtype: str
    shape: Mapping[str, NDArray[Any]]
    seconds: NDArray[np.float64]
    lines: NDArray[np.int64]
    """Lines of the file."""
    texts: NDArray[np.object_]
    """The shapes as written."""

    @property
    def name(self) -> str:
        """What the rows are of, for reports."""
        return f"{self.op}, {self.accelerator}, {self.library}, {self.dtype}"

    def take(self, rows: NDArray[np.bool_]) -> Group:
        """Some of the rows, by a mask of shape ``(n,)``."""
        shape = {name: values[rows] for name, values in self.shape.items()}
        return replace(
            self,
            shape=shape,
            seconds=self.seconds[rows],
            lines=self.lines[rows],
            texts=self.texts[rows],
        )


def shape_of(text: str) -> str:
    """The shape without the kernel that a library chose for it.

    >>> shape_of("ranks=8;bytes=1024;kernel=one-shot")
    'ranks=8;bytes=1024'
    """
    return text.partition(";kernel=")[0]


def read(path: Path) -> list[Group]:
    """The rows of a measurement table by operation, device, library and datatype.

    Raises
    ------
    PlannerError
        Naming the file, the line and the cell: an unknown or missing column, operation or part of
        a shape, or a time that is not positive.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _check_columns(path, reader.fieldnames or ())
            found: dict[tuple[str, str, str, str], list[_Row]] = {}
            for cells in reader:
                line = reader.line_num
                op, device, library, dtype = (
                    str(cells[name] or "").strip() for name in COLUMNS[:4]
                )
                shape, latency = _row(f"{path}: line {line}", cells)
                rows = found.setdefault((op, device, library, dtype), [])
                rows.append((shape, latency, line, cells["shape"]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlannerError(f"{path}: cannot be read as CSV: {error}") from error
    if not found:
        raise PlannerError(f"{path}: found no rows, expected measured times")
    return [_group(key, rows) for key, rows in found.items()]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([*(row[name] for name in COLUMNS[:-1]), f"{row['latency_s']:.6g}"])


def _check_columns(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if name not in (*COLUMNS, *_IGNORED):
            raise PlannerError(
                f"{path}: unknown column {name!r}{near(str(name), COLUMNS)}; "
                f"expected {', '.join(COLUMNS)}, times in seconds"
            )
    for name in COLUMNS:
        if name not in names:
            raise PlannerError(
                f"{path}: missing column {name!r}; expected {', '.join(COLUMNS)}, times in seconds"
            )


def _row(where: str, cells: Mapping[Any, Any]) -> tuple[dict[str, Any], float]:
    if None in cells:
        raise PlannerError(f"{where}: found {cells[None]} after the last column, expected nothing")
    operation = (cells["op"] or "").strip()
    if operation not in SHAPES:
        raise PlannerError(
            f"{where}: op: found {operation!r}{near(operation, SHAPES)}, "
            f"expected one of: {', '.join(SHAPES)}"
        )
    shape = _shape(f"{where}: shape", operation, cells["shape"] or "")
    try:
        latency = float(cells["latency_s"])
    except (TypeError, ValueError):
        latency = 0.0
    if not 0.0 < latency < 1e6:
        raise PlannerError(
            f"{where}: latency_s: found {cells['latency_s']!r}, expected a positive time in seconds"
        )
    return shape, latency


def _shape(where: str, operation: str, text: str) -> dict[str, Any]:
    known = SHAPES[operation]
    shape: dict[str, Any] = {name: _UNSAID[name] for name in known if name in _UNSAID}
    seen: set[str] = set()
    for pair in filter(None, text.split(";")):
        name, _, value = pair.partition("=")
        if name not in known:
            raise PlannerError(
                f"{where}: found {pair!r}{near(name, known)}, expected {', '.join(known)}"
            )
        if name in seen:
            raise PlannerError(f"{where}: found {pair!r}, expected {name} once")
        seen.add(name)
        if name in TEXTS:
            if not value and name not in _UNSAID:
                raise PlannerError(f"{where}: found {pair!r}, expected a word")
            shape[name] = value
            continue
        try:
            shape[name] = int(value)
        except ValueError:
            raise PlannerError(f"{where}: found {pair!r}, expected a whole number") from None
        if shape[name] < (0 if name in _UNSAID else 1):
            raise PlannerError(f"{where}: found {pair!r}, expected a positive number")
    for name in known:
        if name not in shape:
            raise PlannerError(f"{where}: found {text!r}, expected {name}=... in it")
    return shape


def _group(key: tuple[str, str, str, str], rows: list[_Row]) -> Group:
    shapes, seconds, lines, texts = zip(*rows, strict=True)
    shape = {
        name: np.array([one[name] for one in shapes], dtype=object if name in TEXTS else float)
        for name in SHAPES[key[0]]
    }
    columns = np.array(seconds), np.array(lines), np.array(texts, dtype=object)
    return Group(*key, shape, *columns)
