"""Flags of Megatron-LM: each exists in the version named, and together they say the plan."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.launch.megatron import PRECISION_FLAGS, express, layout
from planner.specs.model import ModelSpec
from planner.specs.models_catalog import find_model
from planner.specs.parallelism import TRAINING_AXES, Configuration, chunks
from planner.specs.workload import PRECISIONS, SOFTWARE, TrainingJob
from planner.training.stages import split

SNAPSHOT = Path(__file__).parent / "data" / "flags_megatron_lm_core_v0.16.1.txt"
KNOWN = set(SNAPSHOT.read_text(encoding="utf-8").split())

LLAMA, DEEPSEEK = find_model("llama-3.1-405b"), find_model("deepseek-v3")
JOB = TrainingJob(4096, 1024)


def flags_of(
    model: ModelSpec = LLAMA, job: TrainingJob = JOB, **axes: int | str
) -> tuple[list[str], list[str]]:
    configuration = Configuration(**axes)  # type: ignore[arg-type]
    stages = configuration.pp * chunks(configuration.schedule, configuration.vpp)
    mtp = len(model.mtp_layers) if job.mtp else 0
    return express(model, job, configuration, split(model.num_layers, stages, mtp))


def value(flags: list[str], name: str) -> str | None:
    return flags[flags.index(name) + 1] if name in flags else None


def stages_of(text: str) -> list[str]:
    """What Megatron-LM's parser makes of a layout: groups unrolled first, then letters."""
    text = re.sub(r"\(([^)]+)\)\*(\d+)", lambda m: m[1] * int(m[2]), text)
    text = re.sub(r"(.)\*(\d+)", lambda m: m[1] * int(m[2]), text)
    return text.split("|")


WIDE = {
    "tp": (1, 8),
    "pp": (1, 4, 16),
    "vpp": (1, 2),
    "cp": (1, 2),
    "zero": (0, 1, 2, 3),
    "schedule": TRAINING_AXES["schedule"].values,
    "recompute": TRAINING_AXES["recompute"].values,
    "dispatch": TRAINING_AXES["dispatch"].values,
    "context_parallel": TRAINING_AXES["context_parallel"].values,
}


@pytest.mark.parametrize("model", [LLAMA, DEEPSEEK], ids=["dense", "experts"])
def test_every_flag_exists_and_stands_once(model: ModelSpec) -> None:
    for values in itertools.islice(itertools.product(*WIDE.values()), 0, None, 5):
        axes = dict(zip(WIDE, values, strict=True))
        flags, _ = flags_of(model, JOB, ep=8, sequence_parallel=int(axes["tp"] > 1), **axes)
        named = flags_named(flags)
        assert set(named) <= KNOWN
        assert len(set(named)) == len(named)


@pytest.mark.parametrize("software", SOFTWARE)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_flags_of_every_recipe_and_software_exist(software: str, precision: str) -> None:
    job = TrainingJob(4096, 1024, PRECISIONS[precision], SOFTWARE[software])
    for recompute in TRAINING_AXES["recompute"].values:
        flags, _ = flags_of(DEEPSEEK, job, tp=2, ep=8, zero=1, recompute=recompute)
        assert set(flags_named(flags)) <= KNOWN
        assert "--fp16" in flags or "--bf16" in flags


def flags_named(flags: list[str]) -> list[str]:
    return [flag for flag in flags if flag.startswith("--")]


def test_every_precision_has_flags() -> None:
    assert PRECISION_FLAGS.keys() == PRECISIONS.keys()


def test_degrees_are_said() -> None:
    flags, missing = flags_of(DEEPSEEK, tp=2, pp=4, cp=2, ep=8, etp=1, micro_batch=2)
    assert value(flags, "--tensor-model-parallel-size") == "2"
    assert value(flags, "--pipeline-model-parallel-size") == "4"
    assert value(flags, "--context-parallel-size") == "2"
    assert value(flags, "--cp-comm-type") == "p2p"
    assert value(flags, "--expert-model-parallel-size") == "8"
    assert value(flags, "--expert-tensor-parallel-size") == "1"
    assert value(flags, "--micro-batch-size") == "2"
    assert value(flags, "--global-batch-size") == "1024"
    assert value(flags, "--seq-length") == "4096"
    assert not missing


