"""Result files: written whole or not at all, refused when they are not what they should be."""

from __future__ import annotations

import json
import os
from pathlib import Path

from planner.errors import PlannerError
from planner.results.document import VERSION, ranking_from
from planner.results.ranking import Ranking


def check_writable(path: str | Path) -> None:
    """Find out before the work starts whether ``write`` will succeed; leaves nothing behind.

    Raises
    ------
    PlannerError
        If the folder does not exist, the path is a folder, or the file cannot be created.
    """
    target = Path(path)
    if target.is_dir():
        raise PlannerError(f"{target}: cannot be written: it is a folder, expected a file.")
    if target.exists() and not os.access(target, os.W_OK):
        raise PlannerError(f"{target}: cannot be written: permission denied.")
    if _is_device(target):
        return
    try:
        probe = _temporary(target)
        probe.open("x").close()
        probe.unlink()
    except OSError as error:
        raise PlannerError(f"{target}: cannot be written: {_reason(error)}.") from None


def write(path: str | Path, text: str) -> None:
    """Write a file atomically: a reader sees the old file or the whole new one.

    Raises
    ------
    PlannerError
        If it cannot be written; the old file, if any, is untouched.
    """
    target = Path(path)
    check_writable(target)
    temporary = _temporary(target)
    try:
        if _is_device(target):
            target.write_text(text, encoding="utf-8")
            return
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target.resolve())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PlannerError(f"{target}: cannot be written: {_reason(error)}.") from None


def load(path: str | Path) -> Ranking:
    """Read a ranking that was written as JSON.

    Raises
    ------
    PlannerError
        If the file is missing, cut off, of another version or not a result file.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PlannerError(f"{path}: cannot be read: {_reason(error)}.") from None
    except ValueError as error:
        raise PlannerError(f"{path}: not a result file: no whole JSON ({error}).") from None
    if not isinstance(data, dict) or "version" not in data or "kind" not in data:
        raise PlannerError(f"{path}: not a result file: expected 'version', 'kind' and 'plans'.")
    if data["version"] != VERSION:
        raise PlannerError(
            f"{path}: written in version {data['version']} of the result format, expected"
            f" {VERSION}; plan again to renew it."
        )
    try:
        return ranking_from(data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PlannerError(f"{path}: a damaged result file: {error!r} while reading it.") from None


def _temporary(target: Path) -> Path:
    """A name beside the target, so that the rename stays on one file system."""
    final = target.resolve()
    return final.with_name(f".{final.name}.{os.getpid()}.tmp")


def _is_device(target: Path) -> bool:
    """Whether the target is something like /dev/stdout, which no rename may replace."""
    return target.exists() and not target.is_file()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
