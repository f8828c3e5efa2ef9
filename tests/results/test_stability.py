"""How often the winner stays first: always where all plans err alike, else by chance."""

from __future__ import annotations

import pytest

from planner.results.breakdown import Node
from planner.results.plan import Plan
from planner.results.stability import stays_first


def plan(**seconds: float) -> Plan:
    parts = tuple(Node(lane, value, value, lane) for lane, value in seconds.items())
    total = sum(seconds.values())
    tree = Node("step", total, total, "", parts)
    return Plan(1, {}, {}, {}, (), tree, {})


def test_plans_of_one_kind_of_work_err_together() -> None:
    plans = [plan(compute=1.0), plan(compute=1.01)]
    assert stays_first(plans, [1.0, 1.0 / 1.01], 0.5) == 1.0


def test_plans_of_other_work_change_places_half_of_the_time() -> None:
    plans = [plan(compute=1.0), plan(link=1.0)]
    assert stays_first(plans, [1.0, 1.0], 0.3) == pytest.approx(0.5, abs=0.03)


def test_the_smaller_the_error_and_the_larger_the_lead_the_surer() -> None:
    plans = [plan(compute=1.0), plan(link=1.2)]
    worth = [1.0, 1.0 / 1.2]
    shares = [stays_first(plans, worth, error) or 0.0 for error in (0.5, 0.2, 0.05)]
    assert shares == sorted(shares)
    assert shares[0] < 0.8 and shares[-1] == pytest.approx(1.0, abs=0.01)


def test_without_evidence_nothing_is_said() -> None:
    assert stays_first([plan(compute=1.0)], [1.0], None) is None


def test_the_same_question_has_the_same_answer() -> None:
    plans = [plan(compute=1.0, link=0.5), plan(compute=0.7, link=0.8)]
    answers = {stays_first(plans, [1.0, 1.0], 0.2) for _ in range(3)}
    assert len(answers) == 1
