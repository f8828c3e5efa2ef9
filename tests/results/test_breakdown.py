"""The breakdown: two times a node, and the column on the path adds up whatever overlaps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.tree import Cost, behind, leaf, overlap, repeat, seq
from planner.results.breakdown import Node, bound_by, from_cost, lanes, leaves, terms

times = st.floats(0.0, 1e3, allow_nan=False)


def trees() -> st.SearchStrategy[Cost]:
    single = st.builds(leaf, st.sampled_from("abc"), times, st.sampled_from(["compute", "link"]))

    def inner(children: st.SearchStrategy[Cost]) -> st.SearchStrategy[Cost]:
        lists = st.lists(children, min_size=1, max_size=3)
        return st.one_of(
            st.builds(lambda c: seq("seq", c), lists),
            st.builds(lambda c: overlap("overlap", c), lists),
            st.builds(lambda c, n: repeat("repeat", c, float(n)), children, st.integers(1, 9)),
            st.builds(lambda c, w: behind("behind", c, w), children, times),
        )

    return st.recursive(single, inner, max_leaves=8)


def check_sums(node: Node) -> None:
    if node.children:
        total = sum(child.on_path for child in node.children)
        assert total == pytest.approx(node.on_path, rel=1e-9, abs=1e-9)
    for child in node.children:
        check_sums(child)


@given(trees())
def test_children_add_up_to_their_parent_on_the_path(cost: Cost) -> None:
    root = from_cost(cost)
    assert root.on_path == float(cost.seconds)
    check_sums(root)


@given(trees())
def test_terms_and_lanes_add_up_to_the_whole(cost: Cost) -> None:
    root = from_cost(cost)
    assert sum(terms(root).values()) == pytest.approx(root.on_path, rel=1e-9, abs=1e-9)
    assert sum(lanes(root).values()) == pytest.approx(root.on_path, rel=1e-9, abs=1e-9)


def test_repeated_hidden_work_shows_all_its_own_time_and_none_on_the_path() -> None:
    pair = overlap("layer", [leaf("gemm", 2.0, "compute"), leaf("exchange", 0.5, "link")])
    root = from_cost(seq("step", [repeat("10 x layer", pair, 10.0)]))
    exchange = next(node for node in leaves(root) if node.name == "exchange")
    assert exchange.on_path == 0.0
    assert exchange.own == pytest.approx(5.0)


def test_work_behind_a_window_keeps_its_own_time() -> None:
    root = from_cost(behind("reduction", leaf("all-reduce", 3.0, "link"), 2.0))
    (child,) = root.children
    assert (child.on_path, child.own) == (1.0, 3.0)


def test_a_scale_multiplies_every_time() -> None:
    cost = seq("step", [repeat("twice", leaf("gemm", 1.0, "compute"), 2.0), leaf("gather", 1.0)])
    plain, scaled = from_cost(cost), from_cost(cost, 1.5)
    assert [n.on_path for n in leaves(scaled)] == [1.5 * n.on_path for n in leaves(plain)]
    assert [n.own for n in leaves(scaled)] == [1.5 * n.own for n in leaves(plain)]


def test_a_node_is_bound_by_the_lane_with_most_of_its_path() -> None:
    root = from_cost(seq("step", [leaf("gemm", 2.0, "compute"), leaf("gather", 3.0, "link")]))
    assert bound_by(root) == "link"
