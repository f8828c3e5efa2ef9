"""Products of axis values: divisors and the order of rows."""

from __future__ import annotations

from itertools import product as reference

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.search.space import divisors, product

axes = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4), min_size=1, max_size=4)


@given(st.integers(1, 5000))
def test_divisors_are_all_numbers_that_divide_in_increasing_order(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


def test_divisors_of_squares_and_primes_stand_once() -> None:
    assert divisors(1) == [1]
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
    assert divisors(8191) == [1, 8191]


@given(axes)
def test_a_product_has_every_combination_once_with_the_last_axis_fastest(
    values: list[list[int]],
) -> None:
    columns = product(*values)
    assert all(column.dtype == np.int64 for column in columns)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert rows == list(reference(*values))


def test_a_product_with_an_empty_axis_is_empty() -> None:
    assert [len(column) for column in product([1, 2], [])] == [0, 0]
