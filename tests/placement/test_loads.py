"""Loads are read from what people and systems write, and refused in one sentence when wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.errors import PlannerError
from planner.placement.loads import Loads, as_loads, check_loads
from planner.placement.loads_formats import read_loads
from planner.placement.transitions import as_transitions, count_transitions
from planner.specs.models_catalog import find_model

COUNTS = [[4, 1, 0, 3], [2, 2, 5, 1]]


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def safetensors(path: Path, arrays: dict[str, list[int]]) -> None:
    header, data = {}, b""
    for name, values in arrays.items():
        part = np.array(values, dtype="<i8").tobytes()
        span = [len(data), len(data) + len(part)]
        header[name] = {"dtype": "I64", "shape": [len(values)], "data_offsets": span}
        data += part
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "text",
    [
        "4,1,0,3\n2,2,5,1\n",
        "e0,e1,e2,e3\n4,1,0,3\n2,2,5,1\n",
        "layer,e0,e1,e2,e3\n0,4,1,0,3\n1,2,2,5,1\n",
        "expert,count,layer\n0,4,0\n1,1,0\n3,3,0\n0,2,1\n1,2,1\n2,5,1\n3,1,1\n",
    ],
    ids=["bare", "header", "numbered", "long"],
)
def test_tables(tmp_path: Path, text: str) -> None:
    loads = read_loads(written(tmp_path / "loads.csv", text))
    assert loads.counts.tolist() == COUNTS
    assert loads.layers == (0, 1)


def test_numbers_of_layers_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "loads.csv", "layer,a,b\n3,1,2\n7,3,4\n")
    assert read_loads(path).layers == (3, 7)


def test_sglang_counts_leave_out_layers_without_experts(tmp_path: Path) -> None:
    path = written(tmp_path / "record.json", {"logical_count": [[0, 0, 0, 0], *COUNTS]})
    loads = read_loads(path)
    assert loads.counts.tolist() == COUNTS and loads.layers == (1, 2)


def test_steps_of_sglang_and_windows_of_vllm_add_up(tmp_path: Path) -> None:
    windows = [COUNTS, [[1, 1, 1, 1], [0, 0, 0, 1]]]
    sglang = written(tmp_path / "sglang.json", {"logical_count": windows})
    history = [{"logical_expert_load": one} for one in windows]
    vllm = written(tmp_path / "vllm.json", {"load_history": history})
    np.save(tmp_path / "record.npy", np.array(windows, dtype=float))
    for path in (sglang, vllm, tmp_path / "record.npy"):
        loads = read_loads(path)
        assert loads.counts.tolist() == [[5, 2, 1, 4], [2, 2, 5, 2]]
        assert loads.windows is not None and loads.windows.shape == (2, 2, 4)
        assert loads.drift is not None


def test_a_vllm_window_of_slots_is_brought_back_to_experts(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "window.npz",
        expert_load_window=np.array([[[5, 1, 2]]]),
        physical_to_logical_map=np.array([[1, 0, 1]]),
    )
    assert read_loads(tmp_path / "window.npz").counts.tolist() == [[1, 7]]


def test_tensorrt_llm_adds_ranks_and_iterations(tmp_path: Path) -> None:
    written(tmp_path / "meta_info.json", {"num_experts": 3, "num_experts_per_token": 2})
    safetensors(tmp_path / "rank0.safetensors", {"10_3": [1, 2, 3], "11_3": [1, 0, 0]})
    safetensors(tmp_path / "rank1.safetensors", {"10_3": [1, 1, 1], "10_4": [4, 4, 4]})
    for path in (tmp_path, tmp_path / "meta_info.json"):
        loads = read_loads(path)
        assert loads.layers == (3, 4)
        assert loads.counts.tolist() == [[3, 3, 4], [4, 4, 4]]


def test_routing_gives_counts_and_transitions(tmp_path: Path) -> None:
    tokens = np.array([[[0, 1], [2, 3]], [[0, 2], [3, 1]]])  # tokens, layers, choices
    np.save(tmp_path / "routing.npy", tokens)
    np.savez(tmp_path / "routing.npz", routing=tokens)
    np.savez(tmp_path / "sglang.npz", topk_ids_of_layer=tokens.transpose(1, 0, 2))
    for name in ("routing.npy", "routing.npz", "sglang.npz"):
        loads = read_loads(tmp_path / name)
        assert loads.counts.tolist() == [[2, 1, 1, 0], [0, 1, 1, 2]]
        assert loads.routing is not None
        steps = count_transitions(loads.routing, 4)
        assert steps.shape == (1, 4, 4)
        assert steps[0].sum(axis=1).tolist() == [2, 1, 1, 0]
        assert steps[0, 0].tolist() == [0, 0.5, 0.5, 1.0]
        assert (as_transitions(tmp_path / name, loads, None) == steps).all()


def test_a_model_names_the_layers_and_checks_their_size() -> None:
    model = find_model("deepseek-v2-lite")  # 26 of 27 layers have 64 experts
    assert check_loads(np.ones((26, 64)), where="x", model=model).layers == tuple(range(1, 27))
    part = check_loads(np.ones((2, 64)), where="x", layers=(3, 4), model=model)
    assert part.layers == (3, 4)
    for shape, message in (
        ((26, 60), "found 60 experts, expected the 64"),
        ((30, 64), "30 layers"),
    ):
        with pytest.raises(PlannerError, match=message):
            check_loads(np.ones(shape), where="x", model=model)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1, -2], [1, 1]], "layer 0, expert 1: found -2, a count below zero"),
        ([[1, float("nan")]], "not finite"),
        ([[1, 2], [3]], "rows of different lengths"),
        ([[0, 0], [0, 0]], "found only zeros"),
        ([[1, 2], [0, 0]], "layer 1: found only zeros"),
        ([1, 2, 3], "found counts of shape"),
        ([["a", "b"]], "or text"),
    ],
)
def test_wrong_counts_are_named(counts: Any, message: str) -> None:
    with pytest.raises(PlannerError, match=message) as error:
        as_loads(counts)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "found nothing"),
        ("a.csv", "1,2\n3\n", "row 2: found 1 columns, expected 2"),
        ("a.csv", "1,2\n3,x\n", "row 2: found 'x', expected a number"),
        ("a.csv", "layer,expert,count\n0,0,1\n0,0,2\n", "twice"),
        ("a.csv", "layer,expert,count\n0,-1,1\n", "expert: found -1"),
        ("a.json", "{", "cannot be read"),
        ("a.json", {"counts": []}, "found none of logical_count"),
        ("a.json", {"load_history": [{}]}, "a window without logical_expert_load"),
        ("a.pt", "", "save its logical_count"),
        ("a.txt", "", r"found .txt, expected .csv"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(PlannerError, match=message) as error:
        read_loads(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlannerError, match="no such file"):
        read_loads(tmp_path / "gone.csv")


def test_drift_is_the_step_of_the_logarithm() -> None:
    random = np.random.default_rng(1)
    log = random.normal(0.0, 1.0, (20, 64))
    windows = np.exp(np.array([log, log + random.normal(0.0, 0.2, log.shape)])) * 1e4
    assert check_loads(windows, where="x").drift == pytest.approx(0.2, rel=0.1)
    assert Loads(windows[0], tuple(range(20))).drift is None


@pytest.mark.parametrize(
    ("table", "message"),
    [(np.ones((2, 4, 4)), "shape"), (-np.ones((1, 4, 4)), "negative"), (np.zeros((1, 4, 4)), "no")],
)
def test_wrong_transitions_are_named(table: Any, message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        as_transitions(table, as_loads(COUNTS), None)
