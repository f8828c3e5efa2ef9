"""``roofplan explain``: why a plan of a result file takes its time."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from planner.cli.output import check_format, emit
from planner.cli.ranks import File, read_rank

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def explain(
    file: File,
    rank: Annotated[str, typer.Argument(metavar="RANK", help="Its place in the ranking.")] = "1",
    form: Annotated[
        str, typer.Option("--format", metavar="table|json", help="Text or the whole plan.")
    ] = "table",
) -> None:
    """Show why a plan of a result file takes its time.

    The breakdown adds up; below it stand what would help, what the plan rests on, and its flags.
    """
    check_format(form, ("table", "json"))
    number = read_rank(rank, "RANK")
    from planner.results.saved import load

    ranking = load(file)
    if form == "json":
        emit(json.dumps(ranking.plan(number).deepened().to_dict(), indent=1, allow_nan=False))
    else:
        emit(ranking.explain(number))
