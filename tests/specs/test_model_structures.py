"""Layer by layer: what the importer makes of the families that differ from Llama."""

from __future__ import annotations

import pytest

from planner.specs.model import (
    Attention,
    DenseFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.models_catalog import find_model


def _sparse(model: ModelSpec) -> list[bool]:
    return [isinstance(layer.feedforward, MixtureOfExperts) for layer in model.layers]


def _linear(model: ModelSpec) -> list[bool]:
    return [isinstance(layer.attention, LinearAttention) for layer in model.layers]


def _grouped(attention: Attention) -> GroupedQueryAttention:
    assert isinstance(attention, GroupedQueryAttention)
    return attention


def _windows(model: ModelSpec) -> list[int | None]:
    return [_grouped(layer.attention).window for layer in model.layers]


def test_llama_3_1_8b_has_the_count_of_its_weights() -> None:
    model = find_model("llama-3.1-8b")
    assert model.parameters().total == 8_030_261_248
    assert model.max_positions == 131072


def test_mixtral_8x7b_has_the_count_of_its_weights() -> None:
    assert find_model("mixtral-8x7b").parameters().total == 46_702_792_704


def test_deepseek_v3_has_three_dense_layers_latent_attention_and_mtp() -> None:
    model = find_model("deepseek-v3")
    assert _sparse(model) == [False] * 3 + [True] * 58
    attention = model.layers[0].attention
    assert isinstance(attention, LatentAttention)
    assert (attention.heads, attention.kv_rank, attention.query_rank) == (128, 512, 1536)
    assert model.layers[3].feedforward == MixtureOfExperts(
        256, 8, 2048, shared_width=2048, route_groups=(4, 8)
    )
    assert model.layers[0].feedforward == DenseFeedForward(18432)
    count = model.parameters()
    assert count.total / 1e9 == pytest.approx(671.03, abs=0.005)
    assert count.mtp / 1e9 == pytest.approx(11.61, abs=0.005)
    assert len(model.mtp_layers) == 1
    assert model.quantization == "fp8_block"


def test_the_sparse_indexer_adds_0_85_billion_to_deepseek_v3_2() -> None:
    extra = find_model("deepseek-v3.2").parameters().total
    extra -= find_model("deepseek-v3").parameters().total
    assert extra / 1e9 == pytest.approx(0.85, abs=0.01)


def test_glm_5_2_shares_the_indexer_between_layers() -> None:
    indexers = [
        layer.attention.indexer
        for layer in find_model("glm-5.2").layers
        if isinstance(layer.attention, LatentAttention)
    ]
    assert [i.shared for i in indexers if i][:8] == [False] * 3 + [True] * 3 + [False, True]
    assert all(i is not None and i.top_k == 2048 for i in indexers)


def test_jamba_has_one_attention_in_eight_layers_and_experts_in_every_other() -> None:
    model = find_model("jamba-v0.1")
    assert _linear(model) == [i % 8 != 4 for i in range(32)]
    assert _sparse(model) == [i % 2 == 1 for i in range(32)]


def test_gpt_oss_alternates_windows_and_has_sinks_and_biases() -> None:
    model = find_model("gpt-oss-120b")
    assert _windows(model) == [128, None] * 18
    assert _grouped(model.layers[0].attention).sinks
    assert _grouped(model.layers[0].attention).head_dim == 64
    part = model.layers[0].feedforward
    assert isinstance(part, MixtureOfExperts)
    assert part.expert_bias
    assert (part.experts, part.top_k, part.width) == (128, 4, 2880)
    assert model.quantization == "mxfp4"


def test_llama_4_maverick_has_experts_in_every_other_layer_and_scout_in_all() -> None:
    maverick = find_model("llama-4-maverick")
    assert _sparse(maverick) == [i % 2 == 1 for i in range(48)]
    assert maverick.layers[0].feedforward == DenseFeedForward(16384)
    assert maverick.layers[1].feedforward == MixtureOfExperts(128, 1, 8192, shared_width=8192)
    assert _windows(maverick) == [8192, 8192, 8192, None] * 12
    assert all(_sparse(find_model("llama-4-scout")))


@pytest.mark.parametrize("name", ["qwen3-next-80b-a3b", "qwen3.5-27b", "qwen3.5-397b-a17b"])
def test_qwen_hybrids_have_three_linear_layers_to_one(name: str) -> None:
    model = find_model(name)
    assert _linear(model) == [i % 4 != 3 for i in range(model.num_layers)]
    assert _grouped(model.layers[3].attention).output_gate


def test_qwen3_next_has_a_gated_shared_expert() -> None:
    assert find_model("qwen3-next").layers[0].feedforward == MixtureOfExperts(
        512, 10, 512, shared_width=512, shared_gate=True
    )


def test_minimax_m1_has_seven_linear_layers_to_one() -> None:
    assert _linear(find_model("minimax-m1")) == [i % 8 != 7 for i in range(80)]


def test_mimo_v2_has_other_heads_in_its_windows() -> None:
    model = find_model("mimo-v2-flash")
    full, local = _grouped(model.layers[0].attention), _grouped(model.layers[1].attention)
    assert (full.kv_heads, full.window, full.sinks) == (4, None, False)
    assert (local.kv_heads, local.window, local.sinks) == (8, 128, True)
    assert (full.head_dim, full.value_dim) == (192, 128)
    assert _sparse(model) == [False] + [True] * 47


def test_arctic_has_a_dense_branch_beside_its_experts() -> None:
    assert find_model("arctic").layers[0].feedforward == MixtureOfExperts(
        128, 2, 4864, dense_width=7168
    )


def test_hunyuan_large_borrows_keys_in_every_second_layer() -> None:
    layers = find_model("hunyuan-large").layers
    assert [_grouped(layer.attention).borrows_kv for layer in layers] == [False, True] * 32


def test_step_3_factorises_its_queries() -> None:
    model = find_model("step-3")
    attention = _grouped(model.layers[0].attention)
    assert (attention.heads, attention.kv_heads, attention.query_rank) == (64, 1, 2048)
    assert _sparse(model) == [False] * 5 + [True] * 56


def test_step_3_7_predicts_with_dense_layers() -> None:
    model = find_model("step-3.7-flash")
    assert len(model.mtp_layers) == 3
    assert all(isinstance(one.feedforward, DenseFeedForward) for one in model.mtp_layers)
    assert _windows(model)[:5] == [None, 512, 512, 512, None]


def test_kimi_k3_mixes_delta_and_latent_attention_and_latent_experts() -> None:
    model = find_model("kimi-k3")
    assert sum(_linear(model)) == 69
    assert _linear(model)[:4] == [True, True, True, False]
    assert not _linear(model)[92]
    latent = model.layers[3].attention
    assert isinstance(latent, LatentAttention)
    assert latent.output_gate
    part = model.layers[1].feedforward
    assert isinstance(part, MixtureOfExperts)
    assert (part.experts, part.top_k, part.latent, part.shared_width) == (896, 16, 3584, 6144)
    assert isinstance(model.layers[0].feedforward, DenseFeedForward)


def test_deepseek_v4_compresses_keys_by_4_and_128() -> None:
    model = find_model("deepseek-v4-flash")
    attentions = [_grouped(layer.attention) for layer in model.layers]
    assert [a.compression for a in attentions[:6]] == [0, 0, 4, 128, 4, 128]
    assert all((a.indexer is not None) == (a.compression == 4) for a in attentions)
    assert all(a.key_is_value and a.window == 128 for a in attentions)
    assert model.quantization == "fp8_block+fp4 experts"


def test_minimax_m3_selects_blocks_in_its_sparse_layers() -> None:
    model = find_model("minimax-m3")
    indexers = [_grouped(layer.attention).indexer for layer in model.layers]
    assert [one is not None for one in indexers] == [False] * 3 + [True] * 57
    assert indexers[3] is not None
    assert indexers[3].top_k == 2048
    assert model.layers[0].feedforward == DenseFeedForward(12288)


def test_hunyuan_a13b_reads_lists_where_others_have_numbers() -> None:
    part = find_model("hunyuan-a13b").layers[0].feedforward
    assert part == MixtureOfExperts(64, 8, 3072, shared_width=3072)


def test_dbrx_renames_everything() -> None:
    model = find_model("dbrx")
    assert (model.hidden, model.num_layers) == (6144, 40)
    assert _grouped(model.layers[0].attention).kv_heads == 8
    assert model.layers[0].feedforward == MixtureOfExperts(16, 4, 10752)


def test_opt_and_gpt_have_learned_positions_biases_and_two_matrices() -> None:
    opt, gpt = find_model("opt-175b"), find_model("gpt3-175b")
    assert (opt.learned_positions, gpt.learned_positions) == (2050, 2048)
    for model in (opt, gpt):
        assert model.tied_embeddings
        assert model.layers[0].norms == 4
        part = model.layers[0].feedforward
        assert part == DenseFeedForward(49152, gated=False, bias=True)


def test_nemotron_pairs_each_mixer_with_the_experts_that_follow() -> None:
    model = find_model("nvidia-nemotron-3-nano-30b-a3b-bf16")
    assert model.num_layers == 29  # 23 Mamba and 6 attention blocks, 23 with experts
    alone = [layer for layer in model.layers if layer.feedforward is None]
    assert len(alone) == 6
    assert all(layer.norms == 1 for layer in alone)
    part = model.layers[0].feedforward
    assert isinstance(part, MixtureOfExperts)
    assert not part.gated
    assert part.shared_width == 3712


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("kimi-k2.5", "int4"),
        ("kimi-k3", "mxfp4"),
        ("minimax-m2.5", "fp8_block"),
        ("llama-3-8b", None),
    ],
)
def test_the_published_datatype_is_read(name: str, quantization: str | None) -> None:
    assert find_model(name).quantization == quantization
