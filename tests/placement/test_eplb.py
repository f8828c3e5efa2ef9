"""EPLB's policies: the example of its README bit for bit, and what any of its maps satisfies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from planner.errors import PlannerError
from planner.placement.eplb import eplb

EXAMPLE = json.loads((Path(__file__).parent / "data/eplb_readme.json").read_text(encoding="utf-8"))


def test_the_readme_example_bit_for_bit() -> None:
    found = eplb(
        np.array(EXAMPLE["weight"], dtype=float),
        EXAMPLE["num_replicas"],
        EXAMPLE["num_groups"],
        EXAMPLE["num_nodes"],
        EXAMPLE["num_gpus"],
    )
    assert found.tolist() == EXAMPLE["expected_phy2log"]


def test_hierarchical_keeps_a_group_on_a_node_and_global_does_not() -> None:
    loads = np.random.default_rng(0).lognormal(0.0, 1.0, (3, 32))
    for row in eplb(loads, 48, 8, 4, 16):
        nodes = [set(part // 4) for part in row.reshape(4, 12)]
        assert not any(a & b for i, a in enumerate(nodes) for b in nodes[:i])
    spread = eplb(loads, 48, 6, 4, 16)  # 6 groups do not divide over 4 nodes
    assert (spread == eplb(loads, 48, 1, 1, 16)).all()


@pytest.mark.parametrize(("groups", "nodes"), [(1, 1), (8, 2)])
def test_every_expert_is_somewhere(groups: int, nodes: int) -> None:
    loads = np.random.default_rng(1).lognormal(0.0, 1.0, (5, 64))
    found = eplb(loads, 80, groups, nodes, 16)
    assert all(set(row) == set(range(64)) for row in found)


@pytest.mark.parametrize(
    ("slots", "groups", "devices", "message"),
    [(12, 5, 4, "groups: found 12"), (14, 4, 4, "slots: found 14"), (12, 4, 3, "slots|nodes")],
)
def test_what_does_not_divide_is_refused(
    slots: int, groups: int, devices: int, message: str
) -> None:
    with pytest.raises(PlannerError, match=message):
        eplb(np.ones((1, 12)), slots, groups, 1 if groups == 5 else 2, devices)
