"""The k best of a stream: by score, then by key, whatever the order of arrival and the noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from planner.search.best import TIE, Best

Rows = list[tuple[int, int]]

NOISE = 1e-12

# Few distinct scores and keys, so that ties are common.
candidates = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 5), st.integers(0, 5)), max_size=200
).map(lambda rows: list({row[1:]: row for row in rows}.values()))


def offer(best: Best, scores: list[float], keys: Rows) -> None:
    """Offer what passes the threshold, as a search does."""
    array = np.array(scores, dtype=float)
    passed = array <= best.threshold
    best.offer(array[passed], np.array(keys, dtype=np.int64).reshape(-1, 2)[passed])


def ranked(best: Best) -> tuple[NDArray[np.float64], Rows]:
    scores, keys = best.ranked()
    return scores, [(int(a), int(b)) for a, b in keys]


@given(candidates, st.integers(1, 12), st.integers(1, 7), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_the_k_best_are_those_of_a_sort_by_score_and_key(rows, k, block, random) -> None:
    expected = [row[1:] for row in sorted(rows)][:k]
    best = Best(k, 2)
    random.shuffle(rows)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        noisy = [score * (1.0 + random.uniform(-NOISE, NOISE)) for score, *_ in part]
        offer(best, noisy, [row[1:] for row in part])
    scores, keys = ranked(best)
    assert keys == expected
    assert scores == pytest.approx([row[0] for row in sorted(rows)][:k], rel=1e-11)


def test_nothing_offered_ranks_nothing() -> None:
    scores, keys = Best(3, 4).ranked()
    assert scores.shape == (0,)
    assert keys.shape == (0, 4)


def test_fewer_candidates_than_k_are_all_kept() -> None:
    best = Best(10, 2)
    offer(best, [2.0, 1.0], [(0, 0), (1, 1)])
    assert ranked(best)[1] == [(1, 1), (0, 0)]


def test_equal_scores_rank_by_key_and_not_by_noise() -> None:
    best = Best(2, 2)
    offer(best, [1.0, 1.0 + 1e-13, 1.0 - 1e-13], [(0, 1), (0, 0), (3, 3)])
    assert ranked(best)[1] == [(0, 0), (0, 1)]


def test_a_real_difference_outranks_the_key() -> None:
    best = Best(2, 2)
    offer(best, [1.0 + 1e-6, 1.0], [(0, 0), (9, 9)])
    assert ranked(best)[1] == [(9, 9), (0, 0)]


def test_a_tie_with_the_kth_that_arrives_late_still_enters_by_its_key() -> None:
    best = Best(1, 2)
    offer(best, [1.0], [(9, 9)])
    for _ in range(70):  # enough to make it forget what cannot win
        offer(best, [2.0], [(5, 5)])
    offer(best, [1.0 + NOISE], [(0, 0)])
    assert ranked(best)[1] == [(0, 0)]


def test_the_threshold_is_open_until_k_are_known_and_then_just_above_the_kth() -> None:
    best = Best(3, 2)
    offer(best, [1.0, 2.0], [(0, 0), (0, 1)])
    best.ranked()
    assert best.threshold == np.inf
    offer(best, [4.0, 3.0], [(0, 2), (0, 3)])
    best.ranked()
    assert 3.0 < best.threshold <= 3.0 * (1.0 + 2.0 * TIE)


def test_the_threshold_only_falls_while_candidates_stream_in() -> None:
    best, seen = Best(2, 2), []
    random = np.random.default_rng(0)
    for step in range(100):
        offer(best, random.uniform(1.0, 2.0, 20).tolist(), [(step, i) for i in range(20)])
        seen.append(best.threshold)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 1.02
