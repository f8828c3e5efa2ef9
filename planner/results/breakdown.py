"""Where the time of a plan goes, as plain data: a tree with two times a node.

``on_path`` is what a node adds to the critical path; the children's always sum to their parent's.
``own`` is what the node takes by itself; where it is longer, the rest is hidden behind other work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.costs.tree import Cost


@dataclass(frozen=True)
class Node:
    """One named time of a breakdown."""

    name: str
    on_path: float
    """Seconds on the critical path [s]."""
    own: float
    """Seconds of work, hidden or not, over all repetitions [s]."""
    lane: str = ""
    """What a leaf keeps busy: compute, memory, link, host or idle."""
    children: tuple[Node, ...] = ()


def from_cost(cost: Cost, scale: float = 1.0) -> Node:
    """The breakdown of a cost tree of floats, all times multiplied by ``scale``."""
    total = _number(cost.seconds) * scale
    return _node(cost, total, scale, scale)


def _node(cost: Cost, on_path: float, path_factor: float, work_factor: float) -> Node:
    """``path_factor`` and ``work_factor`` turn times of one repetition into totals."""
    children = []
    for child, exposed in zip(cost.children, cost.exposed, strict=True):
        alone, shown = _number(child.seconds), _number(exposed)
        times = _number(cost.times)
        inside = path_factor * shown / alone if alone else 0.0
        children.append(_node(child, shown * path_factor, inside, work_factor * times))
    own = _number(cost.seconds) * work_factor
    return Node(cost.name, on_path, own, cost.lane, tuple(children))


def _number(value: object) -> float:
    return float(np.asarray(value))


def leaves(node: Node) -> Iterator[Node]:
    """The nodes without parts, in order."""
    if not node.children:
        yield node
    for child in node.children:
        yield from leaves(child)


def terms(node: Node) -> dict[str, float]:
    """Seconds on the path by the name of the leaf [s]; they sum to the node's."""
    found: dict[str, float] = {}
    for part in leaves(node):
        found[part.name] = found.get(part.name, 0.0) + part.on_path
    return found


def lanes(node: Node) -> dict[str, float]:
    """Seconds on the path by lane [s]; they sum to the node's."""
    found: dict[str, float] = {}
    for part in leaves(node):
        found[part.lane] = found.get(part.lane, 0.0) + part.on_path
    return found


def bound_by(node: Node) -> str:
    """The lane that holds the largest share of a node's time on the path."""
    found = {lane: seconds for lane, seconds in lanes(node).items() if lane and seconds > 0}
    return max(found, key=lambda lane: (found[lane], lane), default="")
