"""A ranking as the answer of a command: a file, a table on a terminal, or text in a pipe."""

from __future__ import annotations

from planner.cli.output import draw, emit, is_terminal, tell
from planner.results.files import write
from planner.results.ranking import Ranking


def answer(ranking: Ranking, form: str, output: str | None) -> None:
    """Write the file that was asked for, and show the ranking on a terminal or in a pipe."""
    if output:
        write(output, _text(ranking, form))
        tell(f"wrote {output}")
    if is_terminal() and (output or form == "table"):
        _show(ranking)
    elif not output:
        emit(_text(ranking, form))
    for note in ranking.plans[0].notes if len(ranking) == 1 else ():
        tell(f"note: {note}")


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

        draw(f"Front of step time against {ranking.inputs['pareto']}:")
        draw(ranking_table(ranking, ranking.pareto, Console().width))
