"""Apportionment is the best for the largest replica, and the bounds hold for every placement."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import PlannerError
from planner.placement.replicas import balance_bound, crowded, replica_counts

loads_of = st.lists(st.integers(0, 100), min_size=2, max_size=4).filter(any)


@given(loads_of, st.integers(0, 4), st.integers(1, 4))
@settings(max_examples=200)
def test_no_other_counts_have_a_smaller_largest_replica(loads, extra, most) -> None:
    table = np.array([loads], dtype=float)
    slots = min(len(loads) + extra, len(loads) * most)
    counts = replica_counts(table, slots, most)
    assert counts.sum() == slots and counts.min() >= 1 and counts.max() <= most
    every = itertools.product(range(1, most + 1), repeat=len(loads))
    best = min(
        max(w / n for w, n in zip(loads, one, strict=True)) for one in every if sum(one) == slots
    )
    assert (table / counts).max() == pytest.approx(best)


def test_layers_are_counted_apart() -> None:
    counts = replica_counts(np.array([[8.0, 1.0, 1.0], [1.0, 1.0, 8.0]]), 6, 8)
    assert counts.tolist() == [[4, 1, 1], [1, 1, 4]]


def test_spare_slots_go_round_among_idle_experts() -> None:
    assert replica_counts(np.array([[4.0, 0.0, 0.0]]), 6, 2).tolist() == [[2, 2, 2]]


@pytest.mark.parametrize("slots", [2, 13])
def test_slots_that_cannot_be_filled_are_refused(slots: int) -> None:
    with pytest.raises(PlannerError, match=rf"slots: found {slots}, expected 3 .* to 12"):
        replica_counts(np.ones((1, 3)), slots, 4)


@given(st.lists(st.integers(0, 50), min_size=6, max_size=6).filter(any))
@settings(max_examples=60)
def test_no_packing_is_below_the_bound(loads) -> None:
    table = np.array([loads], dtype=float)
    bound = balance_bound(table, np.ones((1, 6), dtype=np.int64), 3)[0]
    orders = np.array(list(itertools.permutations(range(6))))
    best = table[0][orders].reshape(-1, 3, 2).sum(axis=2).max(axis=1).min()
    assert bound <= best / (table.sum() / 3) * (1.0 + 1e-12)


def test_the_bound_is_at_least_the_heaviest_expert_over_its_most_replicas() -> None:
    table = np.array([[90.0, 1.0, 1.0, 1.0]])
    counts = replica_counts(table, 6, 2)
    assert balance_bound(table, counts, 2)[0] >= 90.0 / 2 / (93.0 / 2)


def test_two_of_the_heaviest_share_a_device() -> None:
    # 4 heavy and 2 light experts on 3 devices of two: some device has two heavy ones
    assert crowded(np.array([[5.0, 5.0, 5.0, 5.0, 1.0, 1.0]]), 3)[0] == 10.0
