"""``roofplan train``: what it answers, where, and in which form."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

import planner
from planner.cli.training_options import OPTIONS
from planner.specs.models_catalog import find_config
from planner.specs.parallelism import TRAINING_AXES

MODEL = "llama-3.1-8b"


def test_a_pipe_gets_tab_separated_values(run: Any, job: Any) -> None:
    done = run("train", MODEL, *job, "--top", "3")
    assert done.returncode == 0
    assert done.stderr == ""
    header, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert header[0] == "rank"
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert all(len(row) == len(header) for row in rows)
    times = [float(row[header.index("step_time")]) for row in rows]
    assert times == sorted(times)


def test_the_command_adds_nothing_to_the_library(run: Any, job: Any) -> None:
    done = run("train", MODEL, *job, "--top", "2", "--pp", "1,2", "--mbs", "1", "--format", "json")
    found = json.loads(done.stdout)["plans"]
    expected = planner.plan_training(
        MODEL,
        "dgx-h100",
        devices=8,
        seq_len=4096,
        global_batch=64,
        top=2,
        fixed={"pp": [1, 2], "micro_batch": 1},
    )
    assert [plan["configuration"] for plan in found] == [plan.configuration for plan in expected]
    assert [plan["metrics"] for plan in found] == [plan.metrics for plan in expected]
    assert all(plan["flags"] for plan in found)


def test_csv_holds_every_axis_and_metric(run: Any, job: Any) -> None:
    done = run("train", MODEL, *job, "--top", "1", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert TRAINING_AXES.keys() <= row.keys()
    assert float(row["step_time"]) > 0


def test_every_axis_fixed_is_an_estimate_of_that_one(run: Any, job: Any) -> None:
    axes = ["--tp=2", "--pp=2", "--cp=1", "--vpp=1", "--ep=1", "--etp=1", "--mbs=1", "--zero=1"]
    names = ["--sp=on", "--recompute=none", "--schedule=1f1b", "--dispatch=all-to-all"]
    done = run("train", MODEL, *job, *axes, *names, "--context-parallel=ring", "--format=json")
    (plan,) = json.loads(done.stdout)["plans"]
    assert plan["configuration"]["dp"] == 2
    text = "tp=2,pp=2,mbs=1,zero=1,sp=on"
    alone = planner.estimate_training(
        MODEL, "dgx-h100", text, devices=8, seq_len=4096, global_batch=64
    )
    assert plan["metrics"]["step_time"] == alone["step_time"]


def test_every_option_and_axis_has_a_flag(run: Any) -> None:
    text = run("train", "--help").stdout
    for name in [*OPTIONS, *TRAINING_AXES, "input", "set", "db", "format", "output"]:
        assert f"--{name.replace('_', '-')}" in text
    assert "--mbs" in text
    assert "--sp" in text


def test_quantities_have_units(run: Any, job: Any) -> None:
    limits = ["--tokens", "1T", "--deadline", "3000d", "--max-step-time", "100s"]
    money = ["--price", "2.10/h", "--memory-reserve", "20 %", "--imbalance", "1.2", "--top", "1"]
    done = run("train", MODEL, *job, *limits, *money, "--format", "json")
    inputs = json.loads(done.stdout)["inputs"]
    assert inputs["tokens"] == 1e12
    assert inputs["deadline"] == 3000 * 86400
    assert inputs["max_step_time"] == 100
    assert inputs["price"] == 2.1
    assert inputs["memory_reserve"] == 0.2
    assert inputs["imbalance"] == 1.2


def test_set_changes_the_hardware(run: Any, job: Any) -> None:
    base, fast = (
        json.loads(run("train", MODEL, *job, "--top=1", "--format=json", *extra).stdout)
        for extra in ([], ["--set", "hardware.peak.bf16=2000 TFLOP/s"])
    )
    times = [found["plans"][0]["metrics"]["step_time"] for found in (base, fast)]
    assert times[1] < times[0]


def test_a_baseline_gives_gains(run: Any, job: Any) -> None:
    done = run("train", MODEL, *job, "--top=1", "--baseline", "tp=4,pp=2", "--format=json")
    assert json.loads(done.stdout)["plans"][0]["metrics"]["gain"] > 0


def test_several_numbers_of_devices(run: Any) -> None:
    job = ["--cluster=dgx-h100", "--devices=8,16", "--seq-len=2048", "--global-batch=64"]
    done = run("train", MODEL, *job, "--pareto=price", "--format=json")
    found = json.loads(done.stdout)
    assert found["inputs"]["devices"] == [8, 16]
    assert found["pareto"]


def test_the_file_is_written_and_named(plans: Path) -> None:
    found = json.loads(plans.read_text(encoding="utf-8"))
    assert found["version"] == 1
    assert len(found["plans"]) == 3
    assert [path.name for path in plans.parent.iterdir()] == ["plans.json"]


PLAN = """\
model: llama-3.1-8b
cluster: dgx-h100
devices: 8
seq-len: 4096
global_batch: 64
top: 1
pp: [1, 2]
sp: on
memory-reserve: 10 %
set: {hardware.memory: 100 GiB}
"""


def test_a_plan_file_says_the_same(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN, encoding="utf-8")
    done = run("train", "--input", str(path), "--format", "json")
    assert done.returncode == 0, done.stderr
    inputs = json.loads(done.stdout)["inputs"]
    assert inputs["fixed"] == {"pp": [1, 2], "sequence_parallel": [1]}
    assert inputs["overrides"] == {"hardware.memory": "100 GiB"}


def test_the_command_line_wins_over_the_file(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN, encoding="utf-8")
    wins = ["--pp", "2", "--sp", "off", "--top", "2", "--set", "hardware.memory=90 GiB"]
    done = run("train", "--input", str(path), *wins, "--format", "json")
    inputs = json.loads(done.stdout)["inputs"]
    assert inputs["fixed"] == {"pp": [2], "sequence_parallel": [0]}
    assert inputs["top"] == 2
    assert inputs["overrides"] == {"hardware.memory": "90 GiB"}


def test_a_limit_of_devices_replaces_the_number_in_the_file(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN, encoding="utf-8")
    done = run("train", "--input", str(path), "--max-devices", "4", "--format", "json")
    assert done.returncode == 0, done.stderr
    inputs = json.loads(done.stdout)["inputs"]
    assert (inputs["devices"], inputs["max_devices"]) == (None, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("devcies: 8", "did you mean 'devices'"),
        ("mbs: 1\nmicro-batch: 2", "found twice"),
        ("devices: 8\ndevices: 16", "devices: found twice"),
        ("devices: [8", "not valid YAML"),
        ("just words", "expected options"),
        ("devices:", "found None"),
    ],
)
def test_a_wrong_plan_file(run: Any, tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    done = run("train", "--input", str(path))
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_user_database_comes_first(run: Any, job: Any, tmp_path: Path) -> None:
    config = find_config("qwen3-8b") | {"num_hidden_layers": 2}
    (tmp_path / "models_db").mkdir()
    (tmp_path / "models_db" / "mine.json").write_text(json.dumps(config), encoding="utf-8")
    done = run("train", "mine", *job, "--db", str(tmp_path), "--top", "1")
    assert done.returncode == 0, done.stderr
