"""A ranking as a table: for terminals, pipes, spreadsheets and notebooks.

People see the columns that the ranking names, rounded; programs see raw SI values.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from planner.results.format import show
from planner.results.plan import Plan
from planner.results.ranking import Column, Ranking

if TYPE_CHECKING:
    from rich.table import Table

Value = float | int | str | None

WIDE = 3
"""Spaces between columns where there is room ..."""
TIGHT = 1
"""... and where there is not."""


def shown_columns(ranking: Ranking, plans: Sequence[Plan] | None = None) -> list[Column]:
    """The columns that say something: optional ones only where a plan is unusual."""
    chosen = ranking.plans if plans is None else plans
    return [
        column
        for column in ranking.columns
        if not column.optional or any(_value(plan, column) != column.usual for plan in chosen)
    ]


def _value(plan: Plan, column: Column) -> Value:
    """What a table for people shows; a joined cell leaves out what the plan does not have."""
    if not column.parts:
        return plan[column.name]
    (first, label), *rest = column.parts
    if plan[first] is None:
        return None
    texts = [f"{label}{plan[first]}"]
    texts += [f"{before}{plan[axis]}" for axis, before in rest if plan[axis] not in (None, 1)]
    return " ".join(texts)


def _single(columns: Sequence[Column], plans: Sequence[Plan]) -> list[str]:
    """Names of the columns for programs: every axis of a joined one that any plan has."""
    names: list[str] = []
    for column in columns:
        axes = [axis for axis, _ in column.parts] or [column.name]
        joined = bool(column.parts)
        names += [a for a in axes if not joined or any(plan[a] is not None for plan in plans)]
    return names


def _told(plans: Sequence[Plan], columns: Sequence[Column]) -> list[Column]:
    """The columns without those that hold nothing at all."""
    return [c for c in columns if any(_value(plan, c) is not None for plan in plans)]


def folded_columns(
    ranking: Ranking, plans: Sequence[Plan], width: int | None
) -> tuple[list[Column], str]:
    """The columns that fit into ``width`` characters, and a line with what was left out.

    Axes on which all plans agree leave the table, from the right, and are named below it; where
    that is not enough, so do optional columns: no number is cut.
    """
    columns = _told(plans, shown_columns(ranking, plans))
    same = [c for c in columns if plans and c.name in plans[0].configuration]
    same = [c for c in same if all(plan[c.name] == plans[0][c.name] for plan in plans)]
    folded: list[Column] = []
    while same and width is not None and _width(ranking, plans, columns, WIDE) > width:
        folded.insert(0, same.pop())
        columns = [column for column in columns if column not in folded]
    told = []
    if folded:
        text = ", ".join(f"{column.name}={plans[0][column.name]}" for column in folded)
        told.append(f"all plans: {text}")
    hidden: list[Column] = []
    while width is not None and _width(ranking, plans, columns, TIGHT) > width:
        last = next((c for c in reversed(columns) if c.optional), None)
        if last is None:
            break
        columns = [column for column in columns if column is not last]
        hidden.insert(0, last)
    if hidden:
        names = ", ".join(column.name for column in hidden)
        told.append(f"no room for {names}: --format csv has every column")
    return columns, "\n".join(told)


def _width(ranking: Ranking, plans: Sequence[Plan], columns: Sequence[Column], gap: int) -> int:
    """Characters of the table for people with ``gap`` spaces between columns."""
    headers, rows = _cells(ranking, plans, columns)
    widths = (max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers)))
    return sum(width + gap for width in widths)


def _cells(
    ranking: Ranking, plans: Sequence[Plan], columns: Sequence[Column]
) -> tuple[list[str], list[list[str]]]:
    """Headers and rounded cells."""
    units = {name: metric.unit for name, metric in ranking.definitions.items()}
    rows = [
        [str(plan.rank), *(show(_value(plan, c), units.get(c.name, "")) for c in columns)]
        for plan in plans
    ]
    return ["#", *(column.header for column in columns)], rows


def footer(ranking: Ranking) -> str:
    """One line about the search and the expected error."""
    found = ranking.search
    parts = []
    if found.get("candidates"):
        text = f"searched {found['candidates']:,} candidates"
        if found.get("seconds") is not None:
            text += f" in {found['seconds']:.1f} s"
        parts.append(f"{text}, {found.get('evaluated', 0):,} evaluated")
    band = ranking.bands.get("time")
    if band is None or band.p90 is None:
        parts.append("expected error unknown: no measured rows")
    else:
        like = "unlike any evidence" if band.unlike_any_evidence else band.like
        parts.append(f"expected error ±{100.0 * band.p90:.0f} % ({band.rows:,} rows, {like})")
    first = found.get("stays_first")
    if isinstance(first, float):
        parts.append(f"within it plan 1 stays first {show(first, 'fraction')} of the time")
    if ranking.baseline is not None:
        scale = ranking.baseline.scale
        parts.append("gain is over the baseline" + (f", scale {scale:.3f}" if scale != 1 else ""))
    return "; ".join(parts)


def ranking_table(
    ranking: Ranking, plans: Sequence[Plan] | None = None, width: int | None = None
) -> Table:
    """The table for a terminal of ``width`` characters, as a rich renderable.

    ``plans`` may be the Pareto front instead of the ranking's plans.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    chosen = ranking.plans if plans is None else plans
    columns, folded = folded_columns(ranking, chosen, width)
    headers, rows = _cells(ranking, chosen, columns)
    caption = "\n".join(filter(None, [folded, footer(ranking)]))
    roomy = width is None or _width(ranking, chosen, columns, WIDE) <= width
    table = Table(
        box=SIMPLE_HEAD if roomy else None,
        caption=caption,
        caption_justify="left",
        pad_edge=False,
    )
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for column, shown in zip(columns, table.columns[1:], strict=True):
        if any(isinstance(_value(plan, column), str) for plan in chosen):
            shown.justify = "left"
    for row in rows:
        table.add_row(*row)
    return table


