"""No group of evidence gets worse unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

from planner.evidence.medians import medians, read_medians, worse, write_medians

from .conftest import own_report


def test_no_median_has_grown_by_more_than_two_points() -> None:
    reached = read_medians()
    assert len(reached) > 40
    assert not worse(own_report(), reached)


def test_a_loss_would_be_found(tmp_path: Path) -> None:
    report = own_report()
    now = medians(report)
    name = next(iter(now))
    assert worse(report, {name: now[name] - 0.03}) == {name: (now[name] - 0.03, now[name])}
    assert not worse(report, {name: now[name] - 0.01})


def test_what_was_reached_is_never_raised(tmp_path: Path) -> None:
    report, path = own_report(), tmp_path / "medians.json"
    now = medians(report)
    name = next(iter(now))
    path.write_text(json.dumps({name: 0.0}), encoding="utf-8")
    write_medians(report, path)
    found = read_medians(path)
    assert found[name] == 0.0
    assert {k: v for k, v in found.items() if k != name} == {
        k: v for k, v in now.items() if k != name
    }
