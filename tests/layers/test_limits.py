"""An axis of size one brings no traffic; sequence parallelism moves what it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.layers.attention import attention_part
from planner.layers.embedding import embedding_part, head_part
from planner.layers.feedforward import feedforward_part
from planner.layers.moe import exchange_time, moe_part
from planner.layers.part import Part
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
)

GROUPED = GroupedQueryAttention(32, 8, 128)
LATENT = LatentAttention(32, 512, 128, 64, 128, query_rank=1536)
LINEAR = LinearAttention("delta net", 32, 8192, 4096, 1000, 2e6, 65536)
DENSE = DenseFeedForward(14336)
EXPERTS = MixtureOfExperts(64, 6, 1408, shared_width=2816)
MIXERS = pytest.mark.parametrize("mixer", [GROUPED, LATENT, LINEAR], ids=lambda m: type(m).__name__)
KINDS = pytest.mark.parametrize("kind", ["all-to-all", "all-gather", "deduplicated"])


def column(value: float) -> np.ndarray:
    return np.array([value], dtype=float)


def experts(setting: Any, tokens: float = 4096.0, tp: int = 1, ep: int = 1, etp: int = 1) -> Part:
    return moe_part(setting, EXPERTS, *(column(v) for v in (tokens, tp, ep, etp)))


class TestOneRank:
    @MIXERS
    @pytest.mark.parametrize("sequence_parallel", [0, 1])
    def test_no_tensor_parallel_traffic_in_the_mixer(
        self, bench: Any, mixer: Any, sequence_parallel: int
    ) -> None:
        one = bench.sharding(sequence_parallel=sequence_parallel)
        assert bench.all_link(attention_part(bench.setting(), mixer, one)) == 0.0

    @pytest.mark.parametrize("sequence_parallel", [0, 1])
    @pytest.mark.parametrize("software", ["megatron", "megatron-bridge", "megatron-2022"])
    def test_no_tensor_parallel_traffic_in_the_rest(
        self, bench: Any, sequence_parallel: int, software: str
    ) -> None:
        setting = bench.setting(software=software)
        one = bench.sharding(sequence_parallel=sequence_parallel)
        for part in (
            feedforward_part(setting, DENSE, one),
            embedding_part(setting, 32000, 0, one),
            head_part(setting, 32000, one),
        ):
            assert bench.all_link(part) == 0.0

    @pytest.mark.parametrize("tp", [2, 4, 8])
    def test_more_ranks_do_bring_traffic(self, bench: Any, tp: int) -> None:
        split = bench.sharding(tp=tp, sequence_parallel=1)
        for part in (
            attention_part(bench.setting(), GROUPED, split),
            feedforward_part(bench.setting(), DENSE, split),
            head_part(bench.setting(), 32000, split),
        ):
            assert bench.all_link(part) > 0.0

    @pytest.mark.parametrize("kind", ["ring", "ulysses"])
    def test_no_context_parallel_exchange(self, bench: Any, kind: str) -> None:
        setting = bench.setting(context_parallel=kind)
        part = attention_part(setting, GROUPED, bench.sharding())
        assert bench.all_link(part) == 0.0
        split = attention_part(setting, GROUPED, bench.sharding(cp=4))
        assert bench.all_link(split) > 0.0

    def test_one_context_rank_takes_the_same_time_by_ring_and_by_exchange(self, bench: Any) -> None:
        ring, ulysses = (
            attention_part(bench.setting(context_parallel=kind), GROUPED, bench.sharding())
            for kind in ("ring", "ulysses")
        )
        assert ring.forward.seconds == ulysses.forward.seconds
        assert ring.backward.seconds == ulysses.backward.seconds

    @KINDS
    def test_no_dispatch(self, bench: Any, kind: str) -> None:
        part = experts(bench.setting(dispatch=kind))
        assert bench.all_link(part) == 0.0
        assert np.sum(part.exchange) == 0.0
        assert np.sum(experts(bench.setting(dispatch=kind), ep=8).exchange) > 0.0

    def test_a_single_expert_rank_has_no_imbalance(self, bench: Any) -> None:
        even, skewed = bench.setting(), bench.setting(imbalance=1.5)
        assert experts(even).forward.seconds == experts(skewed).forward.seconds
        assert experts(even, ep=8).forward.seconds < experts(skewed, ep=8).forward.seconds


class TestKeyValueHeads:
    """Where tp exceeds the key-value heads, every rank keeps one whole head."""

    FEW, ENOUGH = GroupedQueryAttention(32, 2, 128), GroupedQueryAttention(32, 8, 128)

    def both(self, bench: Any, tp: int) -> tuple[Part, Part]:
        split = bench.sharding(tp=tp, sequence_parallel=1)
        few, enough = (attention_part(bench.setting(), s, split) for s in (self.FEW, self.ENOUGH))
        return few, enough

    def test_two_heads_on_eight_ranks_cost_as_much_as_eight(self, bench: Any) -> None:
        few, enough = self.both(bench, 8)
        for name in ("forward", "backward", "weight"):
            assert getattr(few, name).seconds == pytest.approx(getattr(enough, name).seconds)
        assert few.kept == pytest.approx(enough.kept)

    def test_below_that_fewer_heads_cost_less(self, bench: Any) -> None:
        few, enough = self.both(bench, 2)
        assert few.forward.seconds < enough.forward.seconds
        assert few.kept < enough.kept

    def test_the_copies_are_parameters_too(self, bench: Any) -> None:
        few, enough = self.both(bench, 8)
        assert few.parameters == pytest.approx(enough.parameters)


class TestSequenceParallelism:
    @pytest.mark.parametrize("tp", [4, 8])
    def test_gather_and_scatter_move_what_an_all_reduce_does(self, bench: Any, tp: int) -> None:
        """Forward, within what the measured lines of the three collectives differ by.

        On the A100, whose switch does not reduce; between two ranks the copies of their own shares,
        twice against once, make a fifth.
        """
        setting = bench.setting(8192, seq_len=32768, cluster="dgx-a100")
        with_sp, without = (
            bench.link(feedforward_part(setting, DENSE, bench.sharding(tp, 1, sp)).forward)
            for sp in (1, 0)
        )
        assert with_sp == pytest.approx(without, rel=0.15)

    def test_norms_and_residuals_run_on_a_share_of_the_tokens(self, bench: Any) -> None:
        setting = bench.setting(8192, seq_len=32768)
        with_sp, without = (
            feedforward_part(setting, DENSE, bench.sharding(8, 1, sp)).forward for sp in (1, 0)
        )
        for words in ("norm", "residual"):
            ratio = bench.named(without, words) / bench.named(with_sp, words)
            assert 6.0 < ratio < 8.0

    def test_products_are_the_same(self, bench: Any) -> None:
        with_sp, without = (
            feedforward_part(bench.setting(), DENSE, bench.sharding(8, 1, sp)) for sp in (1, 0)
        )
        assert with_sp.weight.seconds == without.weight.seconds

    def test_the_backward_pass_gathers_the_input_again(self, bench: Any) -> None:
        """Two gathers and a scatter against one all-reduce: half as much again."""
        setting = bench.setting(8192, seq_len=32768, cluster="dgx-a100")
        with_sp, without = (
            bench.link(feedforward_part(setting, DENSE, bench.sharding(8, 1, sp)).backward)
            for sp in (1, 0)
        )
        assert with_sp / without == pytest.approx(1.5, rel=0.15)

    def test_the_backward_collectives_hide_behind_gradients_of_a_large_layer(
        self, bench: Any
    ) -> None:
        """All but the first gather, which nothing precedes."""
        part = feedforward_part(
            bench.setting(16384, seq_len=16384), DenseFeedForward(65536), bench.sharding(8, 1, 1)
        )
        first = bench.named(part.backward, "all-gather output gradient")
        work = sum(
            bench.named(part.backward, words) for words in ("projection", "activation", "norm")
        )
        assert part.backward.seconds.item() == pytest.approx(first + work, rel=1e-9)

    def test_overlapped_collectives_hide_behind_their_products(self, bench: Any) -> None:
        plain, hidden = (
            feedforward_part(bench.setting(software=name), DENSE, bench.sharding(8, 1, 1))
            for name in ("megatron", "megatron-bridge")
        )
        assert hidden.forward.seconds < plain.forward.seconds
        assert bench.link(hidden.forward) == bench.link(plain.forward)


class TestContextParallelism:
    def test_products_are_divided(self, bench: Any) -> None:
        """Every rank has a share of the queries and of the weights' work."""
        setting = bench.setting(8192, seq_len=131072)
        one = attention_part(setting, GROUPED, bench.sharding())
        four = attention_part(setting, GROUPED, bench.sharding(cp=4))
        assert one.weight.seconds / four.weight.seconds == pytest.approx(4.0, rel=0.02)
        core = bench.named(one.forward, "attention core") / bench.named(
            four.forward, "attention core"
        )
        assert core == pytest.approx(4.0, rel=0.02)

    def test_a_ring_inside_a_node_runs_on_its_links(self, bench: Any) -> None:
        setting = bench.setting(seq_len=131072)
        part = attention_part(setting, GROUPED, bench.sharding(cp=8))
        tier = setting.net.tiers[0]
        keys_and_values = 2 * 131072 / 8 * 2 * 8 * 128
        expected = 7 * (tier.latency + keys_and_values / (tier.bandwidth * tier.efficiency))
        assert bench.link(part.forward) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(("tp", "cp"), [(1, 16), (2, 8), (4, 8)])
    def test_a_ring_over_two_nodes_is_paced_by_the_fabric(
        self, bench: Any, tp: int, cp: int
    ) -> None:
        """All ranks send at once, so the hop between the nodes sets the pace of every step."""
        setting = bench.setting(seq_len=131072)
        part = attention_part(setting, GROUPED, bench.sharding(tp=tp, cp=cp))
        fabric = setting.net.tiers[1]
        keys_and_values = 2 * 131072 / cp * 2 * 8 / tp * 128
        floor = (cp - 1) * keys_and_values / fabric.bandwidth
        assert bench.link(part.forward) >= floor


