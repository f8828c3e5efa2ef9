"""Attention and experts on separate pools."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

import planner
from planner.costs.collectives import POST
from planner.costs.m2n import Wire
from planner.costs.ping_pong import layer_period
from planner.costs.topology import network
from planner.layers.inference import Runtime, Split, Step, head_cost
from planner.layers.pools import (
    attention_half,
    exchange,
    experts_half,
    gather_seconds,
    spread_seconds,
)
from planner.serving import attention_ffn
from planner.serving.attention_ffn import Unit
from planner.serving.fleet import Fleet
from planner.serving.transfer import Link, unit_link
from planner.specs.catalog import find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.model import MixtureOfExperts
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


def state(
    batch: float,
    link: Link | None = None,
    *,
    devices: int = 64,
    weights: str = "fp8_block",
    each: float = 0.0,
    **axes: Any,
) -> Any:
    """A step of so many sequences, or of ``each`` of every copy in every micro-batch."""
    pools = (fleet("hgx-h200", devices, weights=weights),) * 2
    one = unit(**axes)
    sequences = batch + each * one.copies * one.micro_batches
    return attention_ffn.evaluate(pools, link or unit_link(pools), MODEL, one, sequences, 4096.0)


class TestStep:
    def test_a_step_is_composed_of_both_halves(self) -> None:
        """Every layer with experts takes its period; all others are the attention pool's alone."""
        pools, batch, m = (fleet("hgx-h200", 64),) * 2, 1536.0, 3.0
        run, one = pools[0].run, np.ones(1)
        each, split = batch / (m * 8.0), Split(one, 8 * one, 32 * one, one)
        step = Step(0 * one, one, 0 * one, each * one, 4096.0 * one, one)
        gap = run.engine.step / 64
        kinds = Counter(MODEL.layers)
        (moe,), (dense,) = (
            [k for k in kinds if isinstance(k.feedforward, MixtureOfExperts) is with_experts]
            for with_experts in (True, False)
        )
        spec = moe.feedforward
        assert isinstance(spec, MixtureOfExperts)
        shown, added = spread_seconds((run, run), spec, split, 8 * each * one)
        inside = gather_seconds((run, run), spec, split, each * one) + shown, added
        wire = Wire(0.85 * 50e9, 0.85 * 50e9, 8e-6, POST)
        there, back = exchange((run, run), spec, split, each * one, wire, inside)
        attention = attention_half(run, moe, split, step).seconds + 0.5 * gap
        experts = experts_half(run, spec, split, 8 * each * one).seconds + 0.5 * gap
        period = layer_period(m, attention, there, np.asarray(experts), back)
        alone = kinds[dense] * (attention_half(run, dense, split, step).seconds + gap)
        alone = alone + head_cost(run, MODEL.vocab, split, each * one).seconds
        alone = alone + run.moved("", 4.0 * each * MODEL.hidden).seconds + run.engine.token * each
        assert state(batch).tpot == pytest.approx(kinds[moe] * period + m * alone, rel=1e-12)

    def test_equal_halves_are_found_once_and_composed_alike(self) -> None:
        axes = [
            {"copies": c, "ep": e, "micro_batches": m, "tp": t}
            for c in (6.0, 8.0) for e in (16.0, 64.0) for m in (1.0, 3.0) for t in (1.0, 2.0)
        ]  # fmt: skip
        many = state(960.0, **{name: [one[name] for one in axes] for name in axes[0]})
        for index, one in enumerate(axes):
            for name, values in vars(state(960.0, **one)).items():
                assert values[0] == pytest.approx(getattr(many, name)[index], rel=1e-12, abs=1e-14)

    def test_pools_that_share_a_node_use_its_links(self) -> None:
        small = {"copies": 2, "ep": 4, "weights": "nvfp4"}
        inside, across = state(64.0, **small), state(64.0, **small, devices=8)
        assert inside.tpot == across.tpot
        slow = state(64.0, Link(1e9, 1e-3), **small)
        assert slow.tpot == inside.tpot

    def test_each_end_of_two_clusters_has_its_own_network(self) -> None:
        """L40S has a quarter of H20's network: as its receivers share the tokens, H20 is ahead."""
        far = fleet("h20", 64), fleet("l40s-pcie", 64)
        one, batch = unit(copies=4, ep=64), np.array([512.0])
        found = attention_ffn.evaluate(far, unit_link(far), MODEL, one, batch, 4096.0)
        near = fleet("h20", 64), fleet("h20", 64)
        slow = Link(unit_link(far).bandwidth, unit_link(far).latency)
        both = attention_ffn.evaluate(near, slow, MODEL, one, batch, 4096.0)
        used, slower = ((1.0 - float(s.idle_network[0])) * float(s.tpot[0]) for s in (found, both))
        assert used < slower

    def test_more_attention_for_the_same_experts_moves_the_waiting(self) -> None:
        """On a network that does not matter, first one pool waits, then the other."""
        copies = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
        found = state(0.0, Link(1e13, 0.0, inside=True), copies=copies, ep=16, each=64.0)
        assert np.all(np.diff(found.idle_ffn) <= 1e-9)
        assert np.all(np.diff(found.idle_attention) >= -1e-9)
        assert found.idle_attention[0] < 0.05 < found.idle_ffn[0]
        assert found.idle_ffn[-1] < 0.15 < found.idle_attention[-1]

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

    def test_drafts_that_are_never_right_only_cost(self) -> None:
        """All of them right, a step yields two tokens and takes less than twice as long."""
        pools, one, batch = (fleet("hgx-h200", 64),) * 2, unit(), np.array([384.0])
        plain, wrong, some, right = (
            attention_ffn.evaluate(
                pools, unit_link(pools), MODEL, one, batch, 4096.0, drafts=n, acceptance=a
            ).tpot.item()
            for n, a in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.7), (1.0, 1.0))
        )
        assert wrong > plain > right
        assert (wrong / some, wrong / right) == pytest.approx((1.7, 2.0))
        more = state(768.0).tpot.item()  # as many tokens pass the experts
        assert plain < wrong < more * (1.0 + 2.0 / 61)

    def test_idle_shares_are_shares(self) -> None:
        found = state(1024.0, micro_batches=[1, 2, 3, 4])
        for idle in (found.idle_attention, found.idle_ffn, found.idle_network):
            assert np.all((idle >= -1e-12) & (idle < 1.0))


