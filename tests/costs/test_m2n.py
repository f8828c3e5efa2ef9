"""Transfers between two pools: the busiest end, and what many small messages cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.m2n import Wire, many_to_many, peers

PLAIN = Wire(50e9, 50e9, 8e-6)


def test_large_transfers_take_their_bytes_over_the_bandwidth() -> None:
    assert many_to_many(PLAIN, 50e9, 8, 50e9, 8) == pytest.approx(1.0, rel=1e-4)


def test_nothing_takes_the_latency() -> None:
    assert many_to_many(PLAIN, 0.0, 0.0, 0.0, 0.0) == 8e-6


def test_each_end_has_its_own_network() -> None:
    """H20 sends four times as fast as L40S takes: as many bytes each, or a quarter."""
    wire = Wire(50e9, 12.5e9, 0.0)
    assert many_to_many(wire, 1e9, 1, 1e9, 1) == pytest.approx(0.08)
    assert many_to_many(wire, 1e9, 1, 0.25e9, 1) == pytest.approx(0.02)
    assert many_to_many(wire.back, 0.25e9, 1, 1e9, 1) == pytest.approx(0.02)


@pytest.mark.parametrize("size", [2e3, 256e3, 8e6])
def test_small_messages_reach_part_of_the_bandwidth(size: float) -> None:
    """MegaScale-Infer's Util of a message of x bytes: x / (x + p B)."""
    wire = Wire(25e9, 25e9, 0.0, 1e-6)
    reached = 8 * size / float(many_to_many(wire, 8 * size, 8, 0.0, 0))
    assert reached / 25e9 == pytest.approx(size / (size + 25e3))


@given(*[st.floats(0.0, 1e9)] * 2, *[st.integers(0, 300)] * 2, st.floats(1.0, 8.0))
def test_more_of_anything_takes_no_less(
    sent: float, received: float, messages: int, arrivals: int, more: float
) -> None:
    wire = Wire(50e9, 25e9, 8e-6, 1e-6)
    now = many_to_many(wire, sent, messages, received, arrivals)
    for part in range(4):
        grown = [sent, messages, received, arrivals]
        grown[part] *= more
        assert many_to_many(wire, *grown) >= now


class TestMessages:
    def test_every_sender_to_every_receiver(self) -> None:
        assert peers(32, 1e6, 1, 1) == 32

    def test_no_more_than_there_are_copies(self) -> None:
        assert peers(256, 8.0, 1, 1) == 8

    @pytest.mark.parametrize(("own", "other", "each"), [(1, 8, 8), (8, 1, 1), (4, 8, 2), (8, 8, 1)])
    def test_parts_of_a_token_go_to_those_that_hold_the_same(
        self, own: int, other: int, each: int
    ) -> None:
        assert peers(16, 1e6, own, other) == 16 * each


def test_rows_are_as_if_alone() -> None:
    sent = np.array([1e6, 5e6, 9e6])
    many = many_to_many(PLAIN, sent, 8, 2e6, 4)
    assert list(many) == [float(many_to_many(PLAIN, one, 8, 2e6, 4)) for one in sent]
