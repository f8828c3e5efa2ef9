"""Generated loads have the published skew, the drift and the affinity that they were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.errors import PlannerError
from planner.placement.generate import (
    PRESETS,
    capped,
    generate,
    popularity,
    skew_of,
    usual_skew,
    write_text,
)
from planner.placement.loads_formats import read_loads
from planner.specs.models_catalog import find_model


def made(name: str, **options: int | bool):
    skew = PRESETS[name]
    return generate(find_model(skew.model), skew, **({"tokens": 100_000} | options))


def test_deepseek_r1_is_as_uneven_over_32_ranks_as_measured() -> None:
    chances = popularity(PRESETS["deepseek-r1"].sigma, 2000, 256, 8)
    ranks = chances.reshape(2000, 32, 8).sum(axis=2)
    assert (ranks.max(axis=1) / ranks.mean(axis=1)).mean() - 1.0 == pytest.approx(1.564, abs=0.05)


@pytest.mark.parametrize(
    ("name", "published"), [("olmoe-chat", 3.1), ("olmoe-mixed", 4.7), ("olmoe-code", 6.7)]
)
def test_olmoe_has_the_published_hottest_expert(name: str, published: float) -> None:
    chances = popularity(PRESETS[name].sigma, 2000, 64, 8)
    assert (chances.max(axis=1) * 64 / 8).mean() == pytest.approx(published, rel=0.06)


def test_a_sharegpt_layer_has_a_fifth_of_its_experts_above_the_mean() -> None:
    chances = popularity(PRESETS["deepseek-r1-sharegpt"].sigma, 2000, 256, 8)
    assert (chances > 8 / 256).mean() == pytest.approx(0.20, abs=0.01)
    assert (chances.max(axis=1) * 256 / 8).mean() == pytest.approx(30.0, rel=0.12)


def test_no_expert_serves_a_token_twice() -> None:
    chance = capped(np.array([[100.0, 10.0, 1.0, 1.0]]), 2)
    assert chance.sum() == pytest.approx(2.0)
    assert chance.max() <= 1.0 + 1e-12
    assert chance[0, 2] == chance[0, 3] < chance[0, 1] < 1.0


def test_the_same_seed_gives_the_same_loads() -> None:
    first, second, other = (made("mixtral", seed=s).counts for s in (3, 3, 4))
    assert (first == second).all() and (first != other).any()


def test_windows_drift_as_asked() -> None:
    assert made("olmoe-chat", windows=3).drift == pytest.approx(0.12, rel=0.1)


@pytest.mark.parametrize("tokens", [1000, 10_000])
def test_the_chance_of_small_counts_is_no_drift(tokens: int) -> None:
    assert made("olmoe-chat", windows=6, tokens=tokens).drift == pytest.approx(0.12, rel=0.15)


def test_tokens_have_different_experts_and_follow_their_successors() -> None:
    loads = made("olmoe-chat", tokens=2000, routed=True)
    assert loads.routing is not None and loads.routing.shape == (16, 2000, 8)
    ordered = np.sort(loads.routing, axis=2)
    assert (ordered[:, :, 1:] > ordered[:, :, :-1]).all()
    assert loads.counts.sum(axis=1).tolist() == [16_000] * 16
    skew = PRESETS["olmoe-chat"]
    model = find_model(skew.model)

    def surprise(affinity: float) -> float:
        """Information that a layer gives about the next, from pairs of experts."""
        from dataclasses import replace

        found = generate(model, replace(skew, affinity=affinity), tokens=2000, routed=True)
        assert found.routing is not None
        pairs = np.zeros((64, 64))
        np.add.at(pairs, (found.routing[0][:, :, None], found.routing[1][:, None, :]), 1.0)
        joint = pairs / pairs.sum()
        apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
        return float(np.sum(joint * np.log(np.maximum(joint, 1e-12) / apart)))

    assert surprise(0.6) > 3.0 * surprise(0.0)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_files_are_read_back(tmp_path: Path, form: str) -> None:
    model = find_model("deepseek-v2-lite")
    loads = generate(model, PRESETS["olmoe-chat"], tokens=1000)
    path = tmp_path / f"loads.{form}"
    path.write_text(write_text(loads, form, model.num_layers), encoding="utf-8")
    back = read_loads(path, model)
    assert back.layers == loads.layers == tuple(range(1, 27))
    assert (back.counts == loads.counts).all()


def test_a_model_gets_the_skew_of_its_family_or_its_size() -> None:
    assert usual_skew(find_model("deepseek-v3")) is PRESETS["deepseek-r1"]
    assert usual_skew(find_model("mixtral-8x22b-v0.1")) is PRESETS["mixtral"]
    assert usual_skew(find_model("grok-1")) is PRESETS["mixtral"]


def test_unknown_presets_and_numbers_are_named() -> None:
    with pytest.raises(PlannerError, match="did you mean 'olmoe-chat'"):
        skew_of("olmo-chat")
    with pytest.raises(PlannerError, match="tokens: found 0"):
        made("mixtral", tokens=0)
    with pytest.raises(PlannerError, match="no experts"):
        usual_skew(find_model("llama-3.1-8b"))