class TestRatios:
    @pytest.mark.parametrize("software", ["megatron", "fsdp"])
    def test_a_product_bound_layer_works_twice_as_long_backward(
        self, bench: Any, software: str
    ) -> None:
        setting = bench.setting(16384, seq_len=16384, software=software)
        part = feedforward_part(setting, DenseFeedForward(53248), bench.sharding())
        backward = float(np.sum(part.backward.seconds + part.weight.seconds))
        assert backward / float(np.sum(part.forward.seconds)) == pytest.approx(2.0, rel=0.03)

    def test_input_and_weight_gradients_take_the_same_products(self, bench: Any) -> None:
        setting = bench.setting(16384, seq_len=16384)
        part = feedforward_part(setting, DenseFeedForward(53248, gated=False), bench.sharding())
        products = bench.named(part.backward, "projection")
        assert products == pytest.approx(float(np.sum(part.weight.seconds)), rel=0.02)


class TestPrecision:
    def test_eight_bits_speed_up_the_layers_products(self, bench: Any) -> None:
        wide, narrow = (
            feedforward_part(bench.setting(16384, precision=name), DENSE, bench.sharding())
            for name in ("bf16", "fp8")
        )
        assert narrow.weight.seconds < 0.75 * wide.weight.seconds

    def test_the_vocabulary_projection_stays_in_sixteen(self, bench: Any) -> None:
        wide, narrow = (
            head_part(bench.setting(precision=name), 128256, bench.sharding())
            for name in ("bf16", "fp8")
        )
        assert narrow.forward.seconds == wide.forward.seconds


@KINDS
def test_dispatch_and_combine_are_the_exchange(bench: Any, kind: str) -> None:
    setting = bench.setting(dispatch=kind)
    part = experts(setting, ep=16)
    one = exchange_time(setting, EXPERTS, *(column(v) for v in (1.0, 4096.0, 16.0, 1.0)))
    assert np.sum(part.exchange) == pytest.approx(2 * np.sum(one))
    assert bench.link(part.forward) == pytest.approx(np.sum(part.exchange))
    assert bench.link(part.backward) == pytest.approx(np.sum(part.exchange))
