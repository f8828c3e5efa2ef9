"""``roofplan show``: what the databases, the registry of equations and the axes hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from planner.cli import catalogue
from planner.cli.output import FORMATS, check_format, emit_rows
from planner.errors import PlannerError
from planner.specs.folders import near

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Rows = tuple[Sequence[str], list[Sequence[object]]]
Describe = Callable[[str | None, Sequence[str]], Rows]
"""From a name (None for all) and the user's databases to headers and rows."""

KINDS: dict[str, Describe] = {
    "hardware": catalogue.hardware,
    "clusters": catalogue.clusters,
    "models": catalogue.models,
    "terms": catalogue.terms,
    "axes": catalogue.axes,
}


@app.command()
def show(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS), help="What to list.")],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Describe this one.")] = None,
    db: Annotated[
        list[str] | None, typer.Option("--db", metavar="DIR", help="Search this database first.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="|".join(FORMATS), help="How to answer.")
    ] = "table",
) -> None:
    """List the hardware, clusters, models, equations and axes, or describe one.

    Quantities in tab-separated values, CSV and JSON are the same texts as in the table.
    """
    if kind not in KINDS:
        raise PlannerError(
            f"show: found {kind!r}{near(kind, KINDS)}; expected one of {', '.join(KINDS)}."
        )
    check_format(form)
    headers, rows = KINDS[kind](name, db or ())
    emit_rows(headers, rows, form)
