"""The cost tree adds up: whatever hides what, exposed seconds sum to the parent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.tree import Cost, behind, leaf, overlap, repeat, seq

A, B, C = leaf("a", 3.0, "compute"), leaf("b", 5.0, "link"), leaf("c", 4.0, "memory")
COMBINERS = ("seq", "overlap", "repeat", "behind")


def walk(cost: Cost) -> Iterator[Cost]:
    yield cost
    for child in cost.children:
        yield from walk(child)


def assert_adds_up(cost: Cost) -> None:
    for node in walk(cost):
        if node.children:
            assert len(node.children) == len(node.exposed)
            np.testing.assert_allclose(sum(node.exposed), node.seconds, rtol=1e-12, atol=1e-15)


seconds = st.floats(0.0, 1e3, allow_nan=False)
trees = st.recursive(
    seconds.map(lambda value: leaf("leaf", value)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(lambda kids: seq("seq", kids)),
        st.lists(inner, min_size=1, max_size=4).map(lambda kids: overlap("overlap", kids)),
        st.tuples(inner, st.floats(0.0, 50.0)).map(lambda pair: repeat("repeat", *pair)),
        st.tuples(inner, seconds).map(lambda pair: behind("behind", *pair)),
    ),
    max_leaves=12,
)


@given(trees)
def test_exposed_seconds_always_sum_to_the_parent(tree: Cost) -> None:
    assert_adds_up(tree)
    assert all(np.all(np.asarray(part) >= 0.0) for node in walk(tree) for part in node.exposed)


def test_seq_is_the_sum_and_exposes_everything() -> None:
    cost = seq("all", [A, B, C])
    assert cost.seconds == 12.0
    assert cost.exposed == (3.0, 5.0, 4.0)


def test_seq_of_nothing_takes_no_time() -> None:
    assert seq("none", []).seconds == 0.0


def test_overlap_is_the_longest_and_attributes_in_order() -> None:
    cost = overlap("all", [A, B, C])
    assert cost.seconds == 5.0
    assert cost.exposed == (3.0, 2.0, 0.0)
    assert overlap("all", [B, A, C]).exposed == (5.0, 0.0, 0.0)


def test_overlap_keeps_the_hidden_childs_own_time() -> None:
    assert overlap("all", [B, A]).children[1].seconds == 3.0


def test_repeat_multiplies_and_keeps_the_single_child() -> None:
    cost = repeat("ten", A, 10.0)
    assert (cost.seconds, cost.exposed, cost.times) == (30.0, (30.0,), 10.0)
    assert cost.children[0].seconds == 3.0
    assert repeat("half", A, 0.5).seconds == 1.5


@pytest.mark.parametrize(("window", "left"), [(0.0, 5.0), (3.0, 2.0), (5.0, 0.0), (9.0, 0.0)])
def test_behind_leaves_what_the_window_does_not_hide(window: float, left: float) -> None:
    cost = behind("b, hidden", B, window)
    assert (cost.seconds, cost.exposed, cost.children) == (left, (left,), (B,))


def test_row_is_the_tree_of_one_candidate_in_floats() -> None:
    many = leaf("many", np.array([1.0, 2.0, 8.0]), "compute")
    often = repeat("often", many, np.array([2.0, 3.0, 4.0]))
    tree = seq("root", [overlap("both", [many, B]), often])
    row = tree.row(2)
    assert row.seconds == 8.0 + 32.0
    assert [child.name for child in row.children] == ["both", "often"]
    assert row.children[0].exposed == (8.0, 0.0)
    assert row.children[0].children[1].seconds == 5.0  # a scalar is the same in every row
    assert row.children[1].times == 4.0
    assert row.children[0].children[0].lane == "compute"
    assert all(isinstance(node.seconds, float) for node in walk(row))
    assert_adds_up(row)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_rows_of_a_batch_equal_trees_built_alone(index: int) -> None:
    values = [np.array([1.0, 7.0, 3.0]), np.array([4.0, 2.0, 3.0]), np.array([0.5, 9.0, 0.0])]

    def build(a: object, b: object, c: object) -> Cost:
        hidden = behind("hidden", leaf("c", c), 0.25)
        return repeat("root", seq("all", [overlap("o", [leaf("a", a), leaf("b", b)]), hidden]), 3.0)

    assert build(*values).row(index) == build(*(float(v[index]) for v in values)).row(0)
