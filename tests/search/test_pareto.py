"""The front of a stream: what no other candidate beats on two measures at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.search.pareto import Front

points = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=120)


def brute_force(rows: list[tuple[int, int, int]]) -> list[int]:
    """Keys of the candidates that none beats, the smallest key of equals, least y first."""
    kept = [
        (y, x, key)
        for x, y, key in rows
        if not any(
            (a <= x and b <= y and (a, b) != (x, y)) or ((a, b) == (x, y) and other < key)
            for a, b, other in rows
        )
    ]
    return [key for _, _, key in sorted(kept)]


@given(points, st.integers(1, 9), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_the_front_is_that_of_comparing_all_pairs(pairs, block, noisy, random) -> None:
    rows = [(x, y, key) for key, (x, y) in enumerate(pairs)]
    expected = brute_force(rows)
    random.shuffle(rows)
    front = Front(1)
    for start in range(0, len(rows), block):
        part = np.array(rows[start : start + block], dtype=float)
        noise = [1.0 + noisy * random.uniform(-1e-12, 1e-12) for _ in part]
        x, y = part[:, 0] * noise, part[:, 1] * noise[::-1]
        useful = front.useful(x, y)
        front.offer(x[useful], y[useful], part[useful, 2:].astype(np.int64))
    assert front.ranked()[:, 0].tolist() == expected


def test_nothing_offered_gives_an_empty_front() -> None:
    assert Front(3).ranked().shape == (0, 3)
