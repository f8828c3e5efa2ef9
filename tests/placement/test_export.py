"""Exported files hold what each system reads, and are read back as the current placement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import planner
from planner.errors import PlannerError
from planner.placement.current import as_current
from planner.placement.export import SYSTEMS, export_text
from planner.placement.loads import check_loads

LOADS = check_loads(
    np.random.default_rng(0).lognormal(0.0, 1.0, (3, 8)), where="loads", layers=(1, 2, 4)
)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_file_is_read_back(tmp_path: Path, system: str) -> None:
    found = planner.plan_placement(LOADS, devices=4, slots=12)
    path = tmp_path / f"map{SYSTEMS[system]}"
    path.write_text(found.export(system), encoding="utf-8")
    assert (as_current(path, LOADS, 4) == found.slots).all()
    again = planner.plan_placement(LOADS, devices=4, slots=12, current=path, method="lpt")
    assert again.moved_experts == 0


def test_sglang_has_a_row_for_every_layer_of_the_model() -> None:
    slots = np.array([[1, 0, 1], [0, 1, 0]])
    data = json.loads(export_text("sglang", slots, 2, (1, 3), 5))
    assert data == {
        "physical_to_logical_map": [[0, 1, 0], [1, 0, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0]]
    }


def test_vllm_has_the_layers_with_experts_and_their_sizes() -> None:
    data = json.loads(export_text("vllm", np.array([[1, 0, 1], [0, 1, 0]]), 2, (1, 3)))
    assert data == {
        "num_moe_layers": 2,
        "num_logical_experts": 2,
        "num_physical_experts": 3,
        "physical_to_logical_map": [[1, 0, 1], [0, 1, 0]],
    }


def test_tensorrt_llm_names_the_layers() -> None:
    text = export_text("tensorrt-llm", np.array([[1, 0, 1], [0, 1, 0]]), 2, (1, 3))
    assert yaml.safe_load(text) == {
        "num_slots": 3,
        "initial_global_assignments": {1: [1, 0, 1], 3: [0, 1, 0]},
        "layer_updates_per_iter": 0,
    }


def test_an_unknown_system_is_named() -> None:
    with pytest.raises(PlannerError, match="did you mean 'sglang'"):
        export_text("sglan", np.zeros((1, 2), dtype=int), 1, (0,))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", "{}", "found none of physical_to_logical_map"),
        ("a.json", '{"physical_to_logical_map": [[0], [0, 1]]}', "different lengths"),
        ("a.json", '{"physical_to_logical_map": [[0.5]]}', "found no table of experts"),
        ("a.yaml", "initial_global_assignments: {1: [0]}", "found no layer 2"),
        ("a.yaml", "a: [", "cannot be read"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PlannerError, match=message) as error:
        as_current(path, LOADS, 4)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlannerError, match="no such file"):
        as_current(tmp_path / "gone.json", LOADS, 4)
