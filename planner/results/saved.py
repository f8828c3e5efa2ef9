"""A result file opened again: its plans can still be explained in full.

A ranking's kind names its scenario, whose module ``saved`` knows how to go on computing; this room
knows only where to look.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from planner.results import files
from planner.results.ranking import Ranking

SCENARIOS = ("training", "serving")
"""Kinds of rankings whose plans can compute more."""


def load(path: str | Path) -> Ranking:
    """The ranking in a file that ``Ranking.to_json`` wrote.

    Raises
    ------
    PlannerError
        If the file is missing, cut off, of another version or kind, or not a result.
    """
    ranking = files.load(path)
    if ranking.kind not in SCENARIOS:
        return ranking  # complete as it was written
    found: Ranking = import_module(f"planner.{ranking.kind}.saved").reopened(ranking)
    return found
