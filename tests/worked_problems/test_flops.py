"""FLOP counts that papers print, and the formulas they print them with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from planner.costs import kernels
from planner.costs.topology import network
from planner.costs.tree import Cost
from planner.layers.attention import attention_part
from planner.layers.embedding import head_part
from planner.layers.feedforward import feedforward_part
from planner.layers.part import Setting, Sharding
from planner.specs.catalog import find_cluster
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    Layer,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.models_catalog import find_model
from planner.specs.workload import SOFTWARE, TrainingJob
from planner.training.flops import forward_flops, recomputed_flops, step_flops


def gpt(layers: int, hidden: int, heads: int, vocab: int) -> ModelSpec:
    attention = GroupedQueryAttention(heads, heads, hidden // heads)
    layer = Layer(attention, DenseFeedForward(4 * hidden, gated=False), norms=4)
    return ModelSpec("gpt", hidden, vocab, (layer,) * layers, tied_embeddings=True)


class TestMegaScaleMoE:
    """The 352B model of arXiv 2505.11432, table 2, with one always-active expert besides."""

    EXPERTS = MixtureOfExperts(32, 3, 14336, shared_width=14336)
    MODEL = ModelSpec(
        "megascale-352b", 4096, 65536, (Layer(GroupedQueryAttention(32, 8, 128), EXPERTS),) * 60
    )

    def test_it_has_352_billion_parameters_of_which_45_are_active(self) -> None:
        count = self.MODEL.parameters()
        assert count.total == pytest.approx(351.86e9, rel=1e-4)
        assert count.active == pytest.approx(45.34e9, rel=1e-3)

    def test_282_5_gigaflop_a_token(self) -> None:
        """Implied by tables 3 and 4: 32.48 % MFU at 272.9k tokens/s on 240 H800."""
        job = TrainingJob(8192, 720)
        a_token = step_flops(self.MODEL, job, "causal") / (720 * 8192)
        assert a_token == pytest.approx(282.5e9, rel=1e-4)
        implied = 0.3248 * 240 * 989e12 / 272.9e3
        assert a_token == pytest.approx(implied, rel=2e-3)

    def test_without_the_shared_expert_it_is_a_tenth_and_more_short(self) -> None:
        layer = Layer(GroupedQueryAttention(32, 8, 128), MixtureOfExperts(32, 3, 14336))
        bare = ModelSpec("bare", 4096, 65536, (layer,) * 60)
        flops = 3 * forward_flops(bare, TrainingJob(8192, 720), "causal").total
        assert flops < 0.9 * 282.5e9


class TestScaling2021:
    """arXiv 2104.04473, equation 3: FLOPs of an iteration with full recomputation."""

    @staticmethod
    def equation_3(batch: int, s: int, layers: int, h: int, vocab: int) -> float:
        outer = 96 * batch * s * layers * h**2
        return outer * (1 + s / (6 * h) + vocab / (16 * layers * h))

    @pytest.mark.parametrize(
        ("layers", "hidden", "heads", "batch"),
        [(24, 2304, 24, 512), (96, 12288, 96, 1536), (128, 25600, 160, 3072)],
    )
    def test_it_is_the_model_and_what_is_recomputed(
        self, layers: int, hidden: int, heads: int, batch: int
    ) -> None:
        model, job = gpt(layers, hidden, heads, 51200), TrainingJob(2048, batch)
        found = step_flops(model, job, "full") + recomputed_flops(model, job, "full", "full")
        expected = self.equation_3(batch, 2048, layers, hidden, 51200)
        assert found == pytest.approx(expected, rel=1e-12)

    def test_four_thirds_of_the_model_flops_of_gpt3(self) -> None:
        """But for the head, which is not recomputed."""
        model, job = find_model("gpt3-175b"), TrainingJob(2048, 1536)
        expected = self.equation_3(1536, 2048, 96, 12288, model.vocab)
        assert 4 / 3 * step_flops(model, job, "full") == pytest.approx(expected, rel=1e-3)

    def test_causal_counts_half_of_the_scores(self) -> None:
        model, job = gpt(96, 12288, 96, 51200), TrainingJob(2048, 1)
        full, causal = (forward_flops(model, job, c) for c in ("full", "causal"))
        assert causal.scores == full.scores / 2
        assert full.scores == 96 * 4 * 2048 * 12288
        assert (full.matrices, full.head) == (96 * 24 * 12288**2, 2 * 12288 * 51200)


class TestVocabularyParallelism:
    """arXiv 2411.05288, table 1, for one micro-batch forward and backward."""

    H, HEADS, S, B, V = 4096, 32, 2048, 2, 131072

    @pytest.fixture
    def operators(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """FLOPs of every operator that is timed, in order."""
        counted: list[float] = []
        plain = kernels.gemm

        def spy(device: Any, dtype: str, m: Any, n: Any, k: Any) -> Any:
            counted.append(float(np.sum(2.0 * m * n * k)))
            return plain(device, dtype, m, n, k)

        monkeypatch.setattr(kernels, "gemm", spy)
        return counted

    def setting(self, software: str) -> Setting:
        cluster = find_cluster("dgx-a100")
        job = TrainingJob(self.S, 128, software=SOFTWARE[software])
        return Setting(cluster.accelerator, network(cluster, 8), job, self.H)

    def sharding(self) -> Sharding:
        return Sharding(*(np.array([v]) for v in (1.0, 1.0, 0.0, float(self.B))))

    def test_the_output_layer_does_6_b_s_h_v(self, operators: list[float]) -> None:
        head_part(self.setting("megatron"), self.V, self.sharding())
        assert sum(operators) == 6 * self.B * self.S * self.H * self.V

    def test_a_transformer_layer_does_b_s_h_times_72_h_and_12_s(self) -> None:
        model, job = gpt(1, self.H, self.HEADS, 0), TrainingJob(self.S, self.B)
        bsh = self.B * self.S * self.H
        assert step_flops(model, job, "full") == bsh * (72 * self.H + 12 * self.S)

    def test_its_operators_do_the_same(self, operators: list[float]) -> None:
        bsh, layer = self.B * self.S * self.H, gpt(1, self.H, self.HEADS, 0).layers[0]
        setting = self.setting("megatron-2022")
        part = attention_part(setting, layer.attention, self.sharding())
        score = 2 * bsh * self.S
        assert set(operators) == {score, 6 * bsh * self.H, 2 * bsh * self.H}
        assert sum(f for f in operators if f != score) == bsh * 24 * self.H
        forward, backward = (
            next(leaf for leaf in _leaves(tree) if "products" in leaf.name)
            for tree in (part.forward, part.backward)
        )
        assert backward.seconds == 2 * forward.seconds  # 8 b s h s after 4 b s h s
        operators.clear()
        feedforward_part(setting, layer.feedforward, self.sharding())
        assert sum(operators) == bsh * 48 * self.H

    def test_the_head_weighs_as_much_as_v_over_12_h_layers(self) -> None:
        """With short sequences: 6 b s h V against 72 b s h h."""
        flops = forward_flops(gpt(1, self.H, self.HEADS, self.V), TrainingJob(1, 1), "causal")
        assert flops.head / flops.matrices == pytest.approx(self.V / (12 * self.H))


def _leaves(cost: Cost) -> Iterator[Cost]:
    if not cost.children:
        yield cost
    for child in cost.children:
        yield from _leaves(child)


def test_korthikanti_selective_recomputation_costs_s_over_6h() -> None:
    """arXiv 2205.05198, section 5.3: hardware over model FLOPs is about 1 + s / (6 h)."""
    model = gpt(105, 20480, 128, 51200)
    job = TrainingJob(2048, 280, software=SOFTWARE["megatron-2022"])
    again = recomputed_flops(model, job, "selective", "full")
    assert again / step_flops(model, job, "full") == pytest.approx(2048 / (6 * 20480) / 3, rel=0.03)
