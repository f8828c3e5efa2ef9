"""Ranked deployments: legal layouts, exact counts, targets that hold, and what cannot be met."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

import planner
from planner.errors import Infeasible, PlannerError
from planner.serving.space import replicas
from planner.specs.catalog import find_cluster
from planner.specs.models_catalog import find_model

CHAT = {"devices": 16, "isl": 1000, "osl": 200, "weights": "fp8"}


def ranked(model: str = "llama-3.1-70b", cluster: str = "dgx-h100", **options: object):
    return planner.plan_serving(model, cluster, **{**CHAT, **options})


class TestSpace:
    @pytest.mark.parametrize("name", ["llama-3.1-70b", "deepseek-v3", "qwen3.5-397b-a17b"])
    def test_every_layout_is_legal(self, name: str) -> None:
        model, most = find_model(name), 64
        found = replicas(model, find_cluster("hgx-h200"), most)
        split = found.split
        assert np.all(found.devices <= most)
        assert np.all(split.tp * split.attention_dp == split.ep * split.moe_tp)
        for layer, tp in product(set(model.layers), np.unique(split.tp)):
            assert layer.attention.heads % tp == 0
        rows = list(zip(split.tp, split.attention_dp, split.ep, found.pp, strict=True))
        assert len(rows) == len(set(rows)) > 10

    def test_a_dense_model_has_no_spread_experts(self) -> None:
        found = replicas(find_model("llama-3.1-70b"), find_cluster("dgx-h100"), 16)
        assert set(found.split.ep) == {1.0} == set(found.split.attention_dp)


class TestRanking:
    def test_targets_hold_and_the_best_comes_first(self) -> None:
        found = ranked(ttft=0.5, tpot=0.03)
        rates = [plan["output_tokens_per_s"] for plan in found]
        assert rates == sorted(rates, reverse=True)
        for plan in found:
            assert plan["ttft"] <= 0.5 + 1e-9
            assert plan["tpot"] <= 0.03
            assert plan["devices"] <= 16
            assert sum(plan.memory.values()) <= 0.95 * 80 * 2**30

    def test_looser_targets_never_serve_less(self) -> None:
        tight = ranked(ttft=0.3, tpot=0.02).plan(1)["output_tokens_per_s"]
        loose = ranked(ttft=2.0, tpot=0.1).plan(1)["output_tokens_per_s"]
        assert loose >= tight

    @pytest.mark.parametrize("architecture", ["aggregated", "shared-device", "disaggregated"])
    def test_any_is_the_best_of_both(self, architecture: str) -> None:
        best = ranked(tpot=0.03).plan(1)["output_tokens_per_s"]
        only = ranked(tpot=0.03, architecture=architecture)
        assert {plan["architecture"] for plan in only} == {architecture}
        assert only.plan(1)["output_tokens_per_s"] <= best

    def test_the_fewest_devices_for_a_rate(self) -> None:
        found = ranked(rate=2.0, tpot=0.05, objective="devices", top=50)
        devices = [plan["devices"] for plan in found]
        assert devices == sorted(devices)
        assert all(plan["requests_per_s"] >= 2.0 for plan in found)

    def test_a_plan_adds_up(self) -> None:
        plan = ranked(tpot=0.03).plan(1)
        assert plan.tree.on_path == pytest.approx(plan["tpot"])
        assert sum(child.on_path for child in plan.tree.children) == pytest.approx(plan["tpot"])
        assert plan["peak_memory"] == pytest.approx(sum(plan.memory.values()))
        tokens = plan["requests_per_s"] * 200
        assert plan["tokens_per_s_per_device"] == pytest.approx(tokens / 16)

    def test_the_same_question_gives_the_same_bytes(self) -> None:
        texts = []
        for _ in range(2):
            data = json.loads(ranked().to_json())
            data["search"].pop("seconds")
            texts.append(json.dumps(data))
        assert texts[0] == texts[1]

    def test_the_checkpoint_decides_the_datatype(self) -> None:
        found = planner.plan_serving("deepseek-v3", "hgx-h200", devices=16, isl=1000, osl=200)
        assert found.inputs["resolved"]["weights"] == "fp8_block"


WRONG = {
    "both numbers": ({"max_devices": 8}, "expected it or --max-devices, and not both"),
    "both loads": ({"rate": 1.0, "concurrency": 8}, "expected one of them"),
    "axis": ({"fixed": {"tensor": 8}}, "unknown axis 'tensor'"),
    "axis value": ({"fixed": {"tp": "eight"}}, "--tp: found 'eight', expected a whole number"),
    "measured": ({"measured": 0.03}, "found no --baseline"),
    "devices": ({"devices": 0}, "devices: found 0, expected a positive whole number"),
    "too many": ({"devices": 10**7}, "expected at most"),
    "ttft": ({"ttft": 300.0}, "ttft: found 300 s, expected at most 120 s; did you mean 300ms?"),
    "tpot": ({"tpot": 30.0}, "did you mean 30ms?"),
    "hit": ({"prefix_hit": 1.0}, "prefix_hit: found 1.0"),
    "engine": ({"engine": "vlm"}, "did you mean 'vllm'"),
    "weights": ({"weights": "fp7"}, "weights: found 'fp7', did you mean 'fp8'"),
    "architecture": (
        {"architecture": "both"},
        "expected one of any, aggregated, shared-device, disaggregated",
    ),
    "objective": ({"objective": "devices"}, "found no rate"),
    "fraction": ({"memory_fraction": 1.5}, "memory_fraction: found 1.5"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(PlannerError) as error:
        ranked(**options)
    assert message in str(error.value)
    assert not isinstance(error.value, Infeasible)


UNMET = {
    "memory": ({"devices": 1, "weights": "bf16"}, "does not fit: no layout of up to 1 h100-sxm"),
    "tpot": ({"tpot": 1e-4}, "no deployment meets tpot 100 us: the fastest takes"),
    "ttft": ({"ttft": 1e-3}, "no deployment meets ttft 1 ms: the fastest takes"),
    "rate": ({"rate": 1e4}, "serves 10000 requests per second"),
}


@pytest.mark.parametrize(("options", "message"), UNMET.values(), ids=UNMET)
def test_what_cannot_be_met_says_which_target_and_by_how_much(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(Infeasible) as error:
        ranked(**options)
    assert message in str(error.value)
