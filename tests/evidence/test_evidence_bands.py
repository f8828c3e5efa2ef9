"""Error bands: the 90th percentile by what a prediction is most like."""

import json

import pytest

from planner.evidence.bands import bands, write_bands
from planner.evidence.predict import Prediction


def errors(row, values, **stated):
    return [Prediction(row(value=1.0, **stated), 1.0 + error) for error in values]


def test_bands_by_generation_and_software(row):
    rows = [
        *errors(row, [0.1] * 9 + [0.5]),
        *errors(row, [0.3] * 5, accelerator="h100-sxm", method="fsdp"),
        *errors(row, [0.01] * 5, metric="peak_memory_bytes"),
        Prediction(row(), None, "skipped"),
    ]
    names = {"a100-sxm-80g": "Ampere", "h100-sxm": "Hopper"}
    found = bands(rows, names.__getitem__)["training"]
    assert found["time"]["Ampere"] == {"p90": pytest.approx(0.14), "rows": 10}
    assert found["time"]["fsdp on Hopper"] == {"p90": 0.3, "rows": 5}
    assert found["time"]["all"]["rows"] == 15
    assert found["memory"]["all"] == {"p90": 0.01, "rows": 5}


def test_a_handful_of_rows_makes_no_band(row):
    found = bands(errors(row, [0.1] * 4), lambda name: "Ampere")["training"]
    assert found == {"time": {}, "memory": {}}


def test_bands_are_written_as_the_results_read_them(row, tmp_path):
    results = pytest.importorskip("planner.results.bands")
    path = tmp_path / "bands.json"
    written = write_bands(errors(row, [0.1] * 9 + [0.5]), [], path)
    assert json.loads(path.read_text(encoding="utf-8")) == written
    band = results.expected_errors("training", "Ampere", file=path)["time"]
    assert (band.p90, band.rows) == (pytest.approx(0.14), 10)
