"""Activation bytes of a GPT layer, tensor by tensor as in table 2 of arXiv 2205.05198."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.layers.attention import attention_part
from planner.layers.embedding import embedding_part, head_part
from planner.layers.feedforward import feedforward_part
from planner.layers.part import Part
from planner.specs.model import DenseFeedForward, GroupedQueryAttention, Layer, ModelSpec
from planner.training.columns import Rows, build

H, HEADS, S, B = 12288, 96, 2048, 2
SBH = S * B * H
SCORES = 5 * HEADS * S / H
ATTENTION = GroupedQueryAttention(HEADS, HEADS, H // HEADS)
FEEDFORWARD = DenseFeedForward(4 * H, gated=False)
SIZES = (1, 2, 4, 8)


def parts(bench: Any, software: str = "megatron-2022", **split: int) -> tuple[Part, Part]:
    setting = bench.setting(H, seq_len=S, software=software)
    sharding = bench.sharding(micro_batch=B, **split)
    return (
        attention_part(setting, ATTENTION, sharding),
        feedforward_part(setting, FEEDFORWARD, sharding),
    )


def kept(bench: Any, **split: int) -> float:
    return float(sum(np.sum(part.kept) for part in parts(bench, **split)))


class TestTable2:
    def test_without_parallelism(self, bench: Any) -> None:
        assert kept(bench) == SBH * (34 + SCORES)

    @pytest.mark.parametrize("t", SIZES)
    def test_tensor_parallelism_leaves_ten_bytes_whole(self, bench: Any, t: int) -> None:
        assert kept(bench, tp=t) == pytest.approx(SBH * (10 + 24 / t + SCORES / t), rel=1e-12)

    @pytest.mark.parametrize("t", SIZES)
    def test_sequence_parallelism_splits_all_of_it(self, bench: Any, t: int) -> None:
        expected = SBH * (34 + SCORES) / t
        assert kept(bench, tp=t, sequence_parallel=1) == pytest.approx(expected, rel=1e-12)

    def test_attention_and_feed_forward_apart(self, bench: Any) -> None:
        """11 + 2 for the norm before it, 19 + 2 for the norm before it (section 4.1)."""
        attention, feedforward = parts(bench)
        assert float(np.sum(attention.kept)) == SBH * (13 + SCORES)
        assert float(np.sum(feedforward.kept)) == SBH * 21

    @pytest.mark.parametrize("t", SIZES)
    def test_selective_recomputation_has_no_term_in_the_square_of_the_sequence(
        self, bench: Any, t: int
    ) -> None:
        """The paper's 34 less what this policy repeats besides: norm outputs 4, activation 8."""
        found = [p.kept_selective for p in parts(bench, tp=t, sequence_parallel=1)]
        assert float(np.sum(found)) == pytest.approx(SBH * (34 - 4 - 8) / t, rel=1e-12)

    @pytest.mark.parametrize(
        ("t", "sequence_parallel", "expected"), [(1, 0, 2.0), (8, 0, 2.0), (8, 1, 0.25)]
    )
    def test_full_recomputation_keeps_the_layers_input(
        self, bench: Any, t: int, sequence_parallel: int, expected: float
    ) -> None:
        """2 sbh; with sequence parallelism the input is split over the tensor-parallel ranks."""
        model = ModelSpec("gpt", H, 51200, (Layer(ATTENTION, FEEDFORWARD),))
        full = [t, 1, sequence_parallel, B, 2, 1, 1]
        rows = Rows(*(np.array([value]) for value in full))
        setting = bench.setting(H, seq_len=S, software="megatron-2022")
        columns, _ = build(setting, model, rows)
        assert columns.layers[0].kept.item() == expected * SBH

    def test_context_parallelism_divides_the_tokens(self, bench: Any) -> None:
        assert kept(bench, cp=4) == pytest.approx(SBH * (34 + SCORES) / 4, rel=1e-12)

    def test_input_embedding_keeps_its_dropout_mask(self, bench: Any) -> None:
        setting = bench.setting(H, seq_len=S, software="megatron-2022")
        for t in SIZES:
            split = bench.sharding(tp=t, sequence_parallel=1, micro_batch=B)
            assert embedding_part(setting, 51200, 0, split).kept.item() == SBH / t

    def test_head_keeps_norm_input_projection_input_and_fp32_logits(self, bench: Any) -> None:
        setting = bench.setting(H, seq_len=S, software="megatron-2022")
        for t in SIZES:
            split = bench.sharding(tp=t, sequence_parallel=1, micro_batch=B)
            expected = 4 * SBH / t * (1 + 51200 / H)
            found = head_part(setting, 51200, split).kept.item()
            assert found == pytest.approx(expected, rel=1e-12)


class TestBeyondThePaper:
    def test_fused_attention_without_dropout_has_no_scores_and_no_masks(self, bench: Any) -> None:
        whole = sum(np.sum(part.kept) for part in parts(bench, software="megatron"))
        log_sum_exp = 4 * S * B * HEADS
        assert float(whole) == SBH * (34 - 2) + log_sum_exp

    def test_a_gated_unit_keeps_gate_up_and_product(self, bench: Any) -> None:
        setting, width = bench.setting(H, seq_len=S), 3 * H
        gated = feedforward_part(setting, DenseFeedForward(width), bench.sharding())
        assert gated.kept.item() == S * (4 * H + 2 * 3 * width)

    def test_grouped_queries_keep_fewer_keys_and_values(self, bench: Any) -> None:
        setting, one = bench.setting(H, seq_len=S), bench.sharding()
        many = attention_part(setting, ATTENTION, one).kept.item()
        few = attention_part(setting, GroupedQueryAttention(HEADS, 8, 128), one).kept.item()
        assert many - few == 2 * S * 2 * (HEADS - 8) * 128

    @pytest.mark.parametrize("t", SIZES)
    def test_selective_never_keeps_more_than_none(self, bench: Any, t: int) -> None:
        for software in ("megatron", "megatron-2022", "fsdp"):
            for part in parts(bench, software=software, tp=t):
                assert 0 < np.sum(part.kept_selective) < np.sum(part.kept)
