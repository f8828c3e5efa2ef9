"""Flags of inference servers: each exists in the version named, and together they say the plan."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import planner
from planner.launch.engines import VERSIONS, Server, express

DATA = Path(__file__).parent / "data"
KNOWN = {
    engine: set(
        (DATA / f"flags_{engine}_{version.split()[1]}.txt").read_text(encoding="utf-8").split()
    )
    for engine, version in VERSIONS.items()
}
PLAIN = Server(8, 1, 1, 1, 256, 8192, 0.9, "bf16", "bf16", "bf16")


def value(flags: list[str], name: str) -> str | None:
    return flags[flags.index(name) + 1] if name in flags else None


@pytest.mark.parametrize("engine", VERSIONS)
def test_every_flag_exists(engine: str) -> None:
    choices = product((1, 8), (1, 4), (1, 4), ("bf16", "fp8"), ("bf16", "fp8"), ("", "prefill"))
    for tp, dp, pp, weights, kv, role in choices:
        server = replace(PLAIN, tp=tp, attention_dp=dp, ep=tp * dp, pp=pp, weights=weights, kv=kv)
        flags, missing = express(engine, replace(server, role=role))
        assert {flag for flag in flags if flag.startswith("--")} <= KNOWN[engine]
        assert not missing


def test_vllm_counts_ranks_and_sequences_of_each() -> None:
    flags, _ = express("vllm", replace(PLAIN, tp=2, attention_dp=4, ep=8))
    assert value(flags, "--tensor-parallel-size") == "2"
    assert value(flags, "--data-parallel-size") == "4"
    assert value(flags, "--max-num-seqs") == "64"
    assert "--enable-expert-parallel" in flags


def test_sglang_counts_the_whole_server() -> None:
    flags, _ = express("sglang", replace(PLAIN, tp=2, attention_dp=4, ep=8, kv="fp8"))
    assert value(flags, "--tp-size") == "8"
    assert value(flags, "--dp-size") == "4"
    assert value(flags, "--ep-size") == "8"
    assert value(flags, "--max-running-requests") == "256"
    assert value(flags, "--kv-cache-dtype") == "fp8_e4m3"


def test_what_no_flag_expresses_is_named() -> None:
    assert express("tensorrt-llm", PLAIN) == ([], ["a server of tensorrt-llm"])
    server = replace(PLAIN, weights="int4", kv="int8")
    assert express("vllm", server)[1] == ["weights=int4 without a checkpoint in it", "kv=int8"]


def test_a_plan_has_the_flags_of_its_servers() -> None:
    found = planner.plan_serving(
        "deepseek-v3", "hgx-h200", devices=32, isl=4000, osl=500, architecture="disaggregated"
    )
    plan = found.plan(1)
    text = " ".join(plan.flags)
    assert plan.flags[0] == "[decode]"
    assert "[prefill]" in plan.flags
    assert f"--pipeline-parallel-size {plan['prefill_pp']}" in text
    assert not plan.not_expressed
