"""Whole steps of real devices: the predictions stay as right as they are, and are told."""

from __future__ import annotations

import pytest

from planner.evidence.whole_steps import errors, section, whole_steps

MOST = {
    ("decode", "time"): 0.15,
    ("decode", "memory"): 0.02,
    ("prefill", "time"): 0.13,
    ("prefill", "memory"): 0.03,
    ("training", "time"): 0.19,
    ("training", "memory"): 0.12,
}
"""Median errors that were reached, and two points."""


@pytest.mark.parametrize("phase", ["decode", "prefill", "training"])
def test_median_errors(phase: str) -> None:
    for name, middle, *_ in errors(phase):
        assert middle <= MOST[phase, name], name


def test_every_measured_step_is_predicted() -> None:
    rows = whole_steps()
    assert len(rows) > 70
    assert {row.cells["accelerator"] for row in rows} == {"h100-sxm", "h200-sxm"}
    assert all(0.5 < row.time_ratio < 1.5 for row in rows)
    assert all(0.9 < row.memory_ratio < 1.25 for row in rows)


def test_dense_decoding_of_many_sequences_is_within_a_tenth() -> None:
    rows = [r for r in whole_steps() if r.phase == "decode" and "a3b" not in r.cells["model"]]
    large = [r for r in rows if float(r.cells["batch"]) * float(r.cells["tokens"]) > 2e5]
    assert len(large) >= 6
    assert all(abs(row.time_ratio - 1.0) < 0.10 for row in large)


def test_the_page_tells_every_step() -> None:
    text = "\n".join(section())
    assert text.count("| h200-sxm |") == sum(
        row.cells["accelerator"] == "h200-sxm" for row in whole_steps()
    )
