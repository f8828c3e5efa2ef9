"""Model FLOPs: three forward passes, two for every weight, scores under a named convention."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    Layer,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.models_catalog import find_model
from planner.specs.workload import SOFTWARE, TrainingJob
from planner.training.flops import CONVENTIONS, forward_flops, recomputed_flops, step_flops

SEQ = 1024
JOB = TrainingJob(SEQ, 8)
ATTENTION = GroupedQueryAttention(8, 8, 64)
MODEL = ModelSpec("plain", 512, 1000, (Layer(ATTENTION, DenseFeedForward(2048, False)),) * 3)
MATRICES = 12 * 512**2
"""Weights of one layer's matrices with four projections and a plain feed-forward part."""


def with_attention(**changes) -> ModelSpec:
    layer = Layer(replace(ATTENTION, **changes), DenseFeedForward(2048, False))
    return replace(MODEL, layers=(layer,) * 3)


class TestOneToken:
    def test_every_matrix_weight_takes_two(self) -> None:
        assert forward_flops(MODEL, JOB, "full").matrices == 2 * 3 * MATRICES

    def test_the_head_takes_two_for_every_weight_and_the_input_table_none(self) -> None:
        assert forward_flops(MODEL, JOB, "full").head == 2 * 1000 * 512
        tied = replace(MODEL, tied_embeddings=True)
        assert forward_flops(tied, JOB, "full") == forward_flops(MODEL, JOB, "full")

    def test_full_scores_are_four_hidden_times_the_sequence(self) -> None:
        assert forward_flops(MODEL, JOB, "full").scores == 3 * 4 * 512 * SEQ

    def test_causal_scores_are_half_the_full_ones(self) -> None:
        full, causal = (forward_flops(MODEL, JOB, name) for name in ("full", "causal"))
        assert causal.scores == full.scores / 2
        assert (causal.matrices, causal.head) == (full.matrices, full.head)

    def test_a_total_is_the_sum_of_its_parts(self) -> None:
        for convention in CONVENTIONS:
            found = forward_flops(MODEL, JOB, convention)
            assert found.total == found.matrices + found.scores + found.head

    def test_a_window_limits_what_a_query_meets(self) -> None:
        windowed = with_attention(window=256)
        full = forward_flops(windowed, JOB, "full").scores
        assert full == 3 * 4 * 512 * 256
        # Queries 0 to 255 meet what is there, the others 256 keys each.
        met = (256**2 / 2 + (SEQ - 256) * 256) / SEQ
        assert forward_flops(windowed, JOB, "causal").scores == pytest.approx(3 * 4 * 512 * met)

    def test_a_window_as_long_as_the_sequence_changes_nothing(self) -> None:
        for convention in CONVENTIONS:
            whole = forward_flops(MODEL, JOB, convention)
            assert forward_flops(with_attention(window=SEQ), JOB, convention) == whole
            assert forward_flops(with_attention(window=4 * SEQ), JOB, convention) == whole

    def test_grouped_queries_save_projections_and_no_scores(self) -> None:
        grouped = forward_flops(with_attention(kv_heads=2), JOB, "full")
        whole = forward_flops(MODEL, JOB, "full")
        assert grouped.scores == whole.scores
        assert whole.matrices - grouped.matrices == 2 * 3 * 512 * 2 * (8 - 2) * 64

    def test_only_the_chosen_experts_count(self) -> None:
        moe = MixtureOfExperts(64, 4, 256, gated=True, shared_width=512)
        layer = Layer(ATTENTION, moe)
        found = forward_flops(replace(MODEL, layers=(layer,)), JOB, "full").matrices
        weights = 4 * 512**2 + 4 * 3 * 512 * 256 + 3 * 512 * 512 + 512 * 64
        assert found == 2 * weights
        more = replace(layer, feedforward=replace(moe, experts=128))
        router = forward_flops(replace(MODEL, layers=(more,)), JOB, "full").matrices - found
        assert router == 2 * 512 * 64

    def test_linear_mixers_do_not_grow_with_the_sequence(self) -> None:
        mixer = LinearAttention("delta net", 8, 1536, 512, 100, 5e4, 32768)
        model = replace(MODEL, layers=(Layer(mixer, DenseFeedForward(2048, False)),))
        short, long = (forward_flops(model, replace(JOB, seq_len=s), "full") for s in (128, 4096))
        assert short == long
        assert short.scores == 5e4

    def test_multi_token_prediction_adds_a_layer_a_projection_and_a_pass_through_the_head(
        self,
    ) -> None:
        model = replace(MODEL, mtp_layers=MODEL.layers[:1])
        plain, more = forward_flops(MODEL, JOB, "full"), forward_flops(model, JOB, "full")
        assert more.matrices - plain.matrices == 2 * (MATRICES + 2 * 512**2)
        assert more.scores == pytest.approx(plain.scores * 4 / 3)
        assert more.head == 2 * plain.head
        assert forward_flops(model, replace(JOB, mtp=False), "full") == plain


class TestOneStep:
    def test_a_step_is_three_forward_passes_of_every_token(self) -> None:
        for convention in CONVENTIONS:
            forward = forward_flops(MODEL, JOB, convention).total
            assert step_flops(MODEL, JOB, convention) == 3 * 8 * SEQ * forward

    def test_narayanan_s_formula_for_gpt3(self) -> None:
        """arXiv 2104.04473, section 5.1, full recomputation: 96 B s l h^2 (1 + s/6h + V/16lh)."""
        model, job = find_model("gpt3-175b"), TrainingJob(2048, 1536)
        h, layers, s, vocab = model.hidden, model.num_layers, job.seq_len, model.vocab
        formula = 96.0 * 1536 * s * layers * h**2
        formula *= 1 + s / (6 * h) + vocab / (16 * layers * h)
        model_flops = step_flops(model, job, "full")
        repeated = recomputed_flops(model, job, "full", "full")
        assert model_flops + repeated == pytest.approx(formula, rel=1e-3)

    def test_llama_70b_takes_about_six_for_every_parameter_and_token(self) -> None:
        model, job = find_model("llama-3.1-70b"), TrainingJob(128, 1)
        parameters = model.parameters().active_without_input_embedding
        assert step_flops(model, job, "causal") == pytest.approx(6 * parameters * 128, rel=0.005)

    def test_deepseek_v3_takes_about_six_for_every_active_parameter(self) -> None:
        model, job = find_model("deepseek-v3"), TrainingJob(128, 1, mtp=False)
        parameters = model.parameters().active_without_input_embedding
        assert step_flops(model, job, "causal") == pytest.approx(6 * parameters * 128, rel=0.01)


class TestRecomputation:
    def test_without_a_policy_nothing_is_repeated(self) -> None:
        assert recomputed_flops(MODEL, JOB, "none", "full") == 0.0

    def test_full_repeats_a_forward_pass_without_the_head(self) -> None:
        for convention in CONVENTIONS:
            forward = forward_flops(MODEL, JOB, convention)
            repeated = recomputed_flops(MODEL, JOB, "full", convention)
            assert repeated == 8 * SEQ * (forward.matrices + forward.scores)

    def test_selective_repeats_the_scores_where_attention_is_not_fused(self) -> None:
        old = replace(JOB, software=SOFTWARE["megatron-2022"])
        scores = forward_flops(MODEL, JOB, "full").scores
        assert recomputed_flops(MODEL, old, "selective", "full") == 8 * SEQ * scores
        assert recomputed_flops(MODEL, JOB, "selective", "full") == 0.0
