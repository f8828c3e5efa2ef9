"""The parts of a model hold its parameters, and do the products that its FLOPs count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.costs import kernels
from planner.layers.attention import attention_part
from planner.layers.embedding import embedding_part, head_part
from planner.layers.feedforward import feedforward_part
from planner.layers.moe import moe_part
from planner.layers.part import Part
from planner.specs.model import (
    DenseFeedForward,
    LatentAttention,
    Layer,
    LinearAttention,
    MixtureOfExperts,
)
from planner.specs.models_catalog import find_model, list_models
from planner.specs.workload import TrainingJob
from planner.training.flops import forward_flops

MODELS = ("llama-3.1-8b", "mixtral-8x7b-v0.1", "deepseek-v3", "gpt3-175b")
TOKENS = 4096


def column(value: float) -> np.ndarray:
    return np.array([value], dtype=float)


def mixture(setting: Any, spec: MixtureOfExperts, tp: int = 1) -> Part:
    tokens = column(TOKENS / tp)
    return moe_part(setting, spec, tokens, column(tp), column(1), column(1))


def layer_parts(bench: Any, setting: Any, layer: Layer) -> list[Part]:
    found = [attention_part(setting, layer.attention, bench.sharding())]
    if isinstance(layer.feedforward, MixtureOfExperts):
        found.append(mixture(setting, layer.feedforward))
    elif isinstance(layer.feedforward, DenseFeedForward):
        found.append(feedforward_part(setting, layer.feedforward, bench.sharding()))
    return found


def held(part: Part) -> float:
    return float(np.sum(part.parameters) + np.sum(part.expert_parameters))


@pytest.mark.parametrize("name", MODELS)
def test_all_parts_hold_the_models_parameters(bench: Any, name: str) -> None:
    """All but norm vectors, under a ten-thousandth, which the parts may leave out."""
    model = find_model(name)
    setting = bench.setting(model.hidden)
    total = held(embedding_part(setting, model.vocab, model.learned_positions, bench.sharding()))
    total += held(head_part(setting, model.vocab, bench.sharding()))
    total -= model.tied_embeddings * model.embedding_parameters
    for layer in set(model.layers):
        count = sum(other == layer for other in model.layers)
        total += count * sum(held(part) for part in layer_parts(bench, setting, layer))
    expected = model.parameters().total
    norms = model.hidden * (sum(layer.norms for layer in model.layers) + model.final_norms)
    assert norms < 1e-4 * expected
    assert expected - norms <= total <= expected


class TestLatentAttention:
    SPEC = find_model("deepseek-v3").layers[0].attention

    def test_one_rank_holds_all(self, bench: Any) -> None:
        assert isinstance(self.SPEC, LatentAttention)
        part = attention_part(bench.setting(7168), self.SPEC, bench.sharding())
        assert held(part) == self.SPEC.parameters(7168) == 187_107_328

    @pytest.mark.parametrize("tp", [2, 8, 64])
    def test_down_projections_are_replicated_and_the_rest_is_split(
        self, bench: Any, tp: int
    ) -> None:
        part = attention_part(bench.setting(7168), self.SPEC, bench.sharding(tp=tp))
        down = 7168 * (1536 + 512 + 64) + 1536 + 512
        assert held(part) == pytest.approx(down + (187_107_328 - down) / tp, rel=1e-12)


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_ranks_split_a_dense_layer(bench: Any, tp: int) -> None:
    model = find_model("llama-3.1-8b")
    layer, setting, split = model.layers[0], bench.setting(4096), bench.sharding(tp=tp)
    parts = (
        attention_part(setting, layer.attention, split),
        feedforward_part(setting, layer.feedforward, split),
    )
    assert tp * sum(held(p) for p in parts) == pytest.approx(
        layer.parameters(4096) - layer.norms * 4096, rel=1e-9
    )


INDEXER = "projections of the sparse indexer"
LEFT_OUT = {
    "deepseek-v3.2": INDEXER,
    "glm-5": INDEXER,
    "glm-5.1": INDEXER,
    "glm-5.2": INDEXER,
    "glm-5.3": INDEXER,
    "minimax-m3": INDEXER,
    "deepseek-v4-flash": "low-rank queries and outputs are costed as whole projections",
    "deepseek-v4-pro": "low-rank queries and outputs are costed as whole projections",
    "hunyuan-large": "borrowed keys and values are projected again",
    "kimi-k3": "the output gate of latent attention",
    "step-3": "low-rank queries are costed as whole projections",
}
"""Models with projections that the layers' times leave out or count whole."""


def catalogue() -> list[Any]:
    return [
        pytest.param(
            name,
            marks=[pytest.mark.xfail(reason=LEFT_OUT[name], strict=True)]
            if name in LEFT_OUT
            else [],
        )
        for name in list_models()
    ]


@pytest.mark.parametrize("name", catalogue())
def test_products_of_the_layers_are_those_of_the_flop_count(
    bench: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every weight once forward and twice backward, against ``training.flops``."""
    model = find_model(name)
    setting = bench.setting(model.hidden, seq_len=TOKENS)
    counted = {"products": 0.0, "experts": 0.0}
    gemm, grouped = kernels.gemm, kernels.experts

    def counting_gemm(device: Any, dtype: str, m: Any, n: Any, k: Any) -> Any:
        counted["products"] += weight * float(np.sum(2.0 * m * n * k))
        return gemm(device, dtype, m, n, k)

    def counting_experts(
        device: Any, dtype: str, rows: Any, active: Any, local: Any, hidden: Any, width: Any,
        matrices: int, **options: Any,
    ) -> Any:  # fmt: skip
        counted["experts"] += weight * float(np.sum(2.0 * matrices * rows * hidden * width))
        return grouped(device, dtype, rows, active, local, hidden, width, matrices, **options)

    monkeypatch.setattr(kernels, "gemm", counting_gemm)
    monkeypatch.setattr(kernels, "experts", counting_experts)
    for layer in set(model.layers):
        weight = sum(other == layer for other in model.layers)
        layer_parts(bench, setting, layer)
    done = counted["products"] + 3 * counted["experts"]  # their time is taken three times
    flops = forward_flops(model, TrainingJob(TOKENS, 1, mtp=False), "causal")
    assert done == pytest.approx(3 * TOKENS * flops.matrices, rel=5e-3)


def test_a_linear_mixer_scans_in_addition_to_its_projections(bench: Any, spied_flops: Any) -> None:
    spec = LinearAttention("scan", 16, 6144, 4096, 0, 5e6, 4096)
    setting = bench.setting(2048, seq_len=TOKENS)
    found = spied_flops(lambda: attention_part(setting, spec, bench.sharding()))
    projections = 3 * 2 * TOKENS * 2048 * (6144 + 4096)
    assert found == pytest.approx(projections + TOKENS * 5e6, rel=1e-9)
