"""What makes the difference between two plans: choices, terms of the time, kinds of memory."""

from __future__ import annotations

from collections.abc import Iterator

from planner.results.breakdown import terms
from planner.results.format import assignments, show, signed_percent
from planner.results.plan import Plan
from planner.results.ranking import Ranking

MOST = 8
"""Terms named before the rest is summed up."""


def differences(first: Plan, second: Plan) -> list[tuple[str, float, float]]:
    """(term, seconds in the first, seconds in the second), the largest difference first.

    The columns sum to the plans' times, so the differences sum to the difference.
    """
    one, other = terms(first.tree), terms(second.tree)
    rows = [(name, one.get(name, 0.0), other.get(name, 0.0)) for name in {**one, **other}]
    return sorted(rows, key=lambda row: (-abs(row[2] - row[1]), row[0]))


def compare(first: Plan, second: Plan, names: tuple[str, str] | None = None) -> str:
    """Both plans side by side, as text."""
    left, right = names or (f"plan {first.rank}", f"plan {second.rank}")
    changed = {
        axis: f"{value} -> {second.configuration.get(axis)}"
        for axis, value in first.configuration.items()
        if value != second.configuration.get(axis)
    }
    lines = [f"{left} -> {right}: {assignments(changed) or 'the same configuration'}"]
    for head, rows in (
        ("metric", list(_metric_rows(first, second))),
        ("on the path", list(_term_rows(first, second))),
        ("memory", list(_memory_rows(first, second))),
    ):
        if rows:
            lines += ["", *_table(head, left, right, rows)]
    return "\n".join(lines)


def baseline_text(ranking: Ranking, rank: int) -> str:
    """The gain of a plan over the baseline and the terms that make it.

    Raises
    ------
    PlannerError
        If there is no such rank.
    """
    plan, baseline = ranking.plan(rank), ranking.baseline
    if baseline is None:
        return ""
    text = f"\nagainst the baseline {assignments(baseline.plan.configuration)}"
    if baseline.measured is not None:
        text += f" (measured {show(baseline.measured, 's')}, every time scaled by"
        text += f" {baseline.scale:.3f})"
    gain = plan.metrics.get("gain")
    text += f": {signed_percent(gain)} throughput\n" if gain is not None else "\n"
    rows = _table("on the path", "baseline", f"plan {rank}", list(_term_rows(baseline.plan, plan)))
    return text + "\n".join(rows)


def _table(head: str, left: str, right: str, rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Aligned columns: name, left, right, change."""
    table = [(head, left, right, "change"), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    return [
        f"{row[0]:{widths[0]}}  " + "  ".join(f"{row[i]:>{widths[i]}}" for i in (1, 2, 3)).rstrip()
        for row in table
    ]


def _metric_rows(first: Plan, second: Plan) -> Iterator[tuple[str, str, str, str]]:
    for name, definition in first.definitions.items():
        one, other = first.metrics.get(name), second.metrics.get(name)
        if one is None or other is None or one == other:
            continue
        change = signed_percent(other / one - 1.0) if one else ""
        yield name, show(one, definition.unit), show(other, definition.unit), change


def _term_rows(first: Plan, second: Plan) -> Iterator[tuple[str, str, str, str]]:
    rows = differences(first, second)
    rest = rows[MOST:]
    shown = [row for row in rows[:MOST] if row[1] != row[2]]
    if rest:
        shown.append(("all other terms", sum(r[1] for r in rest), sum(r[2] for r in rest)))
    shown.append(("sum", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for name, one, other in shown:
        yield name, _signed(one, ""), _signed(other, ""), _signed(other - one, "+")


def _memory_rows(first: Plan, second: Plan) -> Iterator[tuple[str, str, str, str]]:
    for kind in {**first.memory, **second.memory}:
        one, other = first.memory.get(kind, 0.0), second.memory.get(kind, 0.0)
        if one or other:
            sign = "+" if other > one else ""
            change = sign + show(other - one, "B") if other != one else "0"
            yield kind, show(one, "B"), show(other, "B"), change


def _signed(seconds: float, plus: str) -> str:
    if seconds == 0:
        return "0"
    return f"-{show(-seconds, 's')}" if seconds < 0 else f"{plus}{show(seconds, 's')}"
