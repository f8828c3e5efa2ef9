"""Why a plan takes its time: a tree that adds up, what would help, what it rests on.

Two columns: *on path* is what a part adds to the critical path and sums to its parent; *own* is
what it takes by itself, so hidden communication is visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.results.breakdown import Node, bound_by
from planner.results.format import assignments, show, show_metric, signed_percent
from planner.results.plan import Plan

THRESHOLD = 0.01
"""Parts below this share of the whole, on the path and by themselves, are shown as one line."""

NEGLIGIBLE = 0.0005
"""A relative change below this prints as zero and is left out."""


def explain(plan: Plan, *, threshold: float = THRESHOLD) -> str:
    """The whole explanation of a plan as text."""
    sections = [
        [f"plan {plan.rank}: {assignments(plan.configuration)}", *plan.notes],
        list(tree_lines(plan.tree, threshold=threshold)),
        list(_memory_lines(plan)),
        list(_metric_lines(plan)),
        list(_help_lines(plan)),
        list(_assumption_lines(plan)),
        list(_command_lines(plan)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def tree_lines(root: Node, *, threshold: float = THRESHOLD) -> Iterator[str]:
    """The tree as lines with the columns on path, own, share and bound by."""
    rows = list(_rows(root, root.on_path, threshold, "", ""))
    width = max(len(label) for label, _ in rows)
    yield f"{'breakdown':{width}}  {'on path':>9} {'own':>9} {'share':>8}  bound by"
    for label, node in rows:
        share = node.on_path / root.on_path if root.on_path else 0.0
        times = f"{_seconds(node.on_path):>9} {_seconds(node.own):>9} {show(share, 'fraction'):>8}"
        yield f"{label:{width}}  {times}  {bound_by(node)}".rstrip()


def _seconds(value: float) -> str:
    return f"-{show(-value, 's')}" if value < 0 else show(value or 0.0, "s")


def _rows(
    node: Node, whole: float, threshold: float, first: str, rest: str
) -> Iterator[tuple[str, Node]]:
    """Labels with their branches, small siblings folded into one line."""
    yield first + node.name, node
    children = _shown(node, threshold * whole)
    for position, child in enumerate(children):
        last = position == len(children) - 1
        branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        yield from _rows(child, whole, threshold, rest + branch, rest + below)


def _shown(node: Node, limit: float) -> list[Node]:
    """The parts worth a line [s], those below ``limit`` summed up at the end.

    A part that is all of its parent and adds no name (``head`` in ``1 x head``) gives way to its
    own parts.
    """
    children = node.children
    if len(children) == 1 and children[0].name in node.name:
        children = children[0].children
    large = [child for child in children if max(abs(child.on_path), child.own) >= limit]
    small = [child for child in children if child not in large and (child.own or child.on_path)]
    if len(small) == 1:
        return [*large, replace(small[0], children=())] if small[0].children else [*large, *small]
    if small:
        on_path, own = sum(c.on_path for c in small), sum(c.own for c in small)
        lane = bound_by(Node("", on_path, own, "", tuple(small)))
        large.append(Node(f"{len(small)} smaller parts", on_path, own, lane))
    return large


def _memory_lines(plan: Plan) -> Iterator[str]:
    kinds = sorted(plan.memory.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{kind} {show(size, 'B')}" for kind, size in kinds if size)
    yield f"memory of the fullest device: {show(sum(plan.memory.values()), 'B')} ({shown})"
    stages = ", ".join(f"{stage}: {show(size, 'B')}" for stage, size in plan.memory_by_stage)
    yield f"memory by stage: {stages}"


def _metric_lines(plan: Plan) -> Iterator[str]:
    known = [d for name, d in plan.definitions.items() if plan.metrics.get(name) is not None]
    width = max((len(definition.name) for definition in known), default=0)
    for definition in known:
        value = show_metric(plan.metrics, definition)
        yield f"{definition.name:{width}}  {value:>22}  {definition.definition}"


def _help_lines(plan: Plan) -> Iterator[str]:
    found = [s for s in plan.sensitivities or () if abs(s.effect) >= NEGLIGIBLE]
    if not found:
        return
    yield "what would help:"
    for item in sorted(found, key=lambda item: (item.effect, item.change)):
        yield f"  {item.change}: {signed_percent(item.effect)} time"


def _assumption_lines(plan: Plan) -> Iterator[str]:
    if not plan.assumptions:
        return
    yield "rests on:"
    order = sorted(plan.assumptions, key=lambda a: (-abs(a.weight or 0.0), a.name))
    for item in order:
        weight = f" [{signed_percent(item.weight)} time]" if item.weight else ""
        yield f"  {item.name} {item.value}{weight}: {item.reason}"


def _command_lines(plan: Plan) -> Iterator[str]:
    if plan.flags:
        yield f"flags: {' '.join(plan.flags)}"
    for choice in plan.not_expressed:
        yield f"no flag expresses {choice}"
