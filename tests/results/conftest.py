"""A small ranking made by hand: what the results show must be what stands here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.costs.tree import Cost, leaf, overlap, repeat, seq
from planner.results.bands import Band
from planner.results.breakdown import from_cost
from planner.results.plan import Assumption, Metric, Plan, Sensitivity
from planner.results.ranking import Column, Ranking

GIB = 2.0**30

DEFINITIONS = {
    metric.name: metric
    for metric in (
        Metric("time", "s", "time of a step"),
        Metric("speed", "tokens/s", "tokens over time"),
        Metric("share", "fraction", "part of the whole"),
        Metric("size", "B", "bytes on the fullest device"),
        Metric("price", "USD", "price of a trillion tokens"),
        Metric("gain", "fraction", "speed over the baseline's, less 1"),
    )
}


def tree(gemm: float) -> Cost:
    """Four repetitions of work with a hidden transfer, then an exposed one."""
    hidden = overlap("layer", [leaf("gemm", gemm, "compute"), leaf("exchange", 0.5, "link")])
    return seq(
        "step",
        [repeat("4 x layer", hidden, 4.0), leaf("gather", 1.0, "link"), leaf("tiny", 1e-6, "idle")],
    )


def make_plan(rank: int, tp: int, gemm: float, price: float | None) -> Plan:
    root = from_cost(tree(gemm))
    metrics = {
        "time": root.on_path,
        "speed": 1e6 / root.on_path,
        "share": 0.25,
        "size": 60 * GIB,
        "price": price,
        "gain": None,
    }
    return Plan(
        rank,
        {"tp": tp, "pp": 1, "schedule": "1f1b"},
        metrics,
        {"weights": 40 * GIB, "activations": 20 * GIB},
        ((0, 60 * GIB), (1, 50 * GIB)),
        root,
        DEFINITIONS,
        (Assumption("imbalance", "1.1", "assumed: one measurement"),),
    )


@pytest.fixture
def ranking() -> Ranking:
    """Two plans, the second slower and without a price."""
    return Ranking(
        "training",
        (make_plan(1, 4, 1.0, 1234.5), make_plan(2, 8, 1.5, None)),
        {"model": "toy", "digests": {"model": "sha256:0"}},
        {"candidates": 1200, "evaluated": 1000, "seconds": 0.25},
        DEFINITIONS,
        (
            Column("tp", "tp"),
            Column("pp", "pp", optional=True, usual=1),
            Column("schedule", "schedule"),
            Column("time", "step"),
            Column("speed", "tokens/s"),
            Column("size", "memory"),
            Column("price", "$/1T tokens"),
            Column("gain", "gain", optional=True),
        ),
        {"time": Band(0.12, 340, "Hopper"), "memory": Band(None, 0, "all")},
    )


@pytest.fixture
def deep_plan(ranking: Ranking) -> Plan:
    """The first plan after its sensitivities were asked for."""
    plan = ranking.plans[0]
    return replace(
        plan,
        sensitivities=(
            Sensitivity("+10 % memory bandwidth", -0.001),
            Sensitivity("+10 % peak compute", -0.08),
            Sensitivity("-10 % latency", 0.0),
        ),
        assumptions=(
            Assumption("overhead", "1 GiB", "assumed"),
            Assumption("imbalance", "1.1", "assumed", 0.02),
            Assumption("overlap", "on", "assumed", -0.3),
        ),
    )
