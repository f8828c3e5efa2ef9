"""A result file and a place in its ranking, as arguments."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.units import parse_quantity

File = Annotated[str, typer.Argument(metavar="FILE", help="What --output plans.json wrote.")]


def read_rank(text: str, where: str) -> int:
    """A place in a ranking, counted from 1.

    Raises
    ------
    PlannerError
        If the text is no positive whole number.
    """
    return int(parse_quantity(text, "count", where=where))
