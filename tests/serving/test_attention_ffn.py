"""Attention and experts on separate pools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import planner
from planner.costs.topology import network
from planner.layers.inference import Runtime
from planner.serving import attention_ffn
from planner.serving.attention_ffn import Unit
from planner.serving.fleet import Fleet
from planner.serving.transfer import Link, unit_link
from planner.specs.catalog import find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.models_catalog import find_model

MODEL = find_model("deepseek-v3")


def fleet(name: str, devices: int, role: str = "any", weights: str = "fp8_block") -> Fleet:
    cluster = find_cluster(name)
    run = Runtime(
        cluster.accelerator,
        network(cluster, devices),
        MODEL.hidden,
        Widths(weights, weights, "bf16"),
        find_engine("vllm"),
    )
    return Fleet(role, cluster, devices, run)


def unit(**axes: Any) -> Unit:
    usual = {"tp": 1, "copies": 8, "ep": 32, "expert_tp": 1, "micro_batches": 3} | axes
    arrays = (np.atleast_1d(np.asarray(value, dtype=float)) for value in usual.values())
    return Unit(*np.broadcast_arrays(*arrays))


def state(batch: float, link: Link | None = None, **axes: Any) -> Any:
    pools = (fleet("hgx-h200", 64),) * 2
    one = unit(**axes)
    return attention_ffn.evaluate(
        pools, link or unit_link(pools), MODEL, one, np.full(len(one.tp), batch), 4096.0
    )


class TestStep:
    def test_more_sequences_take_longer_and_serve_more(self) -> None:
        steps = [float(state(batch).tpot[0]) for batch in (192.0, 768.0, 3072.0)]
        assert steps == sorted(steps)
        assert 3072.0 / steps[2] > 192.0 / steps[0]

    def test_a_slow_link_leaves_both_pools_waiting(self) -> None:
        fast = state(3072.0)
        slow = state(3072.0, Link(5e9, 1e-5))
        assert slow.tpot > fast.tpot
        assert slow.idle_attention > fast.idle_attention
        assert slow.idle_ffn > fast.idle_ffn

    def test_idle_shares_are_shares(self) -> None:
        found = state(1024.0, micro_batches=[1, 2, 3, 4])
        for idle in (found.idle_attention, found.idle_ffn):
            assert np.all((idle >= -1e-12) & (idle < 1.0))

    def test_a_row_of_a_batch_is_its_scalar(self) -> None:
        many = state(1000.0, copies=[2.0, 8.0, 13.0], ep=[16.0, 32.0, 64.0])
        for index, (copies, ep) in enumerate(((2.0, 16.0), (8.0, 32.0), (13.0, 64.0))):
            assert state(1000.0, copies=copies, ep=ep).tpot[0] == pytest.approx(
                many.tpot[index], rel=1e-12
            )


class TestMemory:
    def test_all_weights_are_held_once_a_unit(self) -> None:
        pools = (fleet("hgx-h200", 64, weights="fp8"),) * 2
        one = unit(tp=1, copies=1)
        own, experts = attention_ffn.weights(pools, MODEL, one)
        total = float(own[0] + experts[0] * 32)
        assert total == pytest.approx(MODEL.parameters().total, rel=0.01)  # embeddings in 16 bits
        assert own[0] < 0.05 * total

    def test_experts_that_do_not_fit_leave_no_room(self) -> None:
        pools = (fleet("hgx-h200", 64),) * 2
        found = attention_ffn.room(pools, MODEL, unit(ep=[2.0, 32.0]), 4096.0)
        assert found[0] == 0.0 < found[1]


class TestPlans:
    def test_pools_of_different_devices(self) -> None:
        """H20 has bandwidth for attention, H800 FLOP/s for experts."""
        found = planner.plan_serving(
            "deepseek-v3",
            pool=["prefill=h800-ib:32", "attention=h20:32", "ffn=h800-ib:32"],
            isl=4000,
            osl=500,
            tpot=0.1,
            ttft=4.0,
        )
        plan = found.plan(1)
        assert plan["architecture"] == "attention-ffn"
        assert (plan["pool"], plan["ffn_pool"]) == ("h20", "h800-ib")
        assert plan["replicas"] * plan["tp"] * plan["attention_dp"] <= 32
        assert plan["replicas"] * plan["ffn_ep"] * plan["ffn_tp"] <= 32
        assert plan["tpot"] <= 0.1
        assert 0.0 <= plan["idle_ffn"] < 1.0

    def test_a_dense_model_has_no_experts_to_part_from(self) -> None:
        with pytest.raises(planner.Infeasible, match="no layer of experts"):
            planner.plan_serving(
                "llama-3.1-8b",
                "dgx-h100",
                devices=8,
                isl=1000,
                osl=100,
                architecture="attention-ffn",
            )

    def test_a_plan_is_told_like_the_others(self) -> None:
        found = planner.plan_serving(
            "deepseek-v3",
            "hgx-h200",
            devices=64,
            isl=4000,
            osl=500,
            architecture="attention-ffn",
        )
        plan = found.plan(1)
        assert plan.tree.on_path == pytest.approx(plan["tpot"])
        assert sum(plan.memory.values()) < 141e9
        assert "attention and experts on separate pools" in plan.not_expressed
        assert plan.deepened().sensitivities
