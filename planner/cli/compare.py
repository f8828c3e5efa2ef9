"""``roofplan compare``: what makes the difference between two plans of a result file."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli.output import emit
from planner.cli.ranks import File, read_rank

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def compare(
    file: File,
    first: Annotated[str, typer.Argument(metavar="I", help="Place of the one plan.")],
    second: Annotated[str, typer.Argument(metavar="J", help="Place of the other.")],
) -> None:
    """Show what makes the difference between two plans of a result file."""
    numbers = read_rank(first, "I"), read_rank(second, "J")
    from planner.results.saved import load

    emit(load(file).compare(*numbers))