def ranking_tsv(ranking: Ranking, plans: Sequence[Plan] | None = None) -> str:
    """The table for a pipe: the same columns by name, raw SI values, tabs between."""
    chosen = ranking.plans if plans is None else plans
    names = _single(shown_columns(ranking, plans), chosen)
    lines = [["rank", *names]]
    lines += [[str(p.rank), *(_raw(p[name]) for name in names)] for p in chosen]
    return "".join("\t".join(line) + "\n" for line in lines)


def complete_rows(
    ranking: Ranking, plans: Sequence[Plan] | None = None
) -> tuple[list[str], list[list[Value]]]:
    """Names and raw values of every axis, metric and kind of memory."""
    chosen = ranking.plans if plans is None else plans
    first = chosen[0] if chosen else None
    axes = list(first.configuration) if first else []
    kinds = list(first.memory) if first else []
    metrics = [name for name in ranking.definitions if name not in axes]
    names = ["rank", *axes, *metrics, *(f"memory_{kind}" for kind in kinds)]
    rows: list[list[Value]] = [
        [
            plan.rank,
            *(plan.configuration[axis] for axis in axes),
            *(plan.metrics.get(name) for name in metrics),
            *(plan.memory[kind] for kind in kinds),
        ]
        for plan in chosen
    ]
    return names, rows


def ranking_csv(ranking: Ranking, plans: Sequence[Plan] | None = None) -> str:
    """Every number of every plan, one line each; an empty cell where there is none."""
    names, rows = complete_rows(ranking, plans)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_raw(value) for value in row] for row in rows)
    return out.getvalue()


def ranking_html(ranking: Ranking) -> str:
    """The table for a notebook."""
    headers, rows = _cells(ranking, ranking.plans, shown_columns(ranking))
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    caption = f"<caption>{escape(footer(ranking))}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _raw(value: Value) -> str:
    """Text that reads back as the same value."""
    return "" if value is None else str(value)
