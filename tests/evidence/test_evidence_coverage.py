"""The stated bands hold what they claim on models that they were not made from."""

from __future__ import annotations

import pytest

from planner.evidence.bands import generation, served, trained
from planner.evidence.coverage import coverage
from planner.evidence.score import memory_rows, time_rows

from .conftest import own_report

LEAST = {"tpot": 0.86, "ttft": 0.86, "training time": 0.87, "training memory": 0.79}
"""Of the 90 % that a band claims; memory has few models, and two of them are unlike the others."""


@pytest.mark.parametrize("name", LEAST)
def test_nine_of_ten_rows_of_a_left_out_model_lie_within_its_band(name: str) -> None:
    tables = own_report().tables
    serving, training = tables["serving"], tables["training"]
    rows, ran = {
        "tpot": ([p for p in serving if p.row.metric == "tpot_mean_s"], served),
        "ttft": ([p for p in serving if p.row.metric == "ttft_mean_s"], served),
        "training time": (time_rows(training), trained),
        "training memory": (memory_rows(training), trained),
    }[name]
    found = coverage(rows, generation, ran)
    assert LEAST[name] <= found <= 0.97