def test_a_dense_model_has_no_expert_flags() -> None:
    flags, _ = flags_of(LLAMA, tp=8)
    assert not [flag for flag in flags if "moe" in flag or "expert" in flag]


@pytest.mark.parametrize(
    ("dispatch", "kind"),
    [("all-to-all", "alltoall"), ("all-gather", "allgather"), ("deduplicated", "flex")],
)
def test_dispatchers(dispatch: str, kind: str) -> None:
    flags, _ = flags_of(DEEPSEEK, ep=8, dispatch=dispatch)
    assert value(flags, "--moe-token-dispatcher-type") == kind


def test_ulysses_is_all_to_all() -> None:
    flags, _ = flags_of(LLAMA, cp=2, context_parallel="ulysses")
    assert value(flags, "--cp-comm-type") == "a2a"


def test_equal_stages_need_no_layout() -> None:
    flags, _ = flags_of(LLAMA, pp=9, vpp=2, schedule="interleaved-1f1b")
    assert value(flags, "--num-virtual-stages-per-pipeline-rank") == "2"
    assert "--pipeline-model-parallel-layout" not in flags


def test_short_ends_are_two_numbers() -> None:
    flags, _ = flags_of(DEEPSEEK, pp=16)
    assert value(flags, "--decoder-first-pipeline-num-layers") == "3"
    assert value(flags, "--decoder-last-pipeline-num-layers") == "2"  # and the extra one


def test_uneven_chunks_are_a_layout_with_the_extra_prediction_layer() -> None:
    flags, _ = flags_of(DEEPSEEK, pp=8, vpp=4, schedule="interleaved-1f1b")
    stages = stages_of(value(flags, "--pipeline-model-parallel-layout") or "")
    assert len(stages) == 32
    assert stages[0].startswith("E")
    assert stages[-1].endswith("mL")
    assert "".join(stages).count("t") == 61
    assert "--num-virtual-stages-per-pipeline-rank" not in flags


@given(st.lists(st.integers(0, 9), min_size=2, max_size=64), st.integers(0, 2))
def test_a_layout_reads_back(counts: list[int], mtp: int) -> None:
    stages = stages_of(layout(counts, mtp))
    assert [stage.count("t") for stage in stages] == counts
    assert "".join(stages).replace("t", "") == "E" + "m" * mtp + "L"


@pytest.mark.parametrize("schedule", ["gpipe", "zb-h1", "zb-v", "v-half", "dualpipe"])
def test_schedules_without_a_flag_are_named(schedule: str) -> None:
    _, missing = flags_of(LLAMA, pp=4, schedule=schedule)
    assert any(f"schedule={schedule}" in choice for choice in missing)


def test_the_stages_of_a_schedule_without_a_flag_still_run() -> None:
    flags, _ = flags_of(DEEPSEEK, pp=16, schedule="dualpipe")
    assert value(flags, "--decoder-first-pipeline-num-layers") == "3"
    flags, missing = flags_of(DEEPSEEK, pp=8, schedule="zb-v")
    assert "--pipeline-model-parallel-layout" not in flags
    assert missing == ["schedule=zb-v and its placement of layers"]


@pytest.mark.parametrize("vocabulary", ["vocab-1", "vocab-2", "interlaced"])
def test_vocabulary_without_a_flag_is_named(vocabulary: str) -> None:
    _, missing = flags_of(LLAMA, pp=4, vocabulary=vocabulary)
    assert missing == [f"vocabulary={vocabulary}"]


def test_a_redistributed_vocabulary_is_a_number_of_layers() -> None:
    configuration = Configuration(pp=4, vocabulary="redistributed")
    flags, missing = express(LLAMA, JOB, configuration, [33, 32, 32, 29])
    assert value(flags, "--decoder-last-pipeline-num-layers") == "29"
    assert not missing


def test_sharding_by_stage() -> None:
    zero, one, three = (flags_of(LLAMA, dp=8, zero=stage)[0] for stage in (0, 1, 3))
    assert "--use-distributed-optimizer" not in zero
    assert "--overlap-param-gather" not in zero
    assert "--use-distributed-optimizer" in one
    assert "--overlap-param-gather" in one
    assert value(three, "--data-parallel-sharding-strategy") == "optim_grads_params"


