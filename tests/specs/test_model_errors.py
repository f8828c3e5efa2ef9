"""What is not understood is an error with the place, the finding and the expectation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import PlannerError
from planner.specs.huggingface import read_config, spec_from_config, spec_from_record
from planner.specs.models_catalog import find_config, find_model

LLAMA = find_config("meta-llama-3.1-8b")

# Published sizes of small models: Hugging Face's count of the weights.
OTHERS: dict[str, tuple[dict[str, Any], int]] = {
    "gpt2": (
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
         "n_ctx": 1024, "vocab_size": 50257, "activation_function": "gelu_new", "n_inner": None,
         "attn_pdrop": 0.1, "summary_type": "cls_index"},
        124_439_808,
    ),
    "opt-125m": (
        {"model_type": "opt", "hidden_size": 768, "num_hidden_layers": 12, "ffn_dim": 3072,
         "num_attention_heads": 12, "max_position_embeddings": 2048, "vocab_size": 50272,
         "activation_function": "relu", "do_layer_norm_before": True, "word_embed_proj_dim": 768},
        125_239_296,
    ),
    "pythia-160m": (
        {"model_type": "gpt_neox", "hidden_size": 768, "num_hidden_layers": 12,
         "intermediate_size": 3072, "num_attention_heads": 12, "vocab_size": 50304,
         "hidden_act": "gelu", "use_parallel_residual": True, "rotary_pct": 0.25},
        162_322_944,
    ),
    "gemma-2-9b": (
        {"model_type": "gemma2", "hidden_size": 3584, "num_hidden_layers": 42, "head_dim": 256,
         "intermediate_size": 14336, "num_attention_heads": 16, "num_key_value_heads": 8,
         "vocab_size": 256000, "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 4096,
         "query_pre_attn_scalar": 256, "final_logit_softcapping": 30.0},
        9_241_705_984,
    ),
    "command-r-35b": (
        {"model_type": "cohere", "hidden_act": "silu", "hidden_size": 8192, "logit_scale": 0.0625,
         "intermediate_size": 22528, "num_attention_heads": 64, "num_hidden_layers": 40,
         "num_key_value_heads": 64, "vocab_size": 256000, "use_qk_norm": False},
        34_980_831_232,
    ),
    "bloom-560m": (
        {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16,
         "vocab_size": 250880, "hidden_dropout": 0.0},
        559_214_592,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_families_outside_the_catalogue_have_the_count_of_their_weights(name: str) -> None:
    config, published = OTHERS[name]
    assert spec_from_config(name, config).parameters().total == published


def _changed(**changes: Any) -> dict[str, Any]:
    return LLAMA | changes


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in LLAMA.items() if name != key}


def test_an_unknown_key_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(_changed(memory_slots=7, ghost_heads=[1])), encoding="utf-8")
    with pytest.raises(
        PlannerError, match=r"odd\.json: keys not understood: ghost_heads.*memory_slots = 7"
    ):
        find_model(path)


@pytest.mark.parametrize("empty", [None, 0, False, [], {}, ""])
def test_an_unknown_key_without_a_value_does_no_harm(empty: object) -> None:
    assert spec_from_config("x", _changed(memory_slots=empty)).num_layers == 32


def test_an_unknown_model_type_is_read_if_all_keys_are_understood() -> None:
    model = spec_from_config("x", _changed(model_type="brandnew"))
    assert model.parameters() == spec_from_config("x", LLAMA).parameters()
    with pytest.raises(PlannerError, match=r"hidden_act.*gelu.*expected silu"):
        spec_from_config("x", _changed(model_type="brandnew", hidden_act="gelu"))


def test_an_unknown_model_type_must_say_whether_its_embeddings_are_tied() -> None:
    silent = _without("tie_word_embeddings")
    assert not spec_from_config("x", silent).tied_embeddings
    with pytest.raises(PlannerError, match=r"'tie_word_embeddings'.*'brandnew' is not known"):
        spec_from_config("x", silent | {"model_type": "brandnew"})


@pytest.mark.parametrize(
    "key", ["is_encoder_decoder", "add_cross_attention", "mtp_use_dedicated_embeddings"]
)
def test_a_structure_that_is_not_modelled_is_refused(key: str) -> None:
    assert spec_from_config("x", _changed(**{key: False})).num_layers == 32
    with pytest.raises(PlannerError, match=f"keys not understood: {key} = True"):
        spec_from_config("x", _changed(**{key: True}))


@pytest.mark.parametrize(
    ("name", "key"),
    [("kimi-k3", "linear_attn_config"), ("minimax-m3", "sparse_attention_config")],
)
def test_an_unknown_key_inside_a_structural_field_is_named(name: str, key: str) -> None:
    config = find_config(name)
    config |= config.pop("text_config", {})
    config[key] = config[key] | {"ghost_heads": 7}
    with pytest.raises(PlannerError, match=rf"keys not understood: {key}\.ghost_heads = 7"):
        spec_from_config("x", config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_without("hidden_size"), "missing field 'hidden_size'"),
        (_without("vocab_size"), "missing field 'vocab_size'"),
        (_without("num_hidden_layers"), "missing field 'num_hidden_layers'"),
        (_without("num_attention_heads"), "missing field 'num_attention_heads'"),
        (_without("intermediate_size"), "missing field 'intermediate_size'"),
        (_changed(hidden_size="4096"), "'hidden_size': found '4096', expected a whole number"),
        (_changed(hidden_size=-4096), "'hidden_size': found -4096"),
        (_changed(hidden_size=4096.5), r"'hidden_size': found 4096\.5"),
        (_changed(hidden_size=float("nan")), "'hidden_size': found nan"),
        (_changed(num_hidden_layers=0), "'num_hidden_layers': found 0"),
        (_changed(num_hidden_layers=10**8), "at most 10000 layers"),
        (_changed(num_hidden_layers=True), "'num_hidden_layers': found True"),
        (_changed(num_attention_heads=33), "33, expected a divisor of hidden_size"),
        (_changed(num_key_value_heads=5), "5, expected a divisor of the 32 query heads"),
        (_changed(tie_word_embeddings="no"), "'tie_word_embeddings': found 'no'"),
        (_changed(layer_types=["full_attention"]), "a list of 1, expected .* 32 layers"),
        (_changed(layer_types=["odd"] * 32), "'layer_types': found 'odd', expected only"),
        (_changed(model_type=7), "'model_type': found 7, expected a text"),
        (_changed(text_config=3), "'text_config': found 3, expected an object"),
        (_changed(quantization_config="fp8"), "'quantization_config': found 'fp8'"),
        (_changed(num_local_experts=8, num_experts_per_tok=9), "9, expected at most 8 experts"),
        (_changed(word_embed_proj_dim=512), r"512, expected hidden_size \(4096\)"),
        (_changed(num_local_experts=8), "missing field 'num_experts_per_tok'"),
    ],
)
def test_a_wrong_field_is_one_sentence(config: dict[str, Any], message: str) -> None:
    with pytest.raises(PlannerError, match=message) as caught:
        spec_from_config("my-model", config, "models/my.json")
    assert str(caught.value).startswith("models/my.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(LLAMA)[:200], "not valid JSON"),
        ("", "not valid JSON"),
        ("hidden_size: 4096", "not valid JSON"),
        ("[1, 2]", "found a list, expected a JSON object"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PlannerError, match=f"broken.json: {message}"):
        find_model(path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "marked.json"
    path.write_text(json.dumps(LLAMA), encoding="utf-8-sig")
    assert find_model(path).num_layers == 32


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlannerError, match=r"none\.json: cannot be read"):
        read_config(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(PlannerError, match=r"binary\.json: cannot be read"):
        find_model(tmp_path / "binary.json")


def test_a_hybrid_record_must_begin_with_a_mixer() -> None:
    record = find_config("nvidia-nemotron-3-nano-30b-a3b-bf16")
    for kinds in ("E" + record["layer_kinds"][1:], "X" * 52, "M"):
        with pytest.raises(PlannerError, match="layer_kinds"):
            spec_from_record("x", record | {"layer_kinds": kinds})


def test_a_rule_for_shared_indexers_without_the_list_is_refused() -> None:
    config = find_config("glm-5.2")
    del config["indexer_types"]
    with pytest.raises(PlannerError, match="keys not understood: index_skip_topk_offset = 3"):
        spec_from_config("x", config)


def test_kimi_layer_lists_must_cover_every_layer() -> None:
    config = find_config("kimi-k3")
    text = config["text_config"]
    short = text["linear_attn_config"] | {"kda_layers": [1, 2]}
    broken = config | {"text_config": text | {"linear_attn_config": short}}
    with pytest.raises(PlannerError, match=r"kda_layers.*every number from 1 to 93 once"):
        spec_from_config("x", broken)


JUNK: st.SearchStrategy[object] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-1, 3), max_size=3),
    st.just({}),
)
FAMILIES = ["deepseek-v3.2", "qwen3-next-80b-a3b", "jamba-v0.1", "mimo-v2-flash", "gpt-oss-20b",
            "deepseek-v4-flash", "minimax-m3", "hunyuan-large", "dbrx-base"]  # fmt: skip


@given(st.data())
def test_junk_in_a_field_never_ends_in_another_exception(data: st.DataObject) -> None:
    config = dict(find_config(data.draw(st.sampled_from(FAMILIES))))
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(JUNK)
    try:
        assert spec_from_config("x", config).parameters().total > 0
    except PlannerError as error:
        assert str(error).startswith("x: ")
