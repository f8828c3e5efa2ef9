"""How many attention devices for each device of experts: the theorem (arXiv 2601.21351) beside
every ratio tried, in our model of DeepSeek-V3.

The theorem takes the feed-forward time as a line, and the network's as one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from planner.costs.ping_pong import attention_ratio
from planner.costs.topology import network
from planner.layers.inference import Array, Runtime
from planner.serving.attention_ffn import Unit, evaluate
from planner.serving.fleet import Fleet
from planner.serving.transfer import unit_link
from planner.specs.catalog import find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.models_catalog import find_model

EXPERTS, MICRO = 64.0, 4.0
"""Devices of experts, and micro-batches: enough of them to hide every round."""
COPIES = np.arange(16.0, 521.0, 8.0)
"""Attention devices that are tried, in whole nodes."""


@dataclass(frozen=True)
class Tried:
    """All ratios at a number of sequences for each attention device."""

    served: Array
    """Tokens per second of a device."""
    best: float
    theorem: float
    networked: Array
    """Part of the time in which the network is busy."""

    @property
    def kept(self) -> float:
        """What the theorem's ratio serves of what the best one does."""
        at = np.abs(COPIES / EXPERTS - self.theorem).argmin()
        return float(self.served[at] / self.served.max())


@cache
def tried(name: str, slots: float, context: float) -> Tried:
    model, cluster = find_model("deepseek-v3"), find_cluster(name)
    kind = "int8" if "matrix" in name else "fp8"
    net, engine = network(cluster, 768), find_engine("generic")
    run = Runtime(cluster.accelerator, net, model.hidden, Widths(kind, kind, kind), engine)
    fleets = (Fleet("any", cluster, 768, run),) * 2
    one = np.ones_like(COPIES)
    unit = Unit(one, COPIES, EXPERTS * one, one, MICRO * one)
    found = evaluate(fleets, unit_link(fleets), model, unit, slots * MICRO * COPIES, context)
    idle = found.idle_attention, found.idle_network, found.idle_ffn
    attention, wire, experts = ((1.0 - part) * found.tpot / MICRO for part in idle)
    ratio, each = COPIES / EXPERTS, slots * EXPERTS
    slope, start = np.polyfit(ratio * each, experts, 1)
    theorem = attention_ratio(attention[0], wire[0], slope, start, each)
    served = slots * MICRO * COPIES / (COPIES + EXPERTS) / found.tpot
    return Tried(served, float(ratio[served.argmax()]), float(theorem), 1.0 - found.idle_network)


CASES = [(32.0, 1000.0), (96.0, 1000.0), (32.0, 4000.0), (96.0, 4000.0), (96.0, 16000.0)]


@pytest.mark.parametrize(("slots", "context"), CASES)
def test_on_a_super_pod_the_ratio_serves_nearly_the_most(slots: float, context: float) -> None:
    """The paper's simulated optimum is within 10 % of its formula; ours is within 14 %, since the
    time of experts goes up in steps, a tile of rows at a time, where the theorem has a line."""
    found = tried("cloudmatrix384-die", slots, context)
    assert found.kept >= 0.86
    assert found.best == pytest.approx(found.theorem, rel=0.35)


def test_longer_contexts_need_more_attention() -> None:
    found = [tried("cloudmatrix384-die", 96.0, context) for context in (1000.0, 4000.0, 16000.0)]
    assert found[0].best < found[1].best < found[2].best
    assert found[0].theorem < found[1].theorem < found[2].theorem


@pytest.mark.parametrize(("slots", "context"), CASES)
def test_a_fabric_of_nodes_does_not_carry_that_ratio(slots: float, context: float) -> None:
    """What reaches a device of experts grows with the ratio, so the network is full before the
    experts are: the dead zone of arXiv 2602.09721, where more of either side serves no more."""
    found = tried("hgx-h200", slots, context)
    assert found.best < 0.5 * found.theorem
    assert found.networked[found.served.argmax()] > 0.8
    assert found.kept < 0.7
