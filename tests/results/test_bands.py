"""Expected errors: of the same generation, else of all and marked, else unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.errors import PlannerError
from planner.results.bands import Band, expected_errors

BANDS = {
    "version": 1,
    "training": {
        "time": {
            "all": {"p90": 0.3, "rows": 900},
            "Hopper": {"p90": 0.12, "rows": 340},
            "megatron on Hopper": {"p90": 0.1, "rows": 200},
        },
        "memory": {},
    },
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "error_bands.json"
    path.write_text(json.dumps(BANDS))
    return path


def test_the_same_generation_is_taken_first(file: Path) -> None:
    band = expected_errors("training", "hopper", file=file)["time"]
    assert band == Band(0.12, 340, "Hopper")
    assert not band.unlike_any_evidence


def test_another_generation_takes_all_and_is_marked(file: Path) -> None:
    band = expected_errors("training", "Blackwell", file=file)["time"]
    assert (band.p90, band.rows) == (0.3, 900)
    assert band.unlike_any_evidence


def test_without_any_row_the_error_is_unknown(file: Path, tmp_path: Path) -> None:
    assert expected_errors("training", "Hopper", file=file)["memory"].p90 is None
    assert expected_errors("serving", "Hopper", file=file)["time"].p90 is None
    assert expected_errors("training", "Hopper", file=tmp_path / "none.json")["time"].p90 is None


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}'])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bands.json"
    path.write_text(text)
    with pytest.raises(PlannerError, match=r"bands\.json"):
        expected_errors("training", "Hopper", file=path)
