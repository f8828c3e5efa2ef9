"""Plans and rankings as plain data, there and back.

The layout of the JSON files: a change that an older reader would misread raises ``VERSION``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from planner.results.bands import Band
from planner.results.breakdown import Node
from planner.results.plan import Assumption, Metric, Plan, Sensitivity
from planner.results.ranking import Baseline, Column, Ranking

VERSION = 1


def to_json(ranking: Ranking) -> str:
    """The ranking as JSON text that ends with a new line; the same input gives the same bytes,
    but for the rates and sizes under ``search`` that ``Ranking.search`` names."""
    return json.dumps(ranking_document(ranking), indent=1, allow_nan=False) + "\n"


def ranking_document(ranking: Ranking) -> dict[str, Any]:
    """Everything in a ranking; definitions stand once, under ``metrics``."""
    baseline = ranking.baseline
    return {
        "version": VERSION,
        "kind": ranking.kind,
        "inputs": dict(ranking.inputs),
        "metrics": {name: asdict(metric) for name, metric in ranking.definitions.items()},
        "expected_error": {name: asdict(band) for name, band in ranking.bands.items()},
        "columns": [asdict(column) for column in ranking.columns],
        "plans": [plan_document(plan) for plan in ranking.plans],
        "pareto": [plan_document(plan) for plan in ranking.pareto],
        "baseline": None
        if baseline is None
        else {
            "plan": plan_document(baseline.plan),
            "measured": baseline.measured,
            "scale": baseline.scale,
        },
        "search": dict(ranking.search),
    }


def plan_document(plan: Plan) -> dict[str, Any]:
    """One plan; ``sensitivities`` is null when nobody asked for them yet."""
    found = plan.sensitivities
    return {
        "rank": plan.rank,
        "configuration": dict(plan.configuration),
        "metrics": dict(plan.metrics),
        "memory": dict(plan.memory),
        "memory_by_stage": [
            {"stage": stage, "bytes": size} for stage, size in plan.memory_by_stage
        ],
        "breakdown": _node_document(plan.tree),
        "assumptions": [asdict(item) for item in plan.assumptions],
        "sensitivities": None if found is None else [asdict(item) for item in found],
        "flags": list(plan.flags),
        "not_expressed": list(plan.not_expressed),
        "notes": list(plan.notes),
    }


def _node_document(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {"name": node.name, "on_path": node.on_path, "own": node.own}
    if node.lane:
        found["lane"] = node.lane
    if node.children:
        found["children"] = [_node_document(child) for child in node.children]
    return found


def ranking_from(data: Mapping[str, Any]) -> Ranking:
    """The ranking that ``ranking_document`` wrote; KeyError or TypeError when it did not."""
    definitions = {name: Metric(**metric) for name, metric in data["metrics"].items()}
    baseline = data["baseline"]
    return Ranking(
        data["kind"],
        tuple(plan_from(plan, definitions) for plan in data["plans"]),
        data["inputs"],
        data["search"],
        definitions,
        tuple(Column(**column) for column in data["columns"]),
        {name: Band(**band) for name, band in data["expected_error"].items()},
        None
        if baseline is None
        else Baseline(
            plan_from(baseline["plan"], definitions), baseline["measured"], baseline["scale"]
        ),
        tuple(plan_from(plan, definitions) for plan in data["pareto"]),
    )


def plan_from(data: Mapping[str, Any], definitions: Mapping[str, Metric]) -> Plan:
    """The plan that ``plan_document`` wrote."""
    found = data["sensitivities"]
    return Plan(
        data["rank"],
        data["configuration"],
        data["metrics"],
        data["memory"],
        tuple((item["stage"], item["bytes"]) for item in data["memory_by_stage"]),
        _node_from(data["breakdown"]),
        definitions,
        tuple(Assumption(**item) for item in data["assumptions"]),
        None if found is None else tuple(Sensitivity(**item) for item in found),
        tuple(data["flags"]),
        tuple(data["not_expressed"]),
        tuple(data["notes"]),
    )


def _node_from(data: Mapping[str, Any]) -> Node:
    return Node(
        data["name"],
        data["on_path"],
        data["own"],
        data.get("lane", ""),
        tuple(_node_from(child) for child in data.get("children", ())),
    )
