"""``roofplan calibrate --from``: a database that planning uses, or one sentence and no files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.specs.catalog import find_accelerator
from planner.specs.folders import packaged_database

MEASURED = packaged_database("hardware_db") / "measurements" / "h200-sxm.csv"
HEAD = "op,accelerator,library,dtype,shape,latency_s\n"
ROW = "gemm,h200-sxm,mine 1.0,bf16,m=1;n=2;k=3,1e-5\n"


@pytest.fixture(scope="module")
def calibrated(run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("calibrated")
    mine = folder / "mine.csv"
    mine.write_text(MEASURED.read_text(encoding="utf-8").replace("pytorch", "mine"))
    done = run("calibrate", "--from", str(mine), "--output", str(folder), "--format", "json")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_answer_has_errors_before_and_after(calibrated: tuple[Path, Any]) -> None:
    rows = json.loads(calibrated[1].stdout)
    assert {row["family"] for row in rows} >= {"gemm", "attention_decode", "experts"}
    for row in rows:
        if row["library"] == "mine":
            assert float(row["error after"].rstrip("%")) < float(row["error before"].rstrip("%"))


def test_the_database_comes_first(calibrated: tuple[Path, Any]) -> None:
    own = find_accelerator("h200-sxm", [calibrated[0]])
    assert next(iter(own.kernels["gemm"])) == "mine"
    one = own.kernels["gemm"]["mine"]["bf16"].fit
    assert one.source.startswith("measured-")
    assert one.version == "2.11.0"
    assert one.error is not None and one.error < 0.07
    assert one.range["m"] == (1.0, 16384.0)


def test_a_plan_uses_it(run: Any, calibrated: tuple[Path, Any]) -> None:
    job = ("llama-3.1-8b", "--cluster", "hgx-h200", "--devices", "8", "--seq-len", "4096")
    job = (*job, "--global-batch", "64", "--top", "1", "--format", "json")
    plain, own = (
        json.loads(run("train", *job, *more).stdout) for more in ((), ("--db", str(calibrated[0])))
    )
    assert plain["inputs"]["digests"]["cluster"] != own["inputs"]["digests"]["cluster"]
    assert plain["plans"][0]["metrics"] != own["plans"][0]["metrics"]


def test_the_same_table_gives_the_same_bytes(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = MEASURED.read_text(encoding="utf-8").splitlines(keepends=True)
    short = tmp_path / "memory.csv"
    short.write_text("".join(lines[:1] + [line for line in lines if line.startswith("memory")]))
    texts = []
    for name in ("one", "two"):
        done = run("calibrate", "--from", short.name, "--output", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        files = sorted((tmp_path / name).rglob("*.yaml"))
        texts.append([path.read_bytes() for path in files])
    assert texts[0] == texts[1]


WRONG = {
    "column": (HEAD.replace("latency_s", "latency_ms") + ROW, "unknown column 'latency_ms'"),
    "operation": (HEAD + ROW.replace("gemm", "gem"), "line 2: op: found 'gem', did you mean"),
    "part": (HEAD + ROW.replace("k=3", "j=3"), "line 2: shape: found 'j=3'"),
    "unit": (HEAD + ROW.replace("m=1;", "m=1KB;"), "found 'm=1KB', expected a whole number"),
    "time with a unit": (HEAD + ROW.replace("1e-5", "10us"), "line 2: latency_s: found '10us'"),
    "zero": (HEAD + ROW.replace("1e-5", "0"), "line 2: latency_s: found '0', expected a positive"),
    "device": (HEAD + ROW.replace("h200-sxm", "h201"), "unknown accelerator 'h201'"),
    "few": (HEAD + ROW * 8, "expected"),
    "empty": (HEAD, "found no rows"),
    "nothing": ("", "missing column 'op'"),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG)
def test_a_wrong_table(run: Any, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "times.csv").write_text(text, encoding="utf-8")
    done = run("calibrate", "--from", "times.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert expected in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["times.csv"]


OPTIONS = {
    "no file": (("--from", "nowhere.csv"), "nowhere.csv: cannot be read"),
    "both": (("--from", "a.csv", "--device", "h20"), "--device go with measuring"),
    "file": (("--from", str(MEASURED), "--output", str(MEASURED)), "is a file, expected a folder"),
    "format": (("--from", "a.csv", "--format", "jsn"), "did you mean 'json'"),
}


@pytest.mark.parametrize(("arguments", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_a_wrong_option(
    run: Any, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    done = run("calibrate", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert not list(tmp_path.iterdir())
