"""The halves of a layer on two pools, and the transfers between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.costs.collectives import POST
from planner.costs.m2n import Wire
from planner.costs.topology import network
from planner.layers.inference import Runtime, Split, Step, layer_cost
from planner.layers.pools import (
    attention_half,
    exchange,
    experts_half,
    gather_seconds,
    spread_seconds,
)
from planner.specs.catalog import find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.model import Layer, MixtureOfExperts
from planner.specs.models_catalog import find_model

FABRIC = Wire(42.5e9, 42.5e9, 8e-6, 1e-6)
NOTHING = np.zeros(1), np.zeros(1)
NEVER = np.array([np.inf]), np.array([np.inf])


def run(model: str = "deepseek-v3", cluster: str = "hgx-h200", imbalance: float = 1.0) -> Runtime:
    found, engine = find_cluster(cluster), find_engine("generic")
    widths = Widths("fp8", "fp8", "fp8")
    net = network(found, 1024)
    hidden = find_model(model).hidden
    return Runtime(found.accelerator, net, hidden, widths, engine, imbalance=imbalance)


def spec(model: str = "deepseek-v3") -> MixtureOfExperts:
    found = layer(model).feedforward
    assert isinstance(found, MixtureOfExperts)
    return found


def layer(model: str = "deepseek-v3") -> Layer:
    """A layer with experts."""
    return find_model(model).layers[-2]


def split(tp: Any = 1, copies: Any = 8, ep: Any = 32, ways: Any = 1) -> Split:
    found = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, float)) for x in (tp, copies, ep, ways))
    )
    return Split(*found)


def decoding(running: Any, context: float = 4096.0) -> Step:
    many = np.atleast_1d(np.asarray(running, float))
    zero, one = np.zeros_like(many), np.ones_like(many)
    return Step(zero, one, zero, many, context * one, one)


def experts(tokens: Any, how: Runtime | None = None, what: Any = None, **axes: Any) -> np.ndarray:
    """Time of the experts' half [s]."""
    many = np.atleast_1d(np.asarray(tokens, float))
    cost = experts_half(how or run(), what or spec(), split(**axes), many)
    return np.asarray(cost.seconds)


class TestHalves:
    def test_both_halves_are_the_layer_of_one_device(self) -> None:
        """On one device nothing is exchanged: what is left out on one side is on the other."""
        alone = split(copies=1, ep=1)
        what = replace(spec(), experts=8, top_k=2)
        one = replace(layer(), feedforward=what)
        for running in (1.0, 64.0, 512.0):
            step = decoding(running)
            whole = layer_cost(run(), one, alone, step).seconds
            first = attention_half(run(), one, alone, step).seconds
            second = experts_half(run(), what, alone, step.tokens).seconds
            assert first + second == pytest.approx(np.asarray(whole), rel=1e-12)

    def test_a_layer_without_experts_stays_whole(self) -> None:
        dense = find_model("deepseek-v3").layers[0]
        step, one = decoding(64.0), split(copies=1, ep=1)
        found = attention_half(run(), dense, one, step).seconds
        assert found == pytest.approx(layer_cost(run(), dense, one, step).seconds)

    def test_attention_does_not_depend_on_the_experts(self) -> None:
        few, many = (
            attention_half(run(), layer(), split(ep=n, copies=c), decoding(64.0)).seconds
            for n, c in ((8, 1), (256, 48))
        )
        assert few == many

    def test_a_group_gathers_what_comes_back(self) -> None:
        cost = attention_half(run(), layer(), split(tp=4), decoding(64.0))
        (gather,) = (part for part in cost.children if part.name == "all-gather (TP)")
        assert gather.seconds > 0.0


class TestExperts:
    def test_few_tokens_are_bound_by_the_experts_that_they_touch(self) -> None:
        """Janus: T = beta a_max + c; from 32 tokens to 64 there are more experts, not more rows."""
        none = replace(spec(), shared_width=0)
        once, twice, four = experts([32.0, 64.0, 128.0], what=none, ep=8)
        assert once < twice < four
        assert twice / once < 1.9
        one = spec().expert_parameters(7168) / run().device.memory_bandwidth
        assert once > one * 32 * 8 / 8 * 0.5

    def test_many_tokens_are_bound_by_rows(self) -> None:
        some, twice = experts([32768.0, 65536.0], ep=32)
        assert twice / some == pytest.approx(2.0, rel=0.15)

    def test_more_ranks_are_faster(self) -> None:
        found = experts([4096.0] * 6, ep=[8, 16, 32, 64, 128, 256])
        assert np.all(np.diff(found) < 0.0)

    def test_a_rank_passes_over_its_own_rows_alone(self) -> None:
        """Twice the ranks and twice the tokens: as many rows and experts of a rank, or fewer."""
        what = replace(spec(), shared_width=0)
        small, large = experts([8192.0, 16384.0], what=what, ep=[64, 128])
        assert large <= small * 1.02

    def test_the_busiest_rank_is_waited_for(self) -> None:
        even, uneven = (experts(65536.0, run(imbalance=x), ep=32) for x in (1.0, 1.5))
        assert uneven / even == pytest.approx(1.5, rel=0.15)

    def test_shared_experts_are_spread_over_the_ranks(self) -> None:
        none = replace(spec(), shared_width=0)
        few, many = (
            (experts(8192.0, ep=ep) - experts(8192.0, what=none, ep=ep)).item() for ep in (8, 64)
        )
        assert 0.0 < many < few

    def test_devices_that_share_an_expert_add_their_parts(self) -> None:
        cost = experts_half(run(), spec(), split(ep=8, ways=4), np.array([4096.0]))
        reduce = next(part for part in cost.children if part.name == "all-reduce (TP)")
        assert reduce.seconds > 0.0


