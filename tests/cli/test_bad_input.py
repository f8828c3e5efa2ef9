"""Bad input: one sentence on stderr, the right exit code, nothing on stdout, nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

MODEL = "llama-3.1-8b"

WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "model": (("lama-3.1-8b",), "did you mean 'llama-3.1-8b'"),
    "cluster": ((MODEL, "--cluster", "dgx-h10"), "did you mean 'dgx-h100'"),
    "rule": ((MODEL, "--tp", "3"), "rule 'query heads over tp'"),
    "empty axis": ((MODEL, "--tp", ""), "--tp: found ''"),
    "empty option": ((MODEL, "--objective", ""), "--objective: found nothing"),
    "empty output": ((MODEL, "--output", ""), "cannot be written"),
    "degree": ((MODEL, "--tp", "0"), "--tp: found '0'"),
    "name": ((MODEL, "--schedule", "1f2b"), "did you mean '1f1b'"),
    "dimension": ((MODEL, "--tokens", "1T", "--deadline", "30GB"), "a size"),
    "no unit": ((MODEL, "--price", "2.10"), "no unit"),
    "negative": ((MODEL, "--price", "-2/h"), "negative"),
    "zero": ((MODEL, "--global-batch", "0"), "--global-batch"),
    "not whole": ((MODEL, "--devices", "1.5"), "not whole"),
    "setting": ((MODEL, "--set", "memory"), "expected hardware.FIELD=VALUE"),
    "field": ((MODEL, "--set", "hardware.memroy=1 GiB"), "did you mean 'memory'"),
    "format": ((MODEL, "--format", "jsn"), "did you mean 'json'"),
    "objective": ((MODEL, "--objective", "fast"), "objective"),
    "deadline": ((MODEL, "--deadline", "3d"), "tokens"),
    "option": ((MODEL, "--tpp", "3"), "No such option: --tpp"),
    "no value": ((MODEL, "--top"), "--top"),
    "too many": ((MODEL, "--devices", "10000000"), "at most"),
    "no plan file": ((MODEL, "--input", "nowhere.yaml"), "nowhere.yaml"),
    "folder": ((MODEL, "--output", "nowhere/plans.json"), "cannot be written"),
    "database": ((MODEL, "--db", "nowhere"), "does not exist"),
}


@pytest.mark.parametrize(("arguments", "expected"), WRONG.values(), ids=WRONG)
def test_a_wrong_option(
    run: Any, job: Any, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    model, *rest = arguments
    done = run("train", model, *job, *rest, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert expected in done.stderr
    assert done.stderr.startswith("roofplan: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("trian",),
        ("train",),
        ("train", MODEL, "--devices", "8"),
        ("show", "harware"),
        ("show", "models", "gpt-99"),
        ("show", "terms", "nothing"),
        ("explain", "nowhere.json"),
        ("compare", "nowhere.json", "1"),
        ("validate", "--only", "nothing"),
        ("validate", "--evidence", "nowhere"),
        ("validate", "--write-docs", "--only", "training"),
        ("validate", "--rows", "nowhere/rows.csv"),
    ],
)
def test_a_wrong_command(run: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("text", ["", '{"hidden_size": 40', "not json", "[]"])
def test_a_broken_config(run: Any, job: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    done = run("train", str(path), *job)
    assert done.returncode == 2
    assert "config.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_result_of_another_version(run: Any, plans: Path, tmp_path: Path) -> None:
    found = json.loads(plans.read_text(encoding="utf-8"))
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(found | {"version": 99}), encoding="utf-8")
    done = run("explain", str(path), "1")
    assert done.returncode == 2
    assert "99" in done.stderr


def test_an_unwritable_output_is_found_before_the_search(run: Any, tmp_path: Path) -> None:
    job = ["--cluster=h800-ib", "--devices=2048", "--seq-len=4096", "--global-batch=15360"]
    done = run("train", "deepseek-v3", *job, "--output", str(tmp_path))
    assert done.returncode == 2
    assert "folder" in done.stderr


def test_nothing_fits(run: Any, tmp_path: Path) -> None:
    job = ["--cluster=dgx-h100", "--devices=8", "--seq-len=4096", "--global-batch=64"]
    done = run("train", "llama-3.1-405b", *job, "--output", str(tmp_path / "plans.json"))
    assert done.returncode == 3
    assert "nothing fits" in done.stderr
    assert "nearest miss" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
