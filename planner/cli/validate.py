"""``roofplan validate``: how right the planner is, against published measurements."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import check_format, emit, tell
from planner.errors import PlannerError
from planner.results.files import check_writable, write

if TYPE_CHECKING:
    from planner.evidence.validate import Report

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def validate(
    evidence: Annotated[
        str | None,
        typer.Option("--evidence", metavar="DIR", help="Tables instead of the project's own."),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="TABLE", help="One table, such as training.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="table|json", help="How to answer.")
    ] = "table",
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="FILE", help="Write every row as CSV.")
    ] = None,
    publish: Annotated[
        bool,
        typer.Option(
            "--write-docs", help="Write docs/validation.md and the error bands of a checkout."
        ),
    ] = False,
) -> None:
    """Score the planner against published measurements.

    Errors are |predicted / measured - 1|; docs/validation.md explains the figures.
    """
    check_format(form, ("table", "json"))
    if rows:
        check_writable(rows)
    if publish:
        _check_publishable(evidence, only)
    from planner.evidence.validate import render
    from planner.evidence.validate import validate as score

    report = score(evidence, only)
    if rows:
        _write_rows(report, rows)
    if publish:
        from planner.evidence.bands import BANDS
        from planner.evidence.publish import PAGE
        from planner.evidence.publish import publish as write_both

        write_both(report)
        tell(f"wrote {PAGE} and {BANDS}")
    emit(json.dumps(report.to_dict(), indent=1) if form == "json" else render(report))


def _check_publishable(evidence: str | None, only: str | None) -> None:
    """The page and the bands describe the project's own tables, all of them, in a checkout."""
    from planner.evidence.publish import PAGE

    if evidence or only:
        raise PlannerError(
            "--write-docs: found --evidence or --only, expected all of the own tables."
        )
    if not (PAGE.parents[1] / "pyproject.toml").is_file():
        raise PlannerError("--write-docs: found an installed package, expected a checkout.")


def _write_rows(report: Report, path: str) -> None:
    """The rows as a file that is there whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "rows.csv"
        report.write_rows(whole)
        write(path, whole.read_text(encoding="utf-8"))
