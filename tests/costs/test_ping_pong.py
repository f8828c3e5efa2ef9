"""Micro-batches between two pools: brackets and rules of the papers, and the best ratio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.ping_pong import (
    attention_ratio,
    fewest_micro_batches,
    idle_share,
    layer_period,
    whole_step,
)

times = st.floats(1e-5, 1e-2)


def replay(m: int, stages: tuple[float, ...], layers: int) -> float:
    """Time of ``m`` micro-batches through ``layers`` rounds; a station serves one at a time."""
    free = [0.0] * len(stages)
    ready = [0.0] * m
    for _ in range(layers):
        for batch in range(m):
            now = ready[batch]
            for station, taken in enumerate(stages):
                now = free[station] = max(now, free[station]) + taken
            ready[batch] = now
    return max(ready)


@given(st.integers(1, 6), times, times, times, times)
def test_the_period_is_that_of_a_replay(m: int, a: float, d: float, e: float, c: float) -> None:
    few, many = (replay(m, (a, d, e, c), layers) for layers in (60, 120))
    assert layer_period(m, a, d, e, c) == pytest.approx((many - few) / 60, rel=1e-9)


@given(st.integers(1, 6), st.integers(1, 30), times, times, times, times)
def test_a_step_on_empty_pools_is_that_of_a_replay(
    m: int, layers: int, a: float, d: float, e: float, c: float
) -> None:
    found = whole_step(layers, m, a, d, e, c)
    assert found == pytest.approx(replay(m, (a, d, e, c), layers), rel=1e-9)


@given(st.integers(1, 6), st.integers(1, 30), times, times, times, times)
def test_filling_takes_no_longer_than_a_round(
    m: int, layers: int, a: float, d: float, e: float, c: float
) -> None:
    filling = whole_step(layers, m, a, d, e, c) - layers * layer_period(m, a, d, e, c)
    assert -1e-12 <= filling <= (a + d + e + c) * (1.0 + 1e-9) + (m - 1) * max(a, d, e, c)


@given(st.integers(2, 4), times, times, st.floats(0.0, 1.0))
def test_it_lies_within_the_brackets_of_megascale_infer(
    m: int, a: float, e: float, part: float
) -> None:
    """Equations 4 and 5, for m that keeps both pools busy."""
    stage = max(a, e)
    c = part * stage
    if m < 2.0 * (1.0 + c / stage):
        return
    layers = 56
    found = layers * float(layer_period(m, a, c, e, c))
    assert found <= m * stage * layers * (1.0 + 1e-12)
    assert found >= (a + e + 2 * c) + m * stage * (layers - 1) - 1e-12


def test_three_micro_batches_hide_short_transfers_and_four_longer_ones() -> None:
    assert fewest_micro_batches(1.0, 0.49) == 3
    assert fewest_micro_batches(1.0, 0.51) == 4
    assert fewest_micro_batches(1.0, 0.0) == 2


def test_too_few_micro_batches_leave_both_pools_waiting() -> None:
    one = layer_period(1, 1.0, 0.2, 1.0, 0.2)
    two = layer_period(2, 1.0, 0.2, 1.0, 0.2)
    three = layer_period(3, 1.0, 0.2, 1.0, 0.2)
    assert (one, two, three) == (pytest.approx(2.4), pytest.approx(2.4), pytest.approx(3.0))
    assert 2 * one / two == pytest.approx(2.0)  # published: 1.9 times from one to two
    assert 1.1 <= (3 / three) / (2 / two) <= 1.38  # published: from two to three
    assert idle_share(3, 1.0, three) == pytest.approx(0.0)


def test_uneven_stages_leave_the_shorter_one_waiting() -> None:
    """1 - min / max of both stages, once enough micro-batches are in flight."""
    period = layer_period(4, 1.0, 0.1, 0.75, 0.1)
    assert idle_share(4, 1.0, period) == pytest.approx(0.0)
    assert idle_share(4, 0.75, period) == pytest.approx(0.25)


def test_a_slow_network_is_a_station_like_the_pools() -> None:
    """Step-3's three stages: attention, network and experts, the longest of which is the pace."""
    assert layer_period(3, 1.0, 0.5, 1.0, 0.5) == pytest.approx(3.0)
    assert layer_period(3, 1.0, 2.0, 1.0, 0.5) == pytest.approx(6.0)


@pytest.mark.parametrize("attention", [0.2e-3, 1e-3, 4e-3])
@pytest.mark.parametrize("transfer", [0.1e-3, 2e-3])
@pytest.mark.parametrize(("slope", "intercept"), [(1e-6, 2e-4), (4e-6, 1e-5)])
def test_the_ratio_is_that_of_brute_force(
    attention: float, transfer: float, slope: float, intercept: float
) -> None:
    slots = 256.0
    ratios = np.geomspace(0.01, 100.0, 400_001)
    cycle = np.maximum(np.maximum(attention, transfer), slope * ratios * slots + intercept)
    served = ratios * slots / ((ratios + 1.0) * cycle)
    best = ratios[served.argmax()]
    assert attention_ratio(attention, transfer, slope, intercept, slots) == pytest.approx(
        best, rel=1e-4
    )