def test_selective_recomputation_names_its_modules() -> None:
    flags, missing = flags_of(DEEPSEEK, recompute="selective")
    start = flags.index("--recompute-modules")
    assert flags[start + 1 : start + 4] == ["layernorm", "mla_up_proj", "moe_act"]
    assert any("dense layers" in choice for choice in missing)


def test_other_software_is_said() -> None:
    _, missing = flags_of(LLAMA, TrainingJob(4096, 64, software=SOFTWARE["fsdp"]))
    assert any("software=fsdp" in choice for choice in missing)


def test_fp8_scales_allow_the_norms_to_be_recomputed() -> None:
    job = TrainingJob(4096, 1024, PRECISIONS["fp8"])
    assert value(flags_of(LLAMA, job)[0], "--fp8-recipe") == "tensorwise"


def test_fp16_has_no_grouped_experts_nor_expert_parallelism() -> None:
    job = TrainingJob(4096, 1024, PRECISIONS["fp16"])
    flags, missing = flags_of(DEEPSEEK, job, ep=8, recompute="selective")
    assert "--moe-grouped-gemm" not in flags and "moe_act" not in flags
    assert any(choice.startswith("precision=fp16") and "ep=8" in choice for choice in missing)
    assert not flags_of(LLAMA, job)[1]


def test_a_sequence_splits_into_twice_the_context_ranks() -> None:
    assert not flags_of(LLAMA, TrainingJob(4096, 64), cp=4)[1]
    _, missing = flags_of(LLAMA, TrainingJob(4100, 64), cp=4)
    assert missing == ["cp=4: the sequence must be a multiple of 2 cp"]


def test_what_the_plan_does_without_is_switched_off() -> None:
    flags, _ = flags_of(LLAMA)
    assert value(flags, "--attention-dropout") == value(flags, "--hidden-dropout") == "0"
    older, _ = flags_of(LLAMA, TrainingJob(4096, 64, software=SOFTWARE["megatron-2022"]))
    assert value(older, "--attention-backend") == "unfused"
    assert "--attention-dropout" not in older


def test_multi_token_prediction_is_said_where_it_is_trained() -> None:
    assert value(flags_of(DEEPSEEK)[0], "--mtp-num-layers") == "1"
    assert "--mtp-num-layers" not in flags_of(DEEPSEEK, TrainingJob(4096, 64, mtp=False))[0]
    assert "--mtp-num-layers" not in flags_of(LLAMA)[0]


BRIDGE = TrainingJob(4096, 1024, software=SOFTWARE["megatron-bridge"])


def test_tensor_parallel_overlap_needs_sequence_parallelism() -> None:
    flags, missing = flags_of(LLAMA, BRIDGE, tp=8, sequence_parallel=1)
    assert "--tp-comm-overlap" in flags and not missing
    flags, missing = flags_of(LLAMA, BRIDGE, tp=8)
    assert "--tp-comm-overlap" not in flags and len(missing) == 1


@pytest.mark.parametrize(
    ("axes", "possible"),
    [
        ({"vpp": 2, "schedule": "interleaved-1f1b"}, True),
        ({}, False),
        ({"vpp": 2, "schedule": "interleaved-1f1b", "recompute": "full"}, False),
        ({"vpp": 2, "schedule": "interleaved-1f1b", "dispatch": "all-gather"}, False),
    ],
)
def test_expert_exchange_overlap_is_a_flag_or_is_named(axes: Any, possible: bool) -> None:
    flags, missing = flags_of(DEEPSEEK, BRIDGE, pp=4, ep=8, **axes)
    assert ("--overlap-moe-expert-parallel-comm" in flags) is possible
    assert any("expert exchange" in choice for choice in missing) is not possible


def test_a_plan_without_exchange_overlap_says_nothing_of_it() -> None:
    flags, missing = flags_of(DEEPSEEK, pp=4, ep=8)
    assert not [text for text in (*flags, *missing) if "overlap-moe" in text or "exchange" in text]
