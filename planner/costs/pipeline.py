"""Pipeline schedules: the idle time they leave and the activations they keep.

A step takes ``m`` times the slowest stage plus the fill: the time a micro-batch needs for all other
stages, less what the schedule fills with other work.  Written over the sum of the other stages, the
textbook bubbles (p-1)(...) hold for unequal stages as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

ZERO_BUBBLE = Ref("sail-sg/zero-bubble README; arXiv 2401.10241", "comparison of schedules")


@dataclass(frozen=True)
class Others:
    """A micro-batch's time on all stages but the slowest [s]: in all, and its parts."""

    total: Seconds
    backward: Seconds
    """Input and weight gradients."""
    weight: Seconds
    """Weight gradients."""


@term("fill = sum of the other stages = (p-1)(F+B)", Ref("arXiv 2104.04473", "section 2.2.1"))
def fill_plain(others: Others, p: int, chunks: int) -> Seconds:
    """GPipe and 1F1B: the pipeline fills and drains once [s]."""
    return others.total


@term("fill = (p-1)(F+B)/v", Ref("arXiv 2104.04473", "section 2.2.2"))
def fill_interleaved(others: Others, p: int, chunks: int) -> Seconds:
    """Interleaved 1F1B: a chunk is 1/v of a stage, and so is the fill [s]."""
    return others.total / chunks


@term("fill = (p-1)(F+B-2W), B the full backward", ZERO_BUBBLE)
def fill_zb_h1(others: Others, p: int, chunks: int) -> Seconds:
    """ZB-H1: weight gradients move into the bubble at 1F1B's memory [s]."""
    return np.maximum(0.0, others.total - 2.0 * others.weight)


@term("fill = (p-1)(F+B-3W), zero for equal F, B-W, W", ZERO_BUBBLE)
def fill_zb_v(others: Others, p: int, chunks: int) -> Seconds:
    """ZB-V: two chunks a device in a V, no bubble when the three passes take equal time [s]."""
    return np.maximum(0.0, others.total - 3.0 * others.weight)


@term("fill = (p-1)(F+B)/2", Ref("arXiv 2405.15362; sail-sg/zero-bubble README", "V-Half"))
def fill_v_half(others: Others, p: int, chunks: int) -> Seconds:
    """V-Half: half the bubble of 1F1B at half its activation memory [s]."""
    return others.total / 2.0


@term(
    "fill = (p/2-1)(F&B + B - 3W)",
    Ref("deepseek-ai/DualPipe README", "comparison of bubbles"),
)
def fill_dualpipe(others: Others, p: int, chunks: int) -> Seconds:
    """DualPipe: micro-batches enter from both ends, the pair F&B runs as one [s]."""
    share = (p / 2.0 - 1.0) / max(p - 1.0, 1.0)
    return share * np.maximum(0.0, others.total + others.backward - 3.0 * others.weight)


@term("m", Ref("GPipe, arXiv 1811.06965", "section 2.3"))
def in_flight_all(m: Seconds, p: int, device: int, chunks: int) -> Seconds:
    """GPipe keeps every micro-batch's activations until the forward passes are done."""
    return m


@term("min(m, p - d)", Ref("arXiv 2104.04473", "section 2.2.1"))
def in_flight_1f1b(m: Seconds, p: int, device: int, chunks: int) -> Seconds:
    """1F1B and ZB-H1: device d of p keeps p - d micro-batches."""
    return np.minimum(m, p - device)


@term("min(m v, 2(p-d-1) + (v-1)p + 1) / v", Ref("arXiv 2205.05198", "section 4.2.3"))
def in_flight_interleaved(m: Seconds, p: int, device: int, chunks: int) -> Seconds:
    """Interleaved 1F1B, counted in micro-batches of a whole device: p (1 + (p-1)/(p v)) at most."""
    warm_up = 2 * (p - device - 1) + (chunks - 1) * p + 1
    return np.minimum(m * chunks, warm_up) / chunks


@term("min(m, p)", ZERO_BUBBLE)
def in_flight_zb_v(m: Seconds, p: int, device: int, chunks: int) -> Seconds:
    """ZB-V: every device keeps as much as the first one of 1F1B."""
    return np.minimum(m, p)


@term("min(m, p/2 + 1)", Ref("arXiv 2405.15362; sail-sg/zero-bubble README", "V-Half"))
def in_flight_v_half(m: Seconds, p: int, device: int, chunks: int) -> Seconds:
    """V-Half: about half of 1F1B on every device."""
    return np.minimum(m, p / 2.0 + 1.0)


@term("(p + 1) / 2 of a device's two stages", Ref("deepseek-ai/DualPipe README", "activation"))
def in_flight_dualpipe(m: Seconds, p: int, device: int, chunks: int) -> Seconds:
    """DualPipe keeps p + 1 stage activations, spread over the two stages that a device holds."""
    return np.minimum(m, (p + 1) / 2.0)


@dataclass(frozen=True)
class Schedule:
    """One way to run a pipeline.

    ``layout`` says which stages a device holds: ``line`` (chunk j of device d is stage d + j p),
    ``vee`` (stages d and 2p-1-d) or ``mirror`` (stages d and p-1-d, both directions at once).
    """

    name: str
    layout: str
    fill: Callable[[Others, int, int], Seconds]
    in_flight: Callable[[Seconds, int, int, int], Seconds]
    hides_transfers: bool = False
    """Stage-to-stage transfers overlap with another chunk's work."""
    hides_exchange: bool = False
    """Expert exchange of one micro-batch overlaps with the work of another."""


SCHEDULES = {
    s.name: s
    for s in (
        Schedule("1f1b", "line", fill_plain, in_flight_1f1b),
        Schedule(
            "interleaved-1f1b",
            "line",
            fill_interleaved,
            in_flight_interleaved,
            hides_transfers=True,
        ),
        Schedule("gpipe", "line", fill_plain, in_flight_all),
        Schedule("zb-h1", "line", fill_zb_h1, in_flight_1f1b),
        Schedule("zb-v", "vee", fill_zb_v, in_flight_zb_v, hides_transfers=True),
        Schedule("v-half", "vee", fill_v_half, in_flight_v_half, hides_transfers=True),
        Schedule(
            "dualpipe",
            "mirror",
            fill_dualpipe,
            in_flight_dualpipe,
            hides_transfers=True,
            hides_exchange=True,
        ),
    )
}


@dataclass(frozen=True)
class Vocabulary:
    """What keeping the vocabulary layers elsewhere adds to the micro-batches in flight."""

    extra: float = 0.0
    factor: float = 1.0
    synchronous: bool = False
    """Every micro-batch waits for an all-reduce of its hidden state over the pipeline."""


VOCABULARY = {
    "ends": Vocabulary(),
    "redistributed": Vocabulary(),
    "vocab-1": Vocabulary(extra=2.0),
    "vocab-2": Vocabulary(extra=1.0),
    "interlaced": Vocabulary(factor=1.5, synchronous=True),
}
"""In flight under 1F1B: p + 2 with two barriers, p + 1 with one, 1.5 p interlaced
(arXiv 2411.05288, sections 5.2 and 6.4)."""
