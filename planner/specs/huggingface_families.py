"""What a model family builds into its code and does not say in its configuration.

A row states the differences from the common decoder: RMS norms, no biases unless the configuration
asks for them, rotary positions, an untied output head, and a gated feed-forward for SiLU.
A type of `PLAIN` has no differences, and one that is not known at all is read by its configuration
alone, which must then say whether the embeddings are tied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """Built-in choices; None leaves one to the configuration."""

    gated: bool | None = None
    qkv_bias: bool | None = None
    """None: as ``attention_bias`` says."""
    output_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_norm: bool = False
    qk_norm_full: bool = False
    """The query-key norm, if there is one, spans all heads."""
    output_gate: bool = False
    sinks: bool = False
    layer_norm_bias: bool = False
    """Norms are LayerNorms with a bias beside the scale."""
    norms: int = 2
    """Norms of one layer."""
    tied: bool | None = False
    """Whether input and output share one table; None: the configuration must say."""
    position_rows: int | None = None
    """A learned position table with this many rows beyond the maximal position."""
    expert_bias: bool = False
    router_bias: bool = False
    shared_experts: int = 0
    shared_gate: bool = False
    windows: str = "all"
    """Which layers a window holds for: all, even (Gemma 2), late (Qwen2), chunks (Llama 4)."""
    embedding_norms: int = 0
    widening: int | None = None
    """Width of a feed-forward in hidden sizes where none is stated."""
    dense_prediction: bool = False
    """Multi-token-prediction layers are dense beside layers with experts."""
    head_bias: bool = False


_GPT = Family(
    gated=False, qkv_bias=True, output_bias=True, mlp_bias=True, layer_norm_bias=True, tied=True
)
"""GPT-2 and its descendants: every matrix with a bias, LayerNorm, GELU."""

GPT_RECORD = _GPT
"""A benchmark record with an ungated feed-forward and no model type."""

COMMON = Family()

UNKNOWN = Family(tied=None)
"""A type without a row: transformers ties the embeddings of some and not of others."""

PLAIN = frozenset((
    "PanguProMoE", "arctic", "dbrx", "deepseek", "deepseek_v2", "deepseek_v3", "deepseek_v32",
    "deepseek_v4", "ernie4_5_moe", "glm_moe_dsa", "granite", "hunyuan", "internlm2", "jamba",
    "kimi_k2", "llama", "mimo_v2_flash", "minimax_m1", "mistral", "mixtral", "pangu_ultra_moe",
    "phi3", "stablelm", "step3",
))  # fmt: skip
"""Types whose configurations leave nothing unsaid that matters here."""

FAMILIES: dict[str, Family] = {
    "gpt": _GPT,
    "gpt2": replace(_GPT, position_rows=0, widening=4),
    "opt": replace(_GPT, position_rows=2),
    "bloom": replace(_GPT, embedding_norms=2, widening=4),
    "gpt_neox": replace(_GPT, tied=False),
    "falcon": Family(gated=False, layer_norm_bias=True, tied=True, mlp_bias=False, widening=4),
    "qwen2": Family(qkv_bias=True, output_bias=False, windows="late"),
    "qwen2_moe": Family(qkv_bias=True, output_bias=False, shared_gate=True, windows="late"),
    "qwen3": Family(qk_norm=True, windows="late"),
    "qwen3_moe": Family(qk_norm=True, windows="late"),
    "qwen3_next": Family(qk_norm=True, output_gate=True, shared_gate=True),
    "qwen3_5": Family(qk_norm=True, shared_gate=True),
    "qwen3_5_moe": Family(qk_norm=True, shared_gate=True),
    "mimo": Family(qkv_bias=True, output_bias=False, windows="late"),
    "gemma": Family(gated=True, tied=True),
    "gemma2": Family(gated=True, tied=True, norms=4, windows="even"),
    "gemma3": Family(gated=True, tied=True, norms=4, qk_norm=True),
    "glm4_moe": Family(output_bias=False),
    "gpt_oss": Family(sinks=True, expert_bias=True, router_bias=True),
    "llama4": Family(shared_experts=1, windows="chunks"),
    "minimax_m2": Family(qk_norm_full=True),
    "minimax_m3": Family(gated=True),
    "cohere": Family(tied=True, norms=1),
    "cohere2": Family(tied=True, norms=1),
    "olmoe": Family(qk_norm=True, qk_norm_full=True),
    "phimoe": Family(layer_norm_bias=True),
    "grok-1": Family(gated=True),
    "nemotron_h": Family(gated=False),
    "step3p5": Family(qk_norm=True, dense_prediction=True),
    "step3p7": Family(qk_norm=True, dense_prediction=True),
    "kimi_linear": Family(gated=True),
}
"""Rows by ``model_type``, without the suffix ``_text`` of a nested configuration."""


def family(model_type: str) -> Family:
    """What is known of a model type."""
    plain = model_type.removesuffix("_text")
    return FAMILIES.get(plain, COMMON if plain in PLAIN else UNKNOWN)
