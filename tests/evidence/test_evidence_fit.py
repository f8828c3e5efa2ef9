"""The fit: few parameters, set and restored cleanly, and a solver that finds a planted answer."""

from dataclasses import replace

import numpy as np
import pytest

from planner.evidence import fit
from planner.specs.workload import SOFTWARE
from planner.training import fitted


def test_at_most_twelve_parameters_two_for_a_family_none_for_a_source():
    found = fit.parameters()
    assert len(found) <= 12
    families = [p.family for p in found if p.family]
    assert all(families.count(family) <= 2 for family in families)
    assert set(families) == {"megatron", "megatron-2022", "fsdp", "vtrain"}


def test_members_of_a_family_share_its_parameters():
    for members in fit.FAMILIES.values():
        assert len({(SOFTWARE[m].traffic, SOFTWARE[m].host) for m in members}) == 1
    assert sorted(m for members in fit.FAMILIES.values() for m in members) == sorted(SOFTWARE)


def test_parameters_are_set_for_a_block_and_restored():
    before = fitted.STRAGGLER_PER_DOUBLING
    values = {"fitted.STRAGGLER_PER_DOUBLING": 0.5, "megatron.traffic": 2.5}
    with fit.applied(values) as software:
        assert fitted.STRAGGLER_PER_DOUBLING == 0.5
        assert software["megatron"].traffic == software["megatron-bridge"].traffic == 2.5
        assert software["fsdp"] == SOFTWARE["fsdp"]
    assert before == fitted.STRAGGLER_PER_DOUBLING


def test_parameters_are_restored_after_an_error():
    before = fitted.STRAGGLER_PER_DOUBLING
    with pytest.raises(ZeroDivisionError), fit.applied({"fitted.STRAGGLER_PER_DOUBLING": 0.5}):
        raise ZeroDivisionError
    assert before == fitted.STRAGGLER_PER_DOUBLING


@pytest.fixture
def planted(row, library):
    """Runs 'measured' by the model itself with other parameters."""
    rows = [
        row(id=f"{tp}-{mb}", tp=tp, pp=1, micro_batch=mb, recompute="none", source=f"tp {tp}")
        for tp in (1, 2, 4, 8)
        for mb in (1, 2)
    ]
    truth = {"megatron.traffic": 2.0, "megatron.host": 2e-3}
    at = fit.Problem(rows, library)
    seconds = np.exp(at.residuals(truth))
    return fit.Problem(
        [replace(r, value=float(s)) for r, s in zip(rows, seconds, strict=True)], library
    ), truth


def test_the_fit_finds_a_planted_answer(planted):
    at, truth = planted
    free = [p for p in fit.parameters() if p.name in truth]
    start = fit.scan(at, {p.name: p.value for p in free}, free)
    found = fit.solve(at, start, free, rounds=8)
    assert np.abs(at.residuals(found)).max() < 0.02


def test_parameters_of_another_family_have_no_slope(planted):
    at, _ = planted
    free = [p for p in fit.parameters() if p.family == "vtrain"]
    assert not fit.jacobian(at, {p.name: p.value for p in free}, free).any()


def test_every_source_is_left_out_once(planted):
    at, _ = planted
    free = [p for p in fit.parameters() if p.family == "megatron"]
    found = fit.leave_one_out(at, free)
    assert list(found) == ["tp 1", "tp 2", "tp 4", "tp 8"]
    assert all(errors["rows"] == 2 for errors in found.values())
