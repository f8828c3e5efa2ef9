"""What holds for the parameters of every model: they add up, and a token never uses more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.specs.huggingface import spec_from_config
from planner.specs.model import MixtureOfExperts, ModelSpec
from planner.specs.models_catalog import find_config, find_model

DENSE = ["meta-llama-3-8b", "gpt3-175b", "qwen3.5-27b", "opt-13b"]
SPARSE = ["mixtral-8x7b-v0.1", "deepseek-v3", "jamba-v0.1", "gpt-oss-20b", "kimi-k3", "arctic"]


def _all_experts(model: ModelSpec) -> ModelSpec:
    """The same model, whose tokens visit every expert."""
    layers = tuple(
        replace(layer, feedforward=replace(part, top_k=part.experts))
        if isinstance(part := layer.feedforward, MixtureOfExperts)
        else layer
        for layer in model.layers
    )
    return replace(model, layers=layers)


@pytest.mark.parametrize("name", DENSE)
def test_a_token_uses_all_of_a_dense_model(name: str) -> None:
    count = find_model(name).parameters()
    assert count.active == count.total


@pytest.mark.parametrize("name", SPARSE)
def test_a_token_that_visits_every_expert_uses_the_whole_model(name: str) -> None:
    model = find_model(name)
    assert model.parameters().active < model.parameters().total
    assert _all_experts(model).parameters().active == model.parameters().total


@pytest.mark.parametrize("name", DENSE + SPARSE)
def test_layers_add_up(name: str) -> None:
    model = find_model(name)
    one = replace(model, layers=model.layers[:-1]).parameters()
    last = model.layers[-1]
    assert model.parameters().total - one.total == last.parameters(model.hidden)
    assert model.parameters().active - one.active == last.active_parameters(model.hidden)


@given(layers=st.integers(1, 64), heads=st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_tying_saves_one_table_and_fewer_key_heads_save_their_columns(
    layers: int, heads: int
) -> None:
    config = find_config("meta-llama-3-8b") | {"num_hidden_layers": layers}
    plain = spec_from_config("x", config | {"num_key_value_heads": 32}).parameters()
    grouped = spec_from_config("x", config | {"num_key_value_heads": heads}).parameters()
    tied = spec_from_config("x", config | {"num_key_value_heads": 32, "tie_word_embeddings": True})
    assert plain.total - grouped.total == layers * 2 * 4096 * 128 * (32 - heads)
    assert plain.total - tied.parameters().total == tied.embedding_parameters
    assert tied.parameters().active_without_input_embedding == tied.parameters().active
