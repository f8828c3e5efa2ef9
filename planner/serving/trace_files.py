"""Request traces as they are published: Azure's CSV and Mooncake's JSONL.

Whatever is wrong with a file is one sentence that names the file and the line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planner.errors import PlannerError
from planner.layers.inference import Array

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE = ("timestamp", "input_length", "output_length")
BLOCK = 512
"""Tokens that one of Mooncake's ``hash_ids`` stands for (arXiv 2407.00079, section 4)."""
MOST = 1e15
"""Largest number that a trace may hold."""


@dataclass(frozen=True)
class Requests:
    """All requests of a trace; arrays ``(requests,)``."""

    arrivals: Array
    """Since the first [s]."""
    isl: Array
    osl: Array
    hit: float = 0.0
    """Part of all input tokens that a prefix cache without end would hold already."""


@dataclass(frozen=True)
class _Column:
    """The cells of a column and the lines that they stand in."""

    path: Path
    name: str
    lines: Sequence[int]
    cells: Sequence[Any]

    def wrong(self, index: int, expected: str) -> PlannerError:
        return _wrong(self.path, self.lines[index], self.cells[index], expected, f", {self.name}")

    def numbers(self) -> Array:
        """All cells as numbers, none negative."""
        found = np.array([_number(cell) for cell in self.cells])
        bad = ~((found >= 0.0) & (found <= MOST))
        if bad.any():
            raise self.wrong(int(bad.argmax()), "a number that is not negative")
        return found

    def tokens(self) -> Array:
        """All cells as whole numbers."""
        found = self.numbers()
        bad = found != np.rint(found)
        if bad.any():
            raise self.wrong(int(bad.argmax()), "whole tokens")
        return found

    def dates(self) -> Array:
        """All cells as ISO dates [s]; a time zone is left out."""
        found = np.empty(len(self.cells), dtype="datetime64[ns]")
        for index, cell in enumerate(self.cells):
            try:
                found[index] = np.datetime64(cell.strip().removesuffix("+00:00"), "ns")
            except ValueError:
                found[index] = np.datetime64("NaT")
        bad = np.isnat(found)
        if bad.any():
            raise self.wrong(int(bad.argmax()), "a time such as 2023-11-16 18:17:03.979")
        return np.asarray((found - found[:1]) / np.timedelta64(1, "s"))

    def since_first(self, times: Array) -> Array:
        """Times of the cells since the first one, in order."""
        bad = np.diff(times, prepend=times[:1]) < 0.0
        if bad.any():
            raise self.wrong(int(bad.argmax()), "a time not before that of the line above")
        return np.asarray(times - times[:1])


def _number(cell: object) -> float:
    """A cell as a number, nan where it is none."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return np.nan
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return np.nan


def read_azure(path: Path) -> Requests:
    """CSV with the columns of ``AZURE``; times are ISO dates, or numbers [s].

    Raises
    ------
    PlannerError
        If the file is not that.
    """
    reader = csv.reader(_lines(path))
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in AZURE:
            if name not in header:
                raise PlannerError(f"{path}, line 1: found no column {name!r}, expected it.")
        for row in filter(None, reader):
            if len(row) != len(header):
                count = f"{len(header)} cells"
                raise _wrong(path, reader.line_num, ",".join(row), count)
            lines.append(reader.line_num)
            rows.append(row)
    except csv.Error as error:
        raise PlannerError(
            f"{path}, line {reader.line_num}: found {error}, expected comma-separated values."
        ) from error
    where = [header.index(name) for name in AZURE]
    times, isl, osl = (
        _Column(path, name, lines, [row[column] for row in rows])
        for name, column in zip(AZURE, where, strict=True)
    )
    dated = any(":" in cell for cell in times.cells[:1])
    arrivals = times.since_first(times.dates() if dated else times.numbers())
    return _requests(path, arrivals, isl.tokens(), osl.tokens())


def read_mooncake(path: Path) -> Requests:
    """JSON objects, one a line, with the fields of ``MOONCAKE``, times in ms, maybe ``hash_ids``.

    Raises
    ------
    PlannerError
        If the file is not that.
    """
    filled = [(line, text) for line, text in enumerate(_lines(path), start=1) if text.strip()]
    lines = [line for line, _ in filled]
    rows = [_mooncake_row(path, line, text) for line, text in filled]
    times, isl, osl = (_Column(path, name, lines, [row[name] for row in rows]) for name in MOONCAKE)
    arrivals, tokens = times.since_first(times.numbers()), isl.tokens()
    hit = _hit(tokens, [row.get("hash_ids", []) for row in rows])
    return _requests(path, 1e-3 * arrivals, tokens, osl.tokens(), hit)


def _mooncake_row(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, line, text, "a whole JSON object") from error
    if not isinstance(row, dict):
        raise _wrong(path, line, row, "a JSON object")
    for name in MOONCAKE:
        if name not in row:
            raise PlannerError(f"{path}, line {line}: found no field {name!r}, expected it.")
    ids = row.get("hash_ids", [])
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise _wrong(path, line, ids, "a list of whole numbers", ", hash_ids")
    return row


def _hit(isl: Array, hashes: Sequence[Sequence[int]]) -> float:
    """Part of the input in blocks that an earlier request began with too.

    A block's number stands for all before it as well; one token is always computed.
    """
    seen: set[int] = set()
    found = np.zeros(len(hashes))
    for index, blocks in enumerate(hashes):
        new = next((at for at, block in enumerate(blocks) if block not in seen), len(blocks))
        found[index] = new * BLOCK
        seen.update(blocks)
    total = float(isl.sum())
    return float(np.clip(found, 0.0, np.maximum(isl - 1.0, 0.0)).sum() / total) if total else 0.0


def _requests(path: Path, arrivals: Array, isl: Array, osl: Array, hit: float = 0.0) -> Requests:
    if not arrivals.size:
        raise PlannerError(f"{path}: found no requests, expected at least one.")
    return Requests(arrivals, isl, osl, hit)


def _lines(path: Path) -> list[str]:
    """The lines of a text file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PlannerError(f"{path}: found no file to read ({error.strerror}).") from error
    try:
        return raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PlannerError(f"{path}, line {line}: found bytes that are not UTF-8 text.") from error


def _wrong(path: Path, line: int, found: object, expected: str, what: str = "") -> PlannerError:
    shown = repr(found.strip() if isinstance(found, str) else found)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return PlannerError(f"{path}, line {line}{what}: found {shown}, expected {expected}.")
