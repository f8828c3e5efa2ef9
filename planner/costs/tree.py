"""The cost tree: where the time goes, as data that adds up.

Overlap hides time, so a node remembers for every child the seconds that the child puts *on the
critical path* (``exposed``) beside what the child takes by itself (``seconds``).  The exposed
seconds of the children always sum to the parent, whatever overlaps what.  Every value may be an
array over candidates: one plan is a batch of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Seconds = float | NDArray[np.float64]


@dataclass(slots=True)
class Cost:
    """A named time, its parts, and what each part adds to the critical path.

    ``seconds`` [s] is what the node takes when nothing else runs, an array of shape ``(n,)`` or a
    scalar.  ``lane`` says what a leaf keeps busy: compute, memory, link, host or idle.
    """

    name: str
    seconds: Seconds
    children: tuple[Cost, ...] = ()
    exposed: tuple[Seconds, ...] = ()
    lane: str = ""
    times: Seconds = 1.0
    """How often the children happen."""

    def row(self, index: int) -> Cost:
        """The tree of one candidate, every value a float."""
        return Cost(
            self.name,
            _at(self.seconds, index),
            tuple(child.row(index) for child in self.children),
            tuple(_at(value, index) for value in self.exposed),
            self.lane,
            _at(self.times, index),
        )


def _at(value: Seconds, index: int) -> float:
    array = np.asarray(value)
    return float(array[index] if array.ndim else array)


def leaf(name: str, seconds: Seconds, lane: str = "") -> Cost:
    """A cost without parts."""
    return Cost(name, seconds, lane=lane)


def seq(name: str, children: Sequence[Cost]) -> Cost:
    """Parts that run one after the other: the sum."""
    kept = tuple(children)
    exposed = tuple(child.seconds for child in kept)
    total: Seconds = 0.0
    for seconds in exposed:
        total = total + seconds
    return Cost(name, total, kept, exposed)


def overlap(name: str, children: Sequence[Cost]) -> Cost:
    """Parts that run at the same time: the longest, attributed in order.

    The first child keeps its whole time on the path; each further one adds only what it exceeds
    the longest before it by.
    """
    kept = tuple(children)
    longest = kept[0].seconds
    exposed = [longest]
    for child in kept[1:]:
        longer = np.maximum(longest, child.seconds)
        exposed.append(longer - longest)
        longest = longer
    return Cost(name, longest, kept, tuple(exposed))


def repeat(name: str, child: Cost, times: Seconds) -> Cost:
    """The same work ``times`` times in a row; a fraction where devices share it."""
    seconds = child.seconds * times
    return Cost(name, seconds, (child,), (seconds,), times=times)


def behind(name: str, child: Cost, window: Seconds) -> Cost:
    """Work that hides behind ``window`` seconds [s] of other work counted elsewhere."""
    seconds = np.maximum(0.0, child.seconds - window)
    return Cost(name, seconds, (child,), (seconds,))
