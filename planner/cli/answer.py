"""What a command was asked, and its answer: a file, a table on a terminal, or text in a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.cli.options import Command, question
from planner.cli.output import check_format, draw, emit, format_of, is_terminal, tell
from planner.cli.plan_file import gather
from planner.errors import PlannerError
from planner.results.files import check_writable, write
from planner.results.ranking import Ranking


@dataclass(frozen=True)
class Asked:
    """A question that was read, and where its answer goes."""

    model: str
    question: Mapping[str, Any]
    form: str
    output: str | None

    @classmethod
    def of(cls, command: Command, options: Mapping[str, Any]) -> Asked:
        """From the options of a command line.

        Raises
        ------
        PlannerError
            If an option is wrong or missing, or the output cannot be written.
        """
        given, path = gather(command, options)
        model, form, output = (_take(given, name) for name in ("model", "format", "output"))
        check_format(form)
        if model is None:
            raise PlannerError("MODEL: missing; expected a name (roofplan show models) or a path.")
        found = question(command, given, path)
        if output is not None:
            check_writable(output)
        return cls(model, found, format_of(form, output), output)


def _take(given: dict[str, Any], name: str) -> str | None:
    """Remove and return an option that is no parameter of the function."""
    value = given.pop(name, None)
    return value if value is None else str(value)


def answer(ranking: Ranking, form: str, output: str | None) -> None:
    """Write the file that was asked for, and show the ranking on a terminal or in a pipe."""
    if output:
        write(output, _text(ranking, form))
        tell(f"wrote {output}")
    if is_terminal() and (output or form == "table"):
        _show(ranking)
    elif not output:
        emit(_text(ranking, form))
    for note in ranking.plans[0].notes:
        tell(f"plan 1: {note}")


def _text(ranking: Ranking, form: str) -> str:
    from planner.results.tables import ranking_csv, ranking_tsv

    if form == "json":
        return ranking.to_json()
    return (ranking_csv if form == "csv" else ranking_tsv)(ranking, ranking.pareto or None)


def _show(ranking: Ranking) -> None:
    """The table for a person, and the front below it."""
    from planner.results.tables import ranking_table

    draw(ranking)
    if ranking.pareto:
        from rich.console import Console

        what = ranking.inputs["pareto"]
        draw(f"Front of step time against {what}:" if isinstance(what, str) else "Front:")
        draw(ranking_table(ranking, ranking.pareto, Console().width))