class TestMemory:
    def test_all_weights_are_held_once_a_unit(self) -> None:
        """But for the shared experts, which every rank has."""
        pools = (fleet("hgx-h200", 64, weights="fp8"),) * 2
        one = unit(tp=1, copies=1)
        own, experts = attention_ffn.weights(pools, MODEL, one)
        shared = 58 * 3 * 7168 * 2048
        total = float(own[0] + (experts[0] - shared) * 32 + shared)
        assert total == pytest.approx(MODEL.parameters().total, rel=0.005)  # embeddings: 16 bits
        assert own[0] < 0.05 * total

    def test_devices_that_share_experts_share_their_weights(self) -> None:
        pools = (fleet("hgx-h200", 64),) * 2
        _, experts = attention_ffn.weights(pools, MODEL, unit(ep=[8, 8], expert_tp=[1, 2]))
        assert experts[0] == pytest.approx(2.0 * experts[1])

    def test_room_is_what_the_attention_leaves_and_grows_with_its_copies(self) -> None:
        pools = (fleet("hgx-h200", 64),) * 2
        found = attention_ffn.room(pools, MODEL, unit(copies=[1, 2, 8], ep=[32, 64, 32]), 4096.0)
        assert list(found / found[0]) == [1.0, 2.0, 8.0]
        device = pools[0].run.device.memory
        free = 0.9 * device - attention_ffn.weights(pools, MODEL, unit())[0].item()
        assert free - 4e9 < found[0] * 61 * 576 * 2 * 4096 < free

    def test_experts_that_do_not_fit_leave_no_room(self) -> None:
        pools = (fleet("hgx-h200", 64),) * 2
        found = attention_ffn.room(pools, MODEL, unit(ep=[2.0, 32.0]), 4096.0)
        assert found[0] == 0.0 < found[1]


class TestCandidates:
    def test_they_fit_the_fleet_and_divide_the_experts(self) -> None:
        pools = (fleet("hgx-h200", 64),) * 2
        found = attention_ffn.candidates(pools, MODEL, [1, 2, 4, 8], {})
        assert np.all(found.attention + found.ffn <= 64)
        assert set(found.ep) == {1, 2, 4, 8, 16, 32}
        assert set(found.micro_batches) == {1, 2, 3, 4}
        assert {24, 20, 28} <= set(found.copies)

    def test_what_is_fixed_stays(self) -> None:
        pools = fleet("h20", 32), fleet("h800-ib", 64)
        fixed = {"tp": (2,), "ffn_ep": (64,), "micro_batches": (3,)}
        found = attention_ffn.candidates(pools, MODEL, [1, 2, 4, 8], fixed)
        assert len(found.tp) == len(set(found.copies))
        assert set(found.tp) == {2} and set(found.ffn) == {64} and set(found.micro_batches) == {3}

    def test_all_units_of_1024_devices_take_less_than_half_a_second(self) -> None:
        pools = (fleet("hgx-h200", 1024),) * 2
        one = attention_ffn.candidates(pools, MODEL, [1, 2, 4, 8], {})
        unit, each = one.rows(np.repeat(np.arange(len(one.tp)), 12)), 2.0 ** np.arange(12)
        batch = unit.copies * unit.micro_batches * np.tile(each, len(one.tp))
        start = time.process_time()
        attention_ffn.evaluate(pools, unit_link(pools), MODEL, unit, batch, 4096.0)
        assert len(batch) > 100_000
        assert time.process_time() - start < 0.4


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

    def test_it_can_be_better_not_to_split(self) -> None:
        """Tokens of 50 ms: with 400 Gb/s for a device whole decode replicas serve more; in a rack
        with one fast network both pools keep up with them."""

        def gain(cluster: str, devices: int) -> float:
            split, whole = (
                planner.plan_serving(
                    "deepseek-v3",
                    cluster,
                    devices=devices,
                    isl=4500,
                    osl=1000,
                    tpot=0.05,
                    ttft=5.0,
                    architecture=name,
                ).plan(1)["output_tokens_per_s"]
                for name in ("attention-ffn", "disaggregated")
            )
            return float(split / whole)

        fabric, rack = gain("h800-ib", 288), gain("gb200-nvl72", 72)
        assert fabric < 1.0
        assert rack > fabric
