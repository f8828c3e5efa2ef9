"""Pools of several clusters, means that only count when used, and links between pools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import planner
from planner.errors import PlannerError
from planner.serving.transfer import Link, link_between, link_inside, visible_seconds
from planner.specs.catalog import find_cluster

CHAT = {"isl": 1000, "osl": 200, "weights": "fp8"}


def ranked(**options: object):
    return planner.plan_serving("llama-3.1-70b", **{**CHAT, **options})


class TestPools:
    def test_every_role_stays_in_its_pool(self) -> None:
        found = ranked(pool=["prefill=dgx-h100:8", "decode=hgx-h200:16"], ttft=1.0, tpot=0.05)
        for plan in found:
            assert plan["architecture"] == "disaggregated"
            assert (plan["prefill_pool"], plan["pool"]) == ("dgx-h100", "hgx-h200")
            ahead = plan["prefill_replicas"] * plan["prefill_tp"] * plan["prefill_pp"]
            behind = plan["replicas"] * plan["tp"] * plan["pp"]
            assert ahead <= 8 and behind <= 16
            assert plan["devices"] == ahead + behind

    def test_devices_of_any_kind_take_any_role(self) -> None:
        found = ranked(pool=["any=dgx-h100:16", "any=dgx-a100:16"], weights="bf16", top=400)
        assert {plan["pool"] for plan in found} == {"dgx-h100", "dgx-a100"}

    def test_idle_devices_of_pools_do_not_count(self) -> None:
        plan = ranked(pool=["any=dgx-h100:24"]).plan(1)
        tokens = plan["requests_per_s"] * 200
        assert plan["tokens_per_s_per_device"] == pytest.approx(tokens / plan["devices"])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("dgx-h100:8", "--pool: found 'dgx-h100:8', expected NAME=CLUSTER:DEVICES"),
            ("any=dgx-h100", "expected NAME=CLUSTER:DEVICES"),
            ("any=dgx-h100:many", "expected NAME=CLUSTER:DEVICES"),
            ("decoding=dgx-h100:8", "found 'decoding', did you mean 'decode'"),
            ("any=dgx-h100:10000000", "expected at most"),
        ],
    )
    def test_a_wrong_pool_is_named(self, text: str, message: str) -> None:
        with pytest.raises(PlannerError) as error:
            ranked(pool=[text])
        assert message in str(error.value)

    def test_a_pool_stands_once_and_not_beside_a_cluster(self) -> None:
        with pytest.raises(PlannerError, match="found any=dgx-h100 twice"):
            ranked(pool=["any=dgx-h100:8", "any=dgx-h100:16"])
        with pytest.raises(PlannerError, match="found together with --cluster"):
            ranked(cluster="dgx-h100", pool=["any=dgx-h100:8"])


class TestMeans:
    def test_fewer_devices_may_be_used(self) -> None:
        loose = ranked(cluster="dgx-h100", max_devices=16, tpot=0.03).plan(1)
        whole = ranked(cluster="dgx-h100", devices=16, tpot=0.03).plan(1)
        assert loose["tokens_per_s_per_device"] >= whole["tokens_per_s_per_device"]

    def test_a_budget_is_kept(self) -> None:
        found = ranked(cluster="dgx-h100", devices=64, price=2.0, budget=30.0)
        for plan in found:
            assert plan["devices"] * 2.0 <= 30.0

    def test_a_budget_needs_prices(self) -> None:
        bare = find_cluster("dgx-h100")
        bare = replace(bare, price=None, accelerator=replace(bare.accelerator, price=None))
        with pytest.raises(PlannerError, match="--budget: found no price of dgx-h100"):
            ranked(cluster=bare, devices=8, budget=30.0)


class TestLinks:
    def test_the_slower_network_is_the_link(self, fleet: Any) -> None:
        one, other = fleet(16), fleet(16, name="dgx-a100")
        link = link_between(one, other)
        assert link.bandwidth == min(link_between(f, f).bandwidth for f in (one, other))
        assert link_inside(one).bandwidth > link.bandwidth

    def test_no_network_beyond_the_node_is_no_link(self, fleet: Any) -> None:
        one = fleet(8)
        lonely = replace(one, cluster=replace(one.cluster, tiers=one.cluster.tiers[:1]))
        with pytest.raises(PlannerError, match="no network beyond the node"):
            link_between(lonely, fleet(8, name="dgx-a100"))

    def test_layers_leave_while_later_ones_are_computed(self) -> None:
        link = Link(1e9, 1e-5)
        prompts = np.array([10.0, 0.0])
        waited = visible_seconds(link, np.array([1e9, 1e9]), 80, prompts)
        assert waited == pytest.approx([1e-5 + 1.0 / 80, 1e-5 + 1.0])

    def test_the_published_cache_of_a_prompt(self) -> None:
        """OPT-66B, 512 tokens: 1.125 GiB, 90 Gb/s at ten a second (DistServe, section 3.3)."""
        layers, hidden, tokens = 64, 9216, 512
        nbytes = 2 * layers * hidden * 2 * tokens
        assert nbytes / 2**30 == pytest.approx(1.125)
        assert 10 * 8 * nbytes / 1e9 == pytest.approx(96.6, rel=1e-3)  # 90 in units of 2^30
        assert 10 * 8 * nbytes / 2**30 == pytest.approx(90.0)


class TestLoads:
    def test_a_closed_loop_never_has_more_requests_than_clients(self) -> None:
        found = ranked(cluster="dgx-h100", devices=16, concurrency=40, top=20)
        assert len({plan["architecture"] for plan in found}) > 1
        for plan in found:
            assert plan["requests_per_s"] * 199 * plan["tpot"] <= 40.0

    def test_a_rate_below_what_fits_is_served_faster(self) -> None:
        slow = ranked(cluster="dgx-h100", devices=16, rate=2.0, fixed={"tp": 8, "replicas": 1})
        fast = ranked(cluster="dgx-h100", devices=16, rate=0.2, fixed={"tp": 8, "replicas": 1})
        assert fast.plan(1)["tpot"] < slow.plan(1)["tpot"]
        assert fast.plan(1)["requests_per_s"] == pytest.approx(0.2)

    def test_everything_fixed_is_one_deployment(self) -> None:
        plan = planner.estimate_serving(
            "llama-3.1-70b",
            "dgx-h100",
            deployment="tp=4,pp=1,replicas=3",
            devices=16,
            architecture="aggregated",
            **CHAT,
        )
        assert (plan["tp"], plan["replicas"], plan["devices"]) == (4, 3, 12)


class TestBaseline:
    def test_times_are_scaled_to_what_was_measured(self) -> None:
        base = {"baseline": "tp=8,replicas=2", "concurrency": 32}
        plain = ranked(cluster="dgx-h100", devices=16, **base)
        measured = plain.baseline.plan["tpot"] * 1.2
        scaled = ranked(cluster="dgx-h100", devices=16, measured=measured, **base)
        assert scaled.baseline.scale == pytest.approx(1.2)
        assert scaled.baseline.plan["tpot"] == pytest.approx(measured)
        one, other = plain.plan(1), scaled.plan(1)
        assert other["tpot"] == pytest.approx(1.2 * one["tpot"])
        assert other["gain"] == pytest.approx(one["gain"])

    def test_a_time_that_cannot_be_this_deployment_is_refused(self) -> None:
        with pytest.raises(PlannerError, match="a factor of"):
            ranked(cluster="dgx-h100", devices=16, baseline="tp=8,replicas=2", measured=1.0)


def test_a_front_trades_speed_for_a_user_against_speed_for_a_device() -> None:
    found = ranked(cluster="dgx-h100", devices=16, pareto=True).pareto
    users = [plan["tokens_per_s_per_user"] for plan in found]
    devices = [plan["tokens_per_s_per_device"] for plan in found]
    assert len(found) > 3
    assert users == sorted(users, reverse=True)
    assert devices == sorted(devices)


def test_a_file_opened_again_says_what_would_help(tmp_path) -> None:
    path = tmp_path / "plans.json"
    ranking = ranked(cluster="dgx-h100", devices=16, tpot=0.03, top=3)
    path.write_text(ranking.to_json(), encoding="utf-8")
    again = planner.load(path).plan(1).deepened()
    assert again.sensitivities == ranking.plan(1).deepened().sensitivities
    effects = {one.change: one.effect for one in again.sensitivities}
    assert effects["+10 % memory bandwidth"] < 0.0
