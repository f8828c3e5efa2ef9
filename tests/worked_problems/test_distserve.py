"""DistServe (arXiv 2401.09670): its capacities, and its placements beside ours.

Its machines: four nodes of eight A100-80G with NVLink and 25 Gb/s between the nodes.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planner
from planner.costs.topology import network
from planner.layers.inference import Runtime, Split
from planner.serving.iteration import Replica
from planner.serving.memory import sequence_bytes, weight_bytes
from planner.specs.catalog import find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.models_catalog import find_model

CAPACITY = Path(__file__).with_name("data") / "distserve_kv_capacity.csv"
"""simdistserve/estimators/profile_data/max_num_tokens.csv of LLMServe/DistServe, Apache-2.0."""
USED = 73.72 * 2**30
"""Bytes of an A100-80G that weights and cache fill, the one number chosen here."""

SHAREGPT = {"isl": 755, "osl": 200}
"""Mean lengths of the chat workload (section 6.1, figure 7)."""


def bytes_of(model: str, tp: float, pp: float) -> tuple[float, float]:
    """Weights, and cache of a token, on a device."""
    cluster, spec, one = find_cluster("dgx-a100"), find_model(model), np.ones(1)
    run = Runtime(
        cluster.accelerator, network(cluster, 64), spec.hidden, Widths(), find_engine("vllm")
    )
    replica = Replica(Split(tp * one, one, one, tp * one), pp * one)
    return (
        float(weight_bytes(run, spec, replica)[0]),
        float(sequence_bytes(run, spec, replica, one)[0]),
    )


def test_the_76_capacities_of_a_pool() -> None:
    """Its table divides all weights evenly; so divided, one usable size explains every row."""
    rows = list(csv.DictReader(CAPACITY.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 76
    for row in rows:
        tp, pp = int(row["tp"]), int(row["pp"])
        whole, _ = bytes_of(row["model"], 1, 1)
        _, token = bytes_of(row["model"], tp, pp)
        found = (USED - whole / (tp * pp)) / token
        assert found == pytest.approx(float(row["tokens"]), rel=0.02), row


def test_the_stage_with_the_vocabulary_holds_less_than_the_table_says() -> None:
    """We charge the embedding to one stage: with little room left that is 3 per cent of tokens."""
    rows = csv.DictReader(CAPACITY.read_text(encoding="utf-8").splitlines())
    ratios = []
    for row in rows:
        weights, token = bytes_of(row["model"], int(row["tp"]), int(row["pp"]))
        ratios.append((73.98 * 2**30 - weights) / token / float(row["tokens"]))
    assert max(abs(np.array(ratios) - 1.0)) < 0.031
    assert sum(abs(np.array(ratios) - 1.0) > 0.02) == 3


def machines() -> Any:
    found = find_cluster("dgx-a100")
    slow = replace(found.tiers[-1], bandwidth=25e9 / 8 / 8, pair_bandwidth=25e9 / 8 / 8)
    return replace(found, tiers=(*found.tiers[:-1], slow))


PLACEMENTS = {
    "opt-13b": (0.25, 0.1, (2, 1), (1, 1), 0.86),
    "opt-66b": (2.5, 0.15, (4, 1), (2, 2), 0.645),
    "opt-175b": (4.0, 0.2, (3, 3), (4, 3), 0.94),
}
"""Targets (table 1), published prefill and decode (tp, pp) (table 3), and what the published
placement serves for each device here, over the best that we find."""


@pytest.mark.parametrize("model", PLACEMENTS)
def test_its_placements_beside_ours(model: str) -> None:
    """All are legal and meet the targets.

    Ours cut both pipelines deeper: the weights are spread thinner, so that more sequences fit and a
    decode step, whose targets are loose, serves more of them.  The paper's search maximises the
    goodput at 90 % attainment in a simulator; here the targets are on means.
    """
    ttft, tpot, ahead, behind, share = PLACEMENTS[model]
    found = planner.plan_serving(
        model,
        machines(),
        max_devices=32,
        ttft=ttft,
        tpot=tpot,
        architecture="disaggregated",
        top=1000,
        **SHAREGPT,
    )
    each = {
        (plan["prefill_tp"], plan["prefill_pp"], plan["tp"], plan["pp"]): plan["requests_per_s"]
        / plan["devices"]
        for plan in reversed(found.plans)
    }
    published = each[(*ahead, *behind)]
    assert published / max(each.values()) == pytest.approx(share, abs=0.01)
    plan = found.plan(1)
    assert plan["pp"] > behind[1] or plan["tp"] > behind[0] or share > 0.9


def test_three_way_tensor_parallelism_is_tried() -> None:
    """175B: of all placements inside nodes the published one, with tp = 3, comes first."""
    ttft, tpot, ahead, behind, _ = PLACEMENTS["opt-175b"]
    found = planner.plan_serving(
        "opt-175b",
        machines(),
        max_devices=32,
        ttft=ttft,
        tpot=tpot,
        architecture="disaggregated",
        top=1000,
        **SHAREGPT,
    )
    plan = next(plan for plan in found if plan["same_node"])
    assert (plan["prefill_tp"], plan["prefill_pp"]) == ahead
    assert (plan["tp"], plan["pp"]) == behind
