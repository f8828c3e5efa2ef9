"""Asking for training plans: options, baselines, limits, and what every plan tells."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import planner
from planner import Infeasible, PlannerError
from planner.results.breakdown import Node
from planner.results.plan import Plan
from planner.results.ranking import Ranking
from planner.specs.catalog import find_cluster
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    Layer,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.parallelism import Configuration
from planner.training.devices import device_numbers
from planner.training.estimate import estimate
from planner.training.plan import plan_training
from planner.training.rank import Maker
from planner.training.request import MOE_IMBALANCE, Options, resolve

ATTENTION = GroupedQueryAttention(16, 8, 128)
DENSE = ModelSpec("tiny", 2048, 32_000, (Layer(ATTENTION, DenseFeedForward(5632)),) * 12)
LARGE = ModelSpec("large", 8192, 128_000, (Layer(ATTENTION, DenseFeedForward(28672)),) * 80)
EXPERTS = ModelSpec(
    "tiny-moe", 2048, 32_000, (Layer(ATTENTION, MixtureOfExperts(16, 2, 1024)),) * 8
)
JOB = {"global_batch": 32, "seq_len": 2048}
VOLATILE = ("seconds", "candidates_per_second", "evaluated_per_second", "peak_memory_bytes")


def plan(model: ModelSpec = DENSE, **options: Any) -> Ranking:
    chosen: dict[str, Any] = {"devices": 16, "top": 5, **JOB, **options}
    if "max_devices" in options:
        del chosen["devices"]
    return plan_training(model, "dgx-h100", **chosen)


def one(model: ModelSpec = DENSE, configuration: Any = "tp=2,pp=2", **options: Any) -> Plan:
    return planner.estimate_training(
        model, "dgx-h100", configuration, **{"devices": 16, **JOB, **options}
    )


def stripped(ranking: Ranking) -> str:
    data = json.loads(ranking.to_json())
    for name in VOLATILE:
        del data["search"][name]
    return json.dumps(data)


class TestRanking:
    def test_plans_stand_in_the_order_of_the_objective(self) -> None:
        for objective, metric, sign in (
            ("throughput", "tokens_per_s", -1),
            ("price", "price_per_trillion_tokens", 1),
            ("memory", "peak_memory", 1),
        ):
            values = [sign * p[metric] for p in plan(objective=objective)]
            assert values == pytest.approx(sorted(values), rel=1e-8)

    def test_a_plan_is_the_estimate_of_its_configuration(self) -> None:
        best = plan().plans[0]
        alone = one(configuration=best.configuration)
        assert alone.metrics == best.metrics and alone.tree == best.tree

    def test_the_same_question_has_the_same_answer_to_the_byte(self) -> None:
        assert stripped(plan()) == stripped(plan())

    def test_statistics_count_every_candidate_once(self) -> None:
        search = plan().search
        assert search["candidates"] == search["pruned"] + search["evaluated"]
        assert search["candidates_per_second"] > 0

    def test_fixed_axes_hold_under_every_name(self) -> None:
        found = plan(fixed={"tp": [2, 4], "mbs": "1,2", "sp": "on", "schedule": "1f1b"})
        for p in found:
            assert p["tp"] in (2, 4) and p["micro_batch"] in (1, 2)
            assert p["sequence_parallel"] == 1 and p["schedule"] == "1f1b"

    def test_every_plan_fits_with_its_reserve(self) -> None:
        for p in plan(LARGE, devices=256, memory_reserve=0.3):
            assert p["peak_memory"] <= 0.7 * find_cluster("dgx-h100").accelerator.memory
            assert p["memory_headroom"] >= 0

    def test_a_fixed_configuration_that_does_not_fit_is_estimated_and_says_so(self) -> None:
        fixed = {name: str(value) for name, value in Configuration(dp=16, zero=1).as_dict().items()}
        (only,) = plan(LARGE, fixed={k: v for k, v in fixed.items() if k != "dp"})
        assert only["memory_headroom"] < 0
        assert only.notes[0].startswith("does not fit")

    def test_json_csv_and_frame_agree(self, tmp_path: Path) -> None:
        ranking = plan()
        frame = ranking.frame()
        assert list(frame["step_time"]) == [p["step_time"] for p in ranking]
        assert ranking.to_csv().splitlines()[0].startswith("rank,tp,cp,pp")


class TestMetrics:
    def test_every_metric_has_a_definition_and_a_place_in_every_plan(self) -> None:
        for p in plan():
            assert list(p.metrics) == list(p.definitions)
            assert all(metric.definition for metric in p.definitions.values())

    def test_rates_follow_from_the_step_time(self) -> None:
        p = one()
        tokens = JOB["global_batch"] * JOB["seq_len"]
        assert p["tokens_per_s"] == pytest.approx(tokens / p["step_time"])
        assert p["tokens_per_s_per_device"] == pytest.approx(p["tokens_per_s"] / 16)
        assert p["mfu"] == pytest.approx(p["model_tflops_per_device"] / 989.4, rel=1e-3)

    def test_full_attention_counts_more_than_causal(self) -> None:
        p = one()
        assert p["mfu"] > p["mfu_causal"] > 0
        assert p["hfu"] == p["mfu"]
        again = one(configuration="tp=2,pp=2,recompute=full")
        assert again["hfu"] > 1.2 * again["mfu"]

    def test_price_is_device_hours_times_rate(self) -> None:
        p = one(price=2.0, tokens=3e12)
        hours = 16 * 1e12 / p["tokens_per_s"] / 3600
        assert p["price_per_trillion_tokens"] == pytest.approx(2.0 * hours)
        assert p["training_price"] == pytest.approx(6.0 * hours)
        assert p["training_days"] == pytest.approx(3e12 / p["tokens_per_s"] / 86400)

    def test_without_a_price_there_is_none_and_no_failure(self) -> None:
        cluster = find_cluster("dgx-h100")
        bare = replace(cluster, price=None, accelerator=replace(cluster.accelerator, price=None))
        ranking = plan_training(DENSE, bare, devices=8, **JOB)
        assert ranking.plans[0]["price_per_trillion_tokens"] is None
        assert "None" not in ranking.to_csv()

    def test_memory_kinds_add_up_to_the_peak_and_a_stage_holds_it(self) -> None:
        p = one()
        assert sum(p.memory.values()) == pytest.approx(p["peak_memory"])
        assert max(size for _, size in p.memory_by_stage) == pytest.approx(p["peak_memory"])

    def test_one_stage_has_no_bubble_and_one_device_no_communication(self) -> None:
        assert one(configuration="tp=2")["bubble_share"] == 0
        assert one(configuration="tp=1,pp=2")["bubble_share"] > 0
        assert one(configuration="", devices=1)["exposed_communication_share"] == 0

    def test_the_breakdown_adds_up_to_the_step(self) -> None:
        def check(node: Node) -> None:
            if node.children:
                total = sum(child.on_path for child in node.children)
                assert total == pytest.approx(node.on_path, rel=1e-9, abs=1e-12)
            for child in node.children:
                check(child)

        p = one(EXPERTS, "tp=2,pp=2,ep=4")
        assert p.tree.on_path == pytest.approx(p["step_time"], rel=1e-9)
        check(p.tree)


class TestBaseline:
    def test_the_gain_is_the_ratio_of_throughputs(self) -> None:
        ranking = plan(baseline="tp=8,pp=2")
        best, base = ranking.plans[0], ranking.baseline.plan
        assert best["gain"] == pytest.approx(base["step_time"] / best["step_time"] - 1)
        assert plan(baseline=base.configuration).baseline.plan.configuration == base.configuration

    def test_a_measurement_scales_every_time_by_one_factor(self) -> None:
        plain = plan(baseline="tp=8,pp=2")
        measured = 1.25 * plain.baseline.plan["step_time"]
        scaled = plan(baseline="tp=8,pp=2", measured=measured)
        assert scaled.baseline.scale == pytest.approx(1.25)
        assert scaled.baseline.plan["step_time"] == pytest.approx(measured)
        for before, after in zip(plain, scaled, strict=True):
            assert after["step_time"] == pytest.approx(1.25 * before["step_time"])
            assert after.tree.on_path == pytest.approx(after["step_time"])
            assert after["gain"] == pytest.approx(before["gain"])
            assert after["bubble_share"] == pytest.approx(before["bubble_share"])

    @pytest.mark.parametrize("factor", [0.49, 2.01])
    def test_a_measurement_too_far_away_is_refused(self, factor: float) -> None:
        predicted = plan(baseline="tp=8,pp=2").baseline.plan["step_time"]
        with pytest.raises(PlannerError, match=r"expected 0\.5 to 2"):
            plan(baseline="tp=8,pp=2", measured=factor * predicted)

    def test_a_step_limit_is_held_in_measured_time(self) -> None:
        plain = plan(baseline="tp=8,pp=2", top=1)
        measured = 1.5 * plain.baseline.plan["step_time"]
        fastest = plain.plans[0]["step_time"]
        with pytest.raises(Infeasible, match="max-step-time"):
            plan(baseline="tp=8,pp=2", measured=measured, max_step_time=1.2 * fastest)

    def test_explain_names_the_terms_that_make_the_difference(self) -> None:
        text = plan(baseline="tp=8,pp=2").explain(1)
        assert "against the baseline tp=8" in text and "(TP)" in text

    @pytest.mark.parametrize(
        ("baseline", "message"),
        [
            ("tp=3", "attention mesh"),
            ("tp=16,cp=1,dp=1,sp=off,mbs=3", "batch over dp"),
            ("tp=8,pp=4", "attention mesh"),
            ("tp", "expected AXIS=VALUE"),
            ("tp=8,tp=4", "several values for tp"),
            ("micro_bach=8", "did you mean 'micro_batch'"),
            ("schedule=1f2b", "did you mean '1f1b'"),
        ],
    )
    def test_a_baseline_that_cannot_run_is_refused(self, baseline: str, message: str) -> None:
        with pytest.raises(PlannerError, match=message):
            plan(baseline=baseline)


class TestLimits:
    def test_fewest_devices_for_a_deadline(self) -> None:
        slow = plan(devices=4, top=1).plans[0]
        deadline = 1e9 / slow["tokens_per_s"] * 1.001
        ranking = plan(max_devices=16, objective="devices", tokens=1e9, deadline=deadline)
        assert min(p["devices"] for p in ranking) == ranking.plans[0]["devices"] <= 4
        assert all(p["training_days"] * 86400 <= deadline for p in ranking)

    def test_numbers_of_devices_are_node_divisors_and_smooth_numbers_of_nodes(self) -> None:
        cluster = find_cluster("dgx-h100")
        found = device_numbers(cluster, None, 128)
        assert found == (1, 2, 4, 8, 16, 24, 32, 40, 48, 64, 72, 80, 96, 120, 128)
        assert max(device_numbers(cluster, None, 10**9)) <= cluster.max_devices

    def test_the_front_has_no_plan_that_another_beats(self) -> None:
        for kind, metric in (("memory", "peak_memory"), ("price", "price_per_trillion_tokens")):
            front = plan(pareto=kind, devices=[4, 8, 16]).pareto
            pairs = [(p["step_time"], p[metric]) for p in front]
            assert pairs == sorted(pairs)
            assert [cost for _, cost in pairs] == sorted((c for _, c in pairs), reverse=True)

    def test_nothing_fits_names_constraint_nearest_miss_and_a_way_out(self) -> None:
        with pytest.raises(Infeasible) as caught:
            plan(LARGE, devices=8, fixed={"recompute": "none"})
        text = str(caught.value)
        for words in ("memory removed", "the nearest miss needs", "of 72 GiB usable", "optimizer"):
            assert words in text
        assert "recompute=full" in text and "more than 8 devices" in text
        assert caught.value.exit_code == 3

    def test_too_slow_names_the_fastest_plan(self) -> None:
        fastest = plan(top=1).plans[0]
        with pytest.raises(Infeasible, match="nearest miss takes") as caught:
            plan(max_step_time=fastest["step_time"] / 2)
        assert f"tp={fastest['tp']}" in str(caught.value)


class TestExplain:
    def test_sensitivities_are_those_of_the_estimate(self) -> None:
        p = one(configuration="tp=8,pp=2").deepened()
        effects = {s.change: s.effect for s in p.sensitivities}
        assert effects["+10 % peak compute and power"] < 0 and effects["+10 % memory bandwidth"] < 0
        assert all(effect <= 1e-9 for effect in effects.values())
        cluster = find_cluster("dgx-h100")
        device = cluster.accelerator
        faster = replace(device, memory_bandwidth=1.1 * device.memory_bandwidth)
        again = planner.estimate_training(
            DENSE, replace(cluster, accelerator=faster), "tp=8,pp=2", devices=16, **JOB
        )
        expected = again["step_time"] / p["step_time"] - 1
        assert effects["+10 % memory bandwidth"] == pytest.approx(expected, rel=1e-9)

    def test_experts_rest_on_a_sourced_imbalance_that_has_weight(self) -> None:
        p = one(EXPERTS, "ep=8").deepened()
        (item,) = [a for a in p.assumptions if a.name == "expert imbalance"]
        assert item.value == str(MOE_IMBALANCE) and "TensorRT-LLM" in item.reason
        assert item.weight > 0
        assert not [a for a in one().assumptions if a.name == "expert imbalance"]

    def test_a_given_imbalance_replaces_the_default(self) -> None:
        given = one(EXPERTS, "ep=8", imbalance=1.5)
        assert given["step_time"] > one(EXPERTS, "ep=8")["step_time"]
        assert "expert imbalance 1.5" in given.explain()


@pytest.fixture
def by_name(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModelSpec]:
    """A model database of one model."""
    models = {"tiny": DENSE}
    catalog = ModuleType("planner.specs.models_catalog")
    catalog.find_model = lambda name, db=(): models[str(name)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planner.specs.models_catalog", catalog)
    return models


class TestSaved:
    def test_a_saved_plan_is_explained_like_a_fresh_one(
        self, by_name: dict[str, ModelSpec], tmp_path: Path
    ) -> None:
        overrides = {"hardware.memory_bandwidth": "4 TB/s"}
        fresh = plan("tiny", baseline="tp=8,pp=2", fixed={"pp": "1,2"}, overrides=overrides)
        path = tmp_path / "plans.json"
        path.write_text(fresh.to_json())
        saved = planner.load(path)
        assert "what would help" in saved.explain(2)
        assert saved.explain(2) == fresh.explain(2)
        assert saved.to_json() == fresh.to_json()

    def test_a_change_of_the_model_since_is_told(
        self, by_name: dict[str, ModelSpec], tmp_path: Path
    ) -> None:
        path = tmp_path / "plans.json"
        path.write_text(plan("tiny").to_json())
        by_name["tiny"] = replace(DENSE, vocab=64_000)
        text = planner.load(path).explain(1)
        assert "model tiny has changed since the file was written" in text
        assert "breakdown" in text and "what would help" not in text


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"global_batch": 0}, "global_batch: found 0"),
            ({"seq_len": -1}, "seq_len: found -1"),
            ({"global_batch": 1.5}, "a positive whole number"),
            ({"top": 0}, "top: found 0"),
            ({"devices": 0}, "devices: found 0"),
            ({"devices": 10**9}, "at most the"),
            ({"devices": None}, "found neither of devices and max_devices"),
            ({"precision": "bf61"}, "did you mean 'bf16'"),
            ({"precision": "nvfp4"}, "has no fp4"),
            ({"software": "megatronn"}, "did you mean 'megatron'"),
            ({"objective": "speed"}, "expected one of throughput"),
            ({"pareto": "power"}, "expected one of memory, price"),
            ({"memory_reserve": 1.0}, "memory_reserve: found 1.0"),
            ({"max_step_time": -3.0}, "max_step_time: found -3.0"),
            ({"price": float("nan")}, "price: found nan"),
            ({"imbalance": 0.5}, "imbalance: found 0.5"),
            ({"measured": 1.0}, "measured: found no baseline"),
            ({"deadline": 1.0}, "deadline: found no tokens"),
            ({"objective": "devices"}, "expected tokens and deadline"),
            ({"fixed": {"tp": 3}}, "rule 'query heads over tp'"),
            ({"fixed": {"tp": [2, 3]}}, "rule 'query heads over tp'"),
            ({"fixed": {"tp": 16, "pp": 2}}, r"rule 'attention mesh'.*tp \* pp must divide"),
            ({"fixed": {"ep": 2}}, "rule 'experts over ep'"),
            ({"fixed": {"vpp": 2, "schedule": "gpipe"}}, "rule 'chunks and schedule'"),
            ({"fixed": {"zero": 4}}, "--zero: found 4, expected a whole number, 0 to 3"),
            ({"fixed": {"tp": "two"}}, "--tp: found 'two'"),
            ({"fixed": {"recompute": "ful"}}, "did you mean 'full'"),
            ({"fixed": {"microbatch": 2}}, "did you mean 'micro_batch'"),
            ({"overrides": {"hardware.memory": "80 GB/s"}}, "a bandwidth"),
            ({"overrides": {"hardware.memroy": "80 GB"}}, "did you mean 'memory'"),
        ],
    )
    def test_the_message_names_the_option_in_one_line(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(PlannerError, match=message) as caught:
            plan(**options)
        assert "\n" not in str(caught.value)

    def test_an_unknown_cluster_has_near_matches(self) -> None:
        with pytest.raises(PlannerError, match="did you mean 'dgx-h100'"):
            plan_training(DENSE, "dgx-h10", devices=8, **JOB)


def test_every_option_is_recorded() -> None:
    inputs = plan().inputs
    assert {item.name for item in fields(Options)} <= set(inputs)
    assert set(inputs["digests"]) == {"model", "cluster"}


def test_a_maker_without_baseline_reports_no_gain() -> None:
    request = resolve(DENSE, "dgx-h100", Options(**JOB))
    found = estimate(request.model, request.cluster, request.job, Configuration())
    assert Maker.of(request).plan(found)["gain"] is None
