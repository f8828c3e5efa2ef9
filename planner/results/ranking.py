"""A ranking: plans in order of merit, how they were found and from what.

The answer to every question that the planner is asked; it knows no scenario.  It renders itself as
a table, JSON, CSV, a pandas frame, HTML or text, and nothing here prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planner.errors import PlannerError
from planner.results.bands import Band
from planner.results.plan import Metric, Plan

if TYPE_CHECKING:
    import pandas
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True)
class Column:
    """One column of the table for people: an axis or a metric, and what stands above it."""

    name: str
    header: str
    optional: bool = False
    """Left out where every plan has the value ``usual``."""
    usual: int | str | None = None
    parts: tuple[tuple[str, str], ...] = ()
    """Axes that one cell of a table for people joins, and what stands before each value; programs
    get a column for each."""

    def __post_init__(self) -> None:
        pairs = tuple((str(axis), str(label)) for axis, label in self.parts)
        object.__setattr__(self, "parts", pairs)


@dataclass(frozen=True)
class Baseline:
    """What the user runs today."""

    plan: Plan
    measured: float | None = None
    """The step time that the user measured [s]."""
    scale: float = 1.0
    """Measured over predicted; every time of every plan has been multiplied by it."""


@dataclass(frozen=True)
class Ranking:
    """Plans in order, search statistics, inputs and their digests."""

    kind: str
    """The scenario: ``training`` ..."""
    plans: tuple[Plan, ...]
    inputs: Mapping[str, Any]
    """Everything that was asked, as JSON would hold it, with digests of model and cluster."""
    search: Mapping[str, float | int | str | None]
    """Statistics.  Only ``seconds``, the rates per second and ``peak_memory_bytes`` differ
    between two runs on the same input."""
    definitions: Mapping[str, Metric]
    columns: tuple[Column, ...]
    bands: Mapping[str, Band]
    """Expected errors by quantity: ``time`` and ``memory``."""
    baseline: Baseline | None = None
    pareto: tuple[Plan, ...] = ()
    """The front that was asked for, fastest first; empty when none was."""

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator[Plan]:
        return iter(self.plans)

    def plan(self, rank: int) -> Plan:
        """The plan of that rank, counted from 1.

        Raises
        ------
        PlannerError
            If there is no such rank.
        """
        if not 1 <= rank <= len(self.plans):
            raise PlannerError(f"rank: found {rank}, expected 1 to {len(self.plans)}.")
        return self.plans[rank - 1]

    def explain(self, rank: int = 1) -> str:
        """Why the plan of that rank takes its time, as text."""
        from planner.results.compare import baseline_text

        text = self.plan(rank).explain()
        return text if self.baseline is None else f"{text}\n{baseline_text(self, rank)}"

    def compare(self, first: int, second: int) -> str:
        """The terms that make the difference between two plans, as text."""
        from planner.results.compare import compare

        return compare(self.plan(first), self.plan(second))

    def to_dict(self) -> dict[str, Any]:
        """The ranking as plain data."""
        from planner.results.document import ranking_document

        return ranking_document(self)

    def to_json(self) -> str:
        """The whole ranking as JSON text."""
        from planner.results.document import to_json

        return to_json(self)

    def to_csv(self) -> str:
        """One line a plan with every axis, metric and kind of memory, in SI units."""
        from planner.results.tables import ranking_csv

        return ranking_csv(self)

    def frame(self) -> pandas.DataFrame:
        """One row a plan, indexed by rank, with the columns of the CSV."""
        import pandas

        from planner.results.tables import complete_rows

        names, rows = complete_rows(self)
        return pandas.DataFrame(rows, columns=names).set_index("rank")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from planner.results.tables import ranking_table

        yield ranking_table(self, width=options.max_width)

    def _repr_html_(self) -> str:
        from planner.results.tables import ranking_html

        return ranking_html(self)
