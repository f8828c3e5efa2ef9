"""``roofplan place`` and ``roofplan make-loads`` as their users run them."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.placement.loads_formats import read_loads


@pytest.fixture(scope="module")
def loads(tmp_path_factory: Any) -> Path:
    """Four layers of eight experts."""
    path = tmp_path_factory.mktemp("loads") / "loads.csv"
    path.write_text(
        "90,10,20,30,5,5,5,35\n10,90,5,5,60,20,5,5\n40,30,20,10,9,8,7,6\n1,2,3,4,5,6,7,80\n",
        encoding="utf-8",
    )
    return path


def test_a_pipe_gets_one_row_a_layer(run: Any, loads: Path) -> None:
    done = run("place", str(loads), "--devices", "4", "--slots", "12")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines(), delimiter="\t"))
    assert [row["layer"] for row in rows] == ["0", "1", "2", "3"]
    assert all(float(row["balance_after"]) <= float(row["balance_before"]) for row in rows)
    assert "note: " in done.stderr


def test_json_holds_everything(run: Any, loads: Path, tmp_path: Path) -> None:
    path = tmp_path / "placement.json"
    question = ("--devices", "4", "--slots", "12", "--cluster", "dgx-h100")
    step = ("--model", "mixtral-8x7b-v0.1", "--phase", "prefill", "--tokens", "8192")
    rows = ["layer," + ",".join(f"e{i}" for i in range(8))]
    rows += [f"{n},{row}" for n, row in enumerate(loads.read_text().split())]
    table = tmp_path / "loads.csv"
    table.write_text("\n".join(rows), encoding="utf-8")
    done = run("place", str(table), *question, *step, "--output", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    data = json.loads(path.read_text(encoding="utf-8"))
    for name in ("balance_before", "balance_after", "bound", "gap", "worst_gap", "seconds"):
        assert isinstance(data[name], float)
    assert data["bound"] <= data["balance_after"] < data["balance_before"]
    assert data["layer_time_after_s"] < data["layer_time_before_s"]
    assert set(data["bytes_by_tier"]) == {"node", "fabric"}
    assert data["moved_bytes"] is None
    assert len(data["by_layer"]) == len(data["physical_to_logical_map"]) == 4
    assert data["inputs"]["slots"] == 12 and data["objective"] == "time"


@pytest.mark.parametrize("system", ["sglang", "vllm", "tensorrt-llm"])
def test_an_export_is_the_next_current_placement(
    run: Any, loads: Path, tmp_path: Path, system: str
) -> None:
    path = tmp_path / ("map.yaml" if system == "tensorrt-llm" else "map.json")
    question = ("place", str(loads), "--devices", "4", "--slots", "12")
    done = run(*question, "--export", system, "--output", str(path))
    assert done.returncode == 0, done.stderr
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = data.get("physical_to_logical_map") or data["initial_global_assignments"]
    assert len(rows) == 4
    again = run(*question, "--current", str(path), "--format", "json")
    assert json.loads(again.stdout)["moved_experts"] == 0


def test_made_loads_are_placed(run: Any, tmp_path: Path) -> None:
    routing, counts = tmp_path / "olmoe.npz", tmp_path / "olmoe.json"
    assert run("make-loads", "olmoe-code", "--output", str(routing)).returncode == 0
    made = run("make-loads", "olmoe-1b-7b", "--windows", "3", "--output", str(counts))
    assert made.returncode == 0 and "16 layers x 64 experts" in made.stderr
    assert read_loads(counts).drift == pytest.approx(0.12, rel=0.15)
    near = ("--cluster", "dgx-h100", "--devices", "16", "--slots", "80", "--objective", "hops")
    done = run("place", str(routing), *near, "--format", "json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["method"] == "affinity" and data["hops_after"] < data["hops_before"]
    follow = run("place", str(counts), *near, "--transitions", str(routing), "--format", "json")
    assert json.loads(follow.stdout)["method"] == "affinity"


def test_make_loads_is_the_same_for_the_same_seed(run: Any) -> None:
    first, second, other = (
        run("make-loads", "mixtral", "--seed", seed).stdout for seed in ("7", "7", "8")
    )
    assert first == second != other
    assert first.splitlines()[0] == "layer," + ",".join(f"expert_{e}" for e in range(8))


def test_the_stated_size_takes_less_than_two_seconds(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "loads.csv"
    assert run("make-loads", "deepseek-r1", "--output", str(path)).returncode == 0
    start = time.perf_counter()
    step = ("--cluster", "h800-ib", "--model", "deepseek-r1", "--tokens", "64")
    done = run("place", str(path), "--devices", "64", "--slots", "320", *step, "--format", "json")
    assert time.perf_counter() - start < 2.0
    data = json.loads(done.stdout)
    assert data["gap"] <= 0.003 and data["worst_gap"] <= 0.01


def test_a_solver_without_proof_is_told_by_the_exit_code(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "loads.csv"
    assert run("make-loads", "balanced", "--output", str(path)).returncode == 0
    hard = ("--devices", "32", "--method", "milp", "--time-limit", "0.2")
    done = run("place", str(path), *hard)
    assert done.returncode == 4, done.stderr
    assert "solver: none of the 4 layers with a gap fits into the limit" in done.stderr
    assert len(done.stdout.splitlines()) == 29


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--devices", "4", "--slots", "4"), 2, "expected at least the 8 experts"),
        (("--slots", "8"), 2, "--devices: missing"),
        (("--devices", "4", "--method", "ilp"), 2, "did you mean 'milp'"),
        (("--devices", "4", "--format", "jsn"), 2, "did you mean 'json'"),
        (("--devices", "4", "--export", "trt"), 2, "export: found 'trt'"),
        (("--devices", "four"), 2, "--devices"),
        (("--devices", "4", "--output", "no/such/folder.json"), 2, "cannot be written"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    run: Any, loads: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run("place", str(loads), *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,-2\n3,4\n", "found -2, a count below zero"),
        ("1,2\n3,4\n", "found 2 experts, expected the 64 of olmoe-1b-7b"),
    ],
)
def test_wrong_loads_are_one_sentence(run: Any, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "loads.csv"
    path.write_text(content, encoding="utf-8")
    step = ("--model", "olmoe-1b-7b", "--cluster", "dgx-h100", "--tokens", "8")
    done = run("place", str(path), "--devices", "2", *step)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_current_placement_that_misses_an_expert_is_named(
    run: Any, loads: Path, tmp_path: Path
) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"physical_to_logical_map": [[0, 1, 2, 3, 4, 5, 6, 6]] * 4}))
    done = run("place", str(loads), "--devices", "4", "--current", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "layer 0: found expert 7 on no device" in done.stderr
