"""Result files: they read back as they were, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.errors import PlannerError
from planner.results import files
from planner.results.plan import Plan
from planner.results.ranking import Baseline, Ranking


def test_a_ranking_reads_back_as_it_was(ranking: Ranking, deep_plan: Plan, tmp_path: Path) -> None:
    whole = replace(
        ranking,
        plans=(deep_plan, ranking.plans[1]),
        baseline=Baseline(ranking.plans[1], 7.0, 1.25),
        pareto=(deep_plan,),
    )
    files.write(tmp_path / "plans.json", whole.to_json())
    again = files.load(tmp_path / "plans.json")
    assert again == whole
    assert again.to_json() == whole.to_json()


def test_json_says_version_kind_definitions_and_a_breakdown_that_adds_up(ranking: Ranking) -> None:
    data = json.loads(ranking.to_json())
    assert (data["version"], data["kind"]) == (1, "training")
    assert set(data["plans"][0]["metrics"]) == set(data["metrics"])
    root = data["plans"][0]["breakdown"]
    assert sum(child["on_path"] for child in root["children"]) == pytest.approx(root["on_path"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no whole JSON"),
        ('{"version": 1, "kind": "training", "plans": [', "no whole JSON"),
        ("[]", "not a result file"),
        ('{"plans": []}', "not a result file"),
        ('{"version": 99, "kind": "training"}', "version 99 of the result format, expected 1"),
        ('{"version": 1, "kind": "training"}', "damaged"),
        ('{"version": 1, "kind": "training", "metrics": 3}', "damaged"),
    ],
)
def test_what_is_not_a_whole_result_of_this_version_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "plans.json"
    path.write_text(text)
    with pytest.raises(PlannerError, match=message) as caught:
        files.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlannerError, match=r"nowhere\.json: cannot be read: no such file"):
        files.load(tmp_path / "nowhere.json")


def test_binary_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlannerError, match="not a result file"):
        files.load(tmp_path / "x")


@pytest.mark.parametrize("place", ["", "no/such/folder/plans.json"])
def test_an_unwritable_output_is_refused_before_the_work(tmp_path: Path, place: str) -> None:
    with pytest.raises(PlannerError, match="cannot be written"):
        files.check_writable(tmp_path / place)
    assert list(tmp_path.iterdir()) == []


def test_checking_leaves_nothing_behind_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    path.write_text("old")
    files.check_writable(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plans.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("planner.results.files.os.fsync", full)
    with pytest.raises(PlannerError, match="no space left"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
