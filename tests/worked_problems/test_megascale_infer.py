"""MegaScale-Infer (arXiv 2504.02263): its roofline identities, models and search."""

from __future__ import annotations

import numpy as np
import pytest

import planner
from planner.costs.topology import network
from planner.layers.inference import Runtime
from planner.serving.attention_ffn import Unit, evaluate
from planner.serving.fleet import Fleet
from planner.serving.transfer import unit_link
from planner.specs.catalog import find_accelerator, find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.models_catalog import find_model

MODELS = {"Mixtral 8x22B": (8, 2, 624), "DBRX": (16, 4, 624), "Scaled-MoE": (32, 4, 1248)}
"""Experts, experts of a token, and the batch that makes experts busy on an A100 (section 2.3)."""


@pytest.mark.parametrize("name", MODELS)
def test_the_batch_at_which_experts_are_bound_by_arithmetic(name: str) -> None:
    experts, chosen, batch = MODELS[name]
    device = find_accelerator("a100-sxm-80g")
    dense = device.peak["bf16"] / device.memory_bandwidth  # FLOP for a byte, 2 of each a weight
    assert dense == pytest.approx(156, rel=0.03)
    assert experts / chosen * 156 == batch


def test_the_best_devices_for_each_half_for_their_price() -> None:
    """Table 3: H20 has most bandwidth for its price, L40S most arithmetic."""
    prices = {"h800-sxm": 5.28, "h20": 1.85, "l40s": 1.08}
    devices = {name: find_accelerator(name) for name in prices}
    bandwidth = {n: d.memory_bandwidth / prices[n] for n, d in devices.items()}
    arithmetic = {n: d.peak["bf16"] / prices[n] for n, d in devices.items()}
    assert max(bandwidth, key=lambda name: bandwidth[name]) == "h20"
    assert max(arithmetic, key=lambda name: arithmetic[name]) == "l40s"


def ranked(**options: object):
    return planner.plan_serving(
        "mixtral-8x22b", isl=571, osl=159, tpot=0.15, architecture="attention-ffn", **options
    )


def test_the_search_keeps_the_rules_of_its_pipeline() -> None:
    """Three or four micro-batches where both pools matter, and balanced stages."""
    found = ranked(cluster="dgx-a100", devices=64, top=5)
    for plan in found:
        assert plan["tpot"] <= 0.15
        assert plan["micro_batches"] in (1, 2, 3, 4)
    assert found.plan(1)["micro_batches"] >= 2
    assert found.plan(1)["idle_ffn"] < 0.5


def test_more_micro_batches_serve_more_with_the_same_pools() -> None:
    """Of one size, published: 1.9 times from one to two, 1.10 to 1.38 times from two to three."""
    model, cluster = find_model("mixtral-8x22b"), find_cluster("dgx-a100")
    run = Runtime(
        cluster.accelerator, network(cluster, 64), model.hidden, Widths(), find_engine("generic")
    )
    pools = (Fleet("any", cluster, 64, run),) * 2
    m = np.arange(1.0, 5.0)
    one = np.ones_like(m)
    unit = Unit(4 * one, 4 * one, 8 * one, 2 * one, m)
    batch = 160.0 * 4 * m
    state = evaluate(pools, unit_link(pools), model, unit, batch, 730.0)
    gains = np.diff(np.log(batch / state.tpot))
    assert 1.4 < np.exp(gains[0]) <= 2.0
    assert 1.0 <= np.exp(gains[1]) <= 1.38
    assert np.exp(gains[2]) < 1.1
