"""Where answers go: a table on a terminal, tab-separated values in a pipe, a whole file on disk.

Data goes to stdout; messages and progress go to stderr.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.specs.folders import near

FORMATS = ("table", "json", "csv")


def check_format(found: str | None, known: Sequence[str] = FORMATS) -> None:
    """Refuse a format that does not exist.

    Raises
    ------
    PlannerError
        Naming the formats that do.
    """
    if found is not None and found not in known:
        raise PlannerError(
            f"--format: found {found!r}{near(found, known)}; expected one of {', '.join(known)}."
        )


def format_of(asked: str | None, output: str | None) -> str:
    """The format that was asked for, else the one that the output's name ends in, else a table.

    >>> format_of(None, "plans.json")
    'json'
    """
    if asked is None and output is not None:
        ending = Path(output).suffix.lower().removeprefix(".")
        return ending if ending in FORMATS else "table"
    return asked or "table"


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def emit(text: str) -> None:
    """Write data to stdout, ended by a new line.

    Raises
    ------
    PlannerError
        If it cannot be written, for instance because the disk behind it is full.
    """
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_stdout()
        raise PlannerError(
            f"stdout: cannot be written: {(error.strerror or '').lower()}."
        ) from None


def abandon_stdout() -> None:
    """Keep Python's exit from trying again what could not be written, and complaining."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(message: str) -> None:
    """Write a message to stderr."""
    print(message, file=sys.stderr)


def draw(renderable: Any) -> None:
    """Draw something of rich on the terminal."""
    from rich.console import Console

    Console(highlight=False).print(renderable)


def emit_rows(
    headers: Sequence[str], rows: Sequence[Sequence[object]], form: str, *, data: Any = None
) -> None:
    """Write rows in a format.

    Parameters
    ----------
    data
        What JSON holds instead of one object a row.
    """
    if form == "json":
        plain = [dict(zip(headers, row, strict=True)) for row in rows] if data is None else data
        emit(json.dumps(plain, indent=1, default=str))
    elif form == "table" and is_terminal():
        draw(_table(headers, rows))
    else:
        emit(separated(headers, rows, "," if form == "csv" else "\t"))


def separated(headers: Sequence[str], rows: Sequence[Sequence[object]], delimiter: str) -> str:
    """Rows as comma- or tab-separated values; a missing value is empty."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return out.getvalue()


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    return table
