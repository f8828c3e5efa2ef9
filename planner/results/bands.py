"""How wrong a prediction is expected to be, from the evidence most like it.

``planner/error_bands.json`` is written by the validation against published measurements; planning
only reads it, so planning never imports the evidence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.errors import PlannerError

FILE = Path(__file__).resolve().parents[1] / "error_bands.json"
VERSION = 1
QUANTITIES = ("time", "memory", "first_token")
ENOUGH = 20
"""Measured values that a group of one software needs."""
UNLIKE = "unlike any evidence"


@dataclass(frozen=True)
class Band:
    """The expected error of one quantity."""

    p90: float | None
    """90th percentile of |predicted / measured - 1|; None when nothing was ever measured."""
    rows: int
    """Measured values behind it."""
    like: str
    """Software and device generation of the evidence, the generation alone, or ``all``."""

    @property
    def unlike_any_evidence(self) -> bool:
        """No measured run used this generation of devices."""
        return self.like == "all" or self.p90 is None


def expected_errors(
    kind: str, generation: str, software: str = "", *, file: Path = FILE
) -> dict[str, Band]:
    """The band of every quantity, from the runs that are most like it.

    Those of the same software on the same generation of devices where there are ``ENOUGH``, else of
    the generation, else of all, else unknown.
    """
    bands = _read(file).get(kind, {})
    return {name: _band(bands.get(name, {}), generation, software) for name in QUANTITIES}


def _band(groups: Mapping[str, Any], generation: str, software: str) -> Band:
    by_name = {str(name).lower(): (name, group) for name, group in groups.items()}
    own = f"{software} on {generation}".lower()
    if by_name.get(own, ("", {"rows": 0}))[1]["rows"] < ENOUGH:
        by_name.pop(own, None)
    for wanted in (own, generation.lower(), "all"):
        if wanted in by_name:
            name, group = by_name[wanted]
            return Band(float(group["p90"]), int(group["rows"]), str(name))
    return Band(None, 0, "all")


@lru_cache(maxsize=4)
def _read(file: Path) -> dict[str, Any]:
    """The file's contents; nothing when it does not exist.

    Raises
    ------
    PlannerError
        If the file is not the JSON that the validation writes.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise PlannerError(f"{file}: not readable as JSON ({error}).") from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise PlannerError(f"{file}: expected error bands of version {VERSION}; validate anew.")
    return found
