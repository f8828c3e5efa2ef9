"""Overlap and imbalance: switched off they are the base form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.imbalance import busiest
from planner.costs.overlap import STOLEN, behind_work

seconds = st.floats(0.0, 1e3)


@given(work=seconds)
def test_without_a_transfer_work_takes_its_own_time(work: float) -> None:
    assert behind_work(work, 0.0) == work


@given(transfer=seconds)
def test_without_work_a_transfer_takes_its_own_time(transfer: float) -> None:
    assert behind_work(0.0, transfer) == transfer


@given(work=seconds, transfer=seconds)
def test_between_the_longer_and_the_sum(work: float, transfer: float) -> None:
    both = behind_work(work, transfer)
    assert max(work, transfer) <= both <= work + transfer + 1e-9


@given(work=seconds, transfer=seconds, more=seconds)
def test_monotone_in_both(work: float, transfer: float, more: float) -> None:
    both = behind_work(work, transfer)
    assert behind_work(work + more, transfer) >= both - 1e-9
    assert behind_work(work, transfer + more) >= both - 1e-9


def test_a_hidden_transfer_takes_multiprocessors_while_it_lasts() -> None:
    assert behind_work(10.0, 4.0) == pytest.approx(10.0 + 4.0 * STOLEN)
    assert behind_work(10.0, 11.0) == pytest.approx(10.0 + 10.0 * STOLEN)  # while work lasts
    assert pytest.approx(20 / 132, abs=0.01) == STOLEN


def test_the_busiest_device_has_the_mean_times_the_imbalance() -> None:
    assert busiest(100.0, 1.0) == 100.0
    np.testing.assert_array_equal(busiest(np.array([100.0, 10.0]), np.array([1.2, 3.0])), [120, 30])
