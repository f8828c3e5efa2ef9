"""Explanations and comparisons as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.errors import PlannerError
from planner.results.compare import differences
from planner.results.explain import explain, tree_lines
from planner.results.plan import Plan
from planner.results.ranking import Baseline, Ranking


def line_with(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


def test_the_tree_shows_path_own_share_and_what_binds(ranking: Ranking) -> None:
    lines = "\n".join(tree_lines(ranking.plans[0].tree))
    assert line_with(lines, "step").split()[1:] == ["5", "s", "5", "s", "100.0", "%", "compute"]
    assert "20.0 %" in line_with(lines, "gather")


def test_hidden_communication_is_visible(ranking: Ranking) -> None:
    exchange = line_with("\n".join(tree_lines(ranking.plans[0].tree)), "exchange")
    assert "0 ns" in exchange and "2 s" in exchange


def test_parts_below_the_threshold_become_one_line(ranking: Ranking) -> None:
    coarse = "\n".join(tree_lines(ranking.plans[0].tree, threshold=0.5))
    assert "2 smaller parts" in coarse and "gather" not in coarse


def test_assumptions_stand_in_the_order_of_their_weight(deep_plan: Plan) -> None:
    text = explain(deep_plan)
    assert text.index("overlap on") < text.index("imbalance 1.1") < text.index("overhead 1 GiB")


def test_what_helps_most_stands_first_and_what_does_nothing_is_left_out(deep_plan: Plan) -> None:
    text = explain(deep_plan)
    assert text.index("+10 % peak compute: -8.0 %") < text.index("+10 % memory bandwidth: -0.1 %")
    assert "latency" not in text


def test_a_missing_metric_is_left_out(ranking: Ranking) -> None:
    assert "price" in explain(ranking.plans[0])
    assert "price" not in explain(ranking.plans[1])


def test_sensitivities_are_computed_once_and_only_when_asked_for(ranking: Ranking) -> None:
    calls = []

    def deepen(plan: Plan) -> Plan:
        calls.append(plan.rank)
        return replace(plan, sensitivities=())

    plan = replace(ranking.plans[0], deepen=deepen)
    plan.to_dict()
    assert calls == []
    deep = plan.deepened()
    deep.deepened()
    assert calls == [1]


def test_differences_sum_to_the_difference(ranking: Ranking) -> None:
    first, second = ranking.plans
    rows = differences(first, second)
    assert sum(b - a for _, a, b in rows) == pytest.approx(second["time"] - first["time"])
    assert rows[0][0] == "gemm"


def test_a_comparison_names_axes_terms_and_memory(ranking: Ranking) -> None:
    text = ranking.compare(1, 2)
    assert "plan 1 -> plan 2: tp=4 -> 8" in text
    assert line_with(text, "gemm").split() == ["gemm", "4", "s", "6", "s", "+2", "s"]
    assert line_with(text, "weights").endswith(" 0")


def test_a_rank_that_does_not_exist_is_refused(ranking: Ranking) -> None:
    for rank in (0, 3):
        with pytest.raises(PlannerError, match="expected 1 to 2"):
            ranking.explain(rank)


def test_a_baseline_is_named_with_its_scale_and_the_terms_that_differ(ranking: Ranking) -> None:
    first, second = ranking.plans
    better = replace(first, metrics={**first.metrics, "gain": 0.4})
    against = replace(ranking, plans=(better,), baseline=Baseline(second, 7.0, 1.25))
    text = against.explain(1)
    assert "measured 7 s, every time scaled by 1.250): +40.0 % throughput" in text
    assert line_with(text[text.index("against") :], "gemm").endswith("-2 s")
