"""``roofplan serve`` as its users run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

QUESTION = (
    "llama-3.1-8b",
    "--cluster",
    "dgx-h100",
    "--devices",
    "8",
    "--isl",
    "1000",
    "--osl",
    "200",
)


def test_a_pipe_gets_a_ranking(run: Any) -> None:
    done = run("serve", *QUESTION, "--ttft", "500ms", "--tpot", "0.03", "--top", "3")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split("\t")[:2] == ["rank", "architecture"]
    assert len(rows) == 3


def test_a_result_file_is_explained_and_compared(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    assert run("serve", *QUESTION, "--output", str(path)).returncode == 0
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["kind"] == "serving"
    assert data["search"]["columns"] > 50
    why = run("explain", str(path), "1")
    assert "attention of decoding" in why.stdout and "rests on" in why.stdout
    assert "tpot" in run("compare", str(path), "1", "2").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--tpot", "300"), 2, "did you mean 300ms?"),
        (("--tpot", "30GB"), 2, "--tpot"),
        (("--rate", "fast"), 2, "--rate"),
        (("--kv", "fp9"), 2, "did you mean 'fp8'"),
        (("--format", "jsn"), 2, "did you mean 'json'"),
        (("--set", "memory"), 2, "expected hardware.FIELD=VALUE"),
        (("--tpot", "10us"), 3, "no deployment meets tpot 10 us"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    run: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run("serve", *QUESTION, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
