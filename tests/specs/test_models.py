"""Every model of the catalogue imports, and its parameters agree with the published counts."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from planner.errors import PlannerError
from planner.specs.folders import packaged_database
from planner.specs.huggingface import read_config
from planner.specs.model import GroupedQueryAttention, LatentAttention, LinearAttention
from planner.specs.models_catalog import catalogue, find_config, find_model, list_models

BILLION = 1e9
MODELS_DB = packaged_database("models_db")
CATALOGUE = catalogue()
CONFIGS = sorted(path.stem for path in MODELS_DB.glob("*.json"))
RECORDS = sorted(yaml.safe_load((MODELS_DB / "benchmarks.yaml").read_text(encoding="utf-8")))
PUBLISHED = [name for name in CONFIGS if CATALOGUE[name]["published"]]
WITH_ACTIVE = [name for name in PUBLISHED if "active_b" in CATALOGUE[name]["published"]]


def test_the_catalogue_has_an_entry_with_a_source_for_every_config() -> None:
    assert sorted(CATALOGUE) == CONFIGS
    assert all(entry["source"] and entry["confidence"] for entry in CATALOGUE.values())
    assert set(list_models()) == {*CONFIGS, *RECORDS}
    assert len(CONFIGS) == 81


def test_at_least_twenty_model_types_are_covered() -> None:
    assert len({find_config(name).get("model_type") for name in CONFIGS}) >= 20


@pytest.mark.parametrize("name", CONFIGS + RECORDS)
def test_every_model_imports(name: str) -> None:
    model = find_model(name)
    assert model.name == name
    count = model.parameters()
    assert 0 < count.active_without_input_embedding <= count.active <= count.total
    config = find_config(name)
    config = config.get("text_config", config)
    stated = config.get("num_hidden_layers") or config["n_layers"]
    if "layer_kinds" in config:
        mixers = sum(kind in "M*" for kind in config["layer_kinds"])
        assert model.num_layers == mixers
    else:
        assert model.num_layers == stated


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_has_a_source(name: str) -> None:
    record = find_config(name)
    assert record["source"]
    assert record["confidence"]


def _total_agrees(name: str) -> bool:
    published = CATALOGUE[name]["published"]["total_b"] * BILLION
    return bool(abs(find_model(name).parameters().total / published - 1) <= 0.015)


def test_totals_agree_within_1_5_percent_but_for_the_listed_models() -> None:
    differ = {name for name in PUBLISHED if not _total_agrees(name)}
    assert differ == {name for name, entry in CATALOGUE.items() if "total_exception" in entry}
    assert differ == {"deepseek-v4-pro"}  # 1.573T is published as 1.6T
    assert len(PUBLISHED) >= 70


def _active_agrees(name: str) -> set[str]:
    """Conventions under which the active parameters agree."""
    published = CATALOGUE[name]["published"]["active_b"]
    places = -Decimal(repr(published)).as_tuple().exponent  # type: ignore[operator]
    allowed = max(0.02 * published, 0.5 * 10.0 ** -max(places, 0))
    count = find_model(name).parameters()
    counts = {
        "with both embeddings": count.active,
        "without the input embedding": count.active_without_input_embedding,
    }
    near = {key: abs(value / BILLION - published) for key, value in counts.items()}
    return {key for key, distance in near.items() if distance <= allowed + 1e-9}


def test_active_counts_agree_under_the_stated_convention_but_for_the_listed_models() -> None:
    agrees = {name: _active_agrees(name) for name in WITH_ACTIVE}
    differ = {name for name, conventions in agrees.items() if not conventions}
    listed = {name for name, entry in CATALOGUE.items() if "active_exception" in entry}
    assert differ == listed
    for name in set(WITH_ACTIVE) - differ:
        assert CATALOGUE[name]["convention"] in agrees[name]


def test_the_list_of_active_exceptions_is_short_and_says_why() -> None:
    listed = {
        n: entry["active_exception"]
        for n, entry in CATALOGUE.items()
        if "active_exception" in entry
    }
    assert set(listed) == {
        "deepseek-v2-lite",
        "glm-4.5",
        "glm-4.5-air",
        "glm-4.6",
        "glm-5",
        "glm-5.1",
        "minimax-m1",
        "minimax-m3",
        "qwen3-next-80b-a3b",
    }
    assert all("embedding" in reason for reason in listed.values())


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("nvidia-nemotron-3-nano-30b-a3b-bf16", 31.6, 3.2),
        ("nvidia-nemotron-3-super-120b-a12b-bf16", 120.6, 12.2),
        ("nvidia-nemotron-3-ultra-550b-a55b-bf16", 550.0, 55.0),
        ("megascale-moe-352b", 352.0, 45.1),
        ("gpt-1008.0b-sc21", 1008.0, 1006.7),
        ("gpt-18.4b-sc21", 18.4, 18.4),
    ],
)
def test_benchmark_records_have_the_size_of_their_name(
    name: str, total: float, active: float
) -> None:
    count = find_model(name).parameters()
    assert count.total / BILLION == pytest.approx(total, rel=0.015)
    assert count.active_without_input_embedding / BILLION == pytest.approx(active, rel=0.04)


def test_the_configs_are_published_files_and_not_our_own_format() -> None:
    for name in CONFIGS:
        config = read_config(MODELS_DB / f"{name}.json")
        assert "architectures" in config or "model_type" in config, name


def test_layers_without_softmax_keep_their_heads() -> None:
    for name in ("jamba-v0.1", "qwen3-next-80b-a3b", "minimax-m1", "kimi-k3"):
        mixers = [layer.attention for layer in find_model(name).layers]
        linear = [mixer for mixer in mixers if isinstance(mixer, LinearAttention)]
        softmax = [m for m in mixers if isinstance(m, GroupedQueryAttention | LatentAttention)]
        assert linear, name
        assert softmax, name
        assert all(mixer.heads >= 1 and mixer.state_elements > 0 for mixer in linear)


def test_finding_a_model_is_fast() -> None:
    find_model("llama-3.1-70b")
    begin = time.perf_counter()
    find_model("llama-3.1-70b")
    assert time.perf_counter() - begin < 0.05


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("llama-3.1-70b", "meta-llama-3.1-70b"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "meta-llama-3.1-70b"),
        ("llama_3_8b", "meta-llama-3-8b"),
        ("llama3-8b", "meta-llama-3-8b"),
        ("Llama-2-7b", "llama-2-7b-hf"),
        ("mixtral-8x22b", "mixtral-8x22b-v0.1"),
        ("mistral-7b", "mistral-7b-instruct-v0.3"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("dbrx", "dbrx-base"),
        ("kimi-k2", "kimi-k2-instruct"),
        ("llama-4-scout", "llama-4-scout-17b-16e-instruct"),
        ("qwen3-next", "qwen3-next-80b-a3b"),
        ("korth-22b", "korth-22b"),
    ],
)
def test_short_names_work(typed: str, found: str) -> None:
    assert find_model(typed).name == found


def test_aliases_are_unique_and_hide_no_name() -> None:
    aliases = [alias for entry in CATALOGUE.values() for alias in entry.get("aliases") or ()]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(list_models())


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(PlannerError, match=r"unknown model 'lama-3\.1-70b'.*'llama-3\.1-70b'"):
        find_model("lama-3.1-70b")


def test_an_ambiguous_name_lists_what_it_may_mean(tmp_path: Path) -> None:
    config = json.dumps(find_config("meta-llama-3-8b"))
    for name in ("tiny-7b-hf", "tiny-7b-chat"):
        (tmp_path / f"{name}.json").write_text(config, encoding="utf-8")
    with pytest.raises(PlannerError, match=r"ambiguous.*tiny-7b-chat, tiny-7b-hf"):
        find_model("tiny-7b", [tmp_path])


def test_the_users_database_comes_first(tmp_path: Path) -> None:
    config = find_config("meta-llama-3-8b") | {"num_hidden_layers": 4}
    folder = tmp_path / "models_db"
    folder.mkdir()
    (folder / "meta-llama-3-8b.json").write_text(json.dumps(config), encoding="utf-8")
    assert find_model("meta-llama-3-8b", [tmp_path]).num_layers == 4
    assert find_model("meta-llama-3-8b").num_layers == 32


def test_the_users_file_comes_first_whatever_its_case(tmp_path: Path) -> None:
    config = find_config("deepseek-v3") | {"num_hidden_layers": 5}
    (tmp_path / "DeepSeek-V3.json").write_text(json.dumps(config), encoding="utf-8")
    for typed in ("deepseek-v3", "DeepSeek-V3", "deepseek-ai/DeepSeek-V3"):
        assert find_model(typed, [tmp_path]).num_layers == 5


def test_the_users_record_comes_before_a_packaged_file(tmp_path: Path) -> None:
    record = find_config("meta-llama-3-8b") | {"num_hidden_layers": 3}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"meta-llama-3-8b": record}))
    for typed in ("meta-llama-3-8b", "llama-3-8b"):
        assert find_model(typed, [tmp_path]).num_layers == 3


def test_the_users_table_may_quote_names_and_refer_to_records(tmp_path: Path) -> None:
    record = yaml.safe_dump(find_config("korth-22b"), default_flow_style=True, width=10**6)
    text = f"\ufeff'base-22b': &base {record}small-22b:\n  <<: *base\n  num_hidden_layers: 2\n"
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert find_model("base-22b", [tmp_path]).num_layers == 48
    assert find_model("small-22b", [tmp_path]).num_layers == 2


def test_a_broken_table_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("my-model: [1,\n")
    with pytest.raises(PlannerError, match=r"mine\.yaml: not valid YAML") as caught:
        find_model("my-model", [tmp_path])
    assert "\n" not in str(caught.value)


def test_the_users_table_of_records_is_read(tmp_path: Path) -> None:
    record = find_config("korth-22b") | {"num_hidden_layers": 2}
    table = {"my-model": record, "broken": {"hidden_size": "wide"}}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    assert find_model("my-model", [tmp_path]).num_layers == 2
    assert "my-model" in list_models([tmp_path])
    with pytest.raises(PlannerError, match=r"models\.yaml: broken: field 'hidden_size'"):
        find_model("broken", [tmp_path])


def test_a_path_works_where_a_name_does(tmp_path: Path) -> None:
    file = tmp_path / "my-llama" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps(find_config("meta-llama-3-8b")), encoding="utf-8")
    assert find_model(file).name == "my-llama"
    assert find_model(str(file.parent)).parameters() == find_model("llama-3-8b").parameters()