class TestExchange:
    @staticmethod
    def both(tokens: float, inside: Any = NEVER, wire: Wire = FABRIC, **axes: Any) -> Any:
        runs, many = (run(), run()), np.array([tokens])
        return exchange(runs, spec(), split(**axes), many, wire, inside)

    def test_megascale_infer_by_hand(self) -> None:
        """T_c = max(b_a h K / tp_a / W_a, b_e h / tp_e / W_e), one expert on a node."""
        what = replace(spec(), experts=8, top_k=2)
        runs, wire = (run(), run()), Wire(25e9, 12.5e9, 0.0)
        one = split(tp=8, copies=4, ep=8, ways=2)
        there, back = exchange(runs, what, one, np.array([160.0]), wire, NEVER)
        sent, taken = 160 * 7168 * 2 / 8 / 25e9, 160 * 4 * 2 / 8 * 7168 / 2 / 12.5e9
        assert there == pytest.approx(max(sent, taken))
        assert back == pytest.approx(2.0 * max(sent, taken))  # 8 bits there, 16 back

    def test_sixteen_bits_travel_as_sixteen(self) -> None:
        wide = replace(run(), widths=Widths())
        one, wire = split(), Wire(25e9, 25e9, 0.0)
        there, back = exchange((wide, wide), spec(), one, np.array([64.0]), wire, NEVER)
        assert there == pytest.approx(back)

    def test_a_rank_is_sent_a_token_once(self) -> None:
        """Eight experts of a token on one rank or two are no eight copies."""
        wire = Wire(25e9, 25e9, 0.0)
        one, two, all_apart = (
            self.both(64.0, wire=wire, copies=1, ep=n)[0].item() for n in (1, 2, 256)
        )
        assert one == pytest.approx(64 * 7168 / 25e9)
        assert 1.9 * one < two < 2.0 * one
        assert all_apart == pytest.approx(8.0 * one)

    def test_nodes_that_send_together_send_less(self) -> None:
        """Janus: with nothing to pay inside nodes, one message for a node is always better."""
        for tokens in (1.0, 64.0, 1024.0):
            alone = self.both(tokens, copies=64, ep=64)
            joint = self.both(tokens, NOTHING, copies=64, ep=64)
            assert sum(joint) < sum(alone)

    def test_the_faster_way_is_taken_for_both_directions(self) -> None:
        for tokens in (4.0, 128.0, 4096.0):
            many, one, runs = np.array([tokens]), split(copies=64, ep=64), (run(), run())
            shown, added = spread_seconds(runs, spec(), one, 64 * many)
            inside = gather_seconds(runs, spec(), one, many) + shown, added
            alone, joint = self.both(tokens), self.both(tokens, inside)
            best = exchange(runs, spec(), one, many, FABRIC, inside)
            never = exchange(runs, spec(), one, many, FABRIC, NEVER)
            assert sum(best) <= sum(never)
            assert sum(joint) <= sum(alone)

    def test_small_micro_batches_gain_most_from_messages_of_nodes(self) -> None:
        """Janus, section 5.3: messages are what a small batch pays for."""

        def gain(tokens: float) -> float:
            many, one, runs = np.array([tokens]), split(copies=64, ep=256), (run(), run())
            shown, added = spread_seconds(runs, spec(), one, 64 * many)
            inside = gather_seconds(runs, spec(), one, many) + shown, added
            best, alone = (exchange(runs, spec(), one, many, FABRIC, x) for x in (inside, NEVER))
            return float(sum(best).item() / sum(alone).item())

        assert gain(32.0) < gain(4096.0) <= 1.0

    def test_xdeepserve_on_a_super_pod(self) -> None:
        """arXiv 2508.02520: a domain of 160 dies with 96 tokens each to the dies of the experts in
        172 us, and back in 193, in two hops ("trampoline"); ours 162 and 211, and 298 and 333
        where every die sends to every die."""
        machines = find_cluster("cloudmatrix384-die")
        net, widths = network(machines, 768), Widths("int8", "int8", "bf16")
        pod = Runtime(machines.accelerator, net, 7168, widths, find_engine("generic"))
        rate = net.tiers[-1].bandwidth * net.tiers[-1].efficiency
        wire, runs = Wire(rate, rate, net.tiers[-1].latency, POST), (pod, pod)
        one, tokens = split(copies=160, ep=256), np.array([96.0])
        shown, added = spread_seconds(runs, spec(), one, 160 * tokens)
        inside = gather_seconds(runs, spec(), one, tokens) + shown, added
        hops = 1e6 * np.array(exchange(runs, spec(), one, tokens, wire, inside)).ravel()
        alone = 1e6 * np.array(exchange(runs, spec(), one, tokens, wire, NEVER)).ravel()
        assert hops == pytest.approx([172.0, 193.0], rel=0.10)
        assert alone == pytest.approx([298.0, 333.0], rel=0.05)

    def test_rows_are_as_if_alone(self) -> None:
        runs = (run(), run(cluster="h20"))
        many = np.array([16.0, 64.0, 300.0])
        every = split(tp=[1, 2, 4], copies=[4, 8, 12], ep=[8, 32, 256], ways=[2, 1, 1])

        def seconds(one: Split, tokens: np.ndarray) -> np.ndarray:
            shown, added = spread_seconds(runs, spec(), one, tokens * one.attention_dp)
            inside = gather_seconds(runs, spec(), one, tokens) + shown, added
            return np.array(exchange(runs, spec(), one, tokens, FABRIC, inside))

        found = seconds(every, many)
        for i in range(3):
            parts = (every.tp, every.attention_dp, every.ep, every.moe_tp)
            alone = seconds(Split(*(part[[i]] for part in parts)), many[[i]])
            assert found[:, [i]] == pytest.approx(alone, rel=1e-12)
