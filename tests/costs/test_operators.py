"""Every operation of the measurement tables is one closed form with the row's shape put in."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planner.evidence
from planner.costs import deepep, kernels, lines, operators
from planner.errors import PlannerError
from planner.evidence.defaults import CLUSTERS
from planner.specs.catalog import find_cluster
from planner.specs.hardware import Cluster
from planner.specs.measurements import SHAPES, Group, read, write

TABLE = Path(planner.evidence.__file__).parent / "data" / "kernels.csv"
DGX = find_cluster("dgx-h100")
H100 = DGX.accelerator
NODE, FABRIC = DGX.tiers
MEASURED = tuple(sorted({group.op for group in read(TABLE)}))

cluster = lru_cache(find_cluster)


@pytest.mark.parametrize("operation", MEASURED)
def test_every_row_of_the_evidence_is_predicted(operation: str) -> None:
    """Within a tenth in the middle, and within a factor of ten even where a kernel is untuned."""
    off = []
    for group in (one for one in read(TABLE) if one.op == operation):
        predicted = operators.predict(group, cluster(CLUSTERS[group.accelerator]))
        off.append(np.log(predicted / group.seconds))
    away = np.abs(np.concatenate(off))
    assert away.max() < np.log(10)
    assert np.median(away) < 0.1


def rows(tmp_path: Path, op: str, library: str, dtype: str, *shapes: str) -> Group:
    path = tmp_path / "table.csv"
    common = {"op": op, "accelerator": "h100-sxm", "library": library, "dtype": dtype}
    write(path, [{**common, "shape": shape, "latency_s": 1.0} for shape in shapes])
    (group,) = read(path)
    return group


def decode(dtype: str, *shape: Any, **options: Any) -> Any:
    return kernels.decode_attention(H100, dtype, kernels.Decode.of(*shape), **options)


def own(family: str, dtype: str, library: str) -> Any:
    return kernels.parameters(H100, family, dtype, library)


FORMS: list[tuple[str, str, str, str, Callable[[], Any]]] = [
    (
        "gemm", "vllm 0.24.0", "fp8", "m=17;n=4096;k=1024",
        lambda: kernels.gemm(H100, "fp8", 17, 4096, 1024, "vllm"),
    ),
    (
        "attention_prefill", "vllm 0.24.0", "bf16",
        "batch=2;query_len=100;cached_len=50;heads=32;kv_heads=8;head_dim=64;kv_dtype=fp8;window=64",
        lambda: kernels.prefill_attention(
            H100, "bf16-fp8", 2, 100, 32, 8, 64, 64,
            cached=50, window=64, kv_bytes=1.0, library="vllm",
        ),
    ),
    (
        "mla_prefill", "sglang 0.5.14", "bf16", "batch=2;query_len=100;heads=16;kv_dtype=bf16",
        lambda: kernels.prefill_attention(
            H100, "bf16", 2, 100, 16, 16, 192, 128, library="sglang", family="mla_prefill"
        ),
    ),
    (
        "attention_decode", "tensorrt-llm 1.3", "bf16",
        "batch=4;kv_len=999;heads=32;kv_heads=8;head_dim=128;kv_dtype=fp8;window=512",
        lambda: decode("fp8", 4, 999, 32, 8, 128, 128, 1.0, 512, library="tensorrt-llm"),
    ),
    (
        "mla_decode", "sglang 0.5.14", "bf16", "batch=4;kv_len=999;heads=128;kv_dtype=bf16",
        lambda: decode("bf16", 4, 999, 128, 1, 576, 512, 2.0, library="sglang", latent=True),
    ),
    (
        "moe", "vllm 0.24.0", "bf16",
        "tokens=64;hidden=4096;expert_width=2048;topk=2;experts=16;moe_tp=2;ep=4;routing=balanced",
        lambda: kernels.experts(
            H100, "bf16", 32, 4, 4, 4096, 1024, 3, all_rows=128, library="vllm"
        ),
    ),
    (
        "moe", "vllm 0.24.0", "bf16",
        "tokens=64;hidden=4096;expert_width=2048;topk=2;experts=16;moe_tp=1;ep=1;"
        "routing=balanced;kernel=triton_nongated",
        lambda: kernels.experts(
            H100, "bf16", 128, 16, 16, 4096, 2048, 2, all_rows=128, library="vllm"
        ),
    ),
    ("memory", "copy", "bf16", "bytes=1000000", lambda: kernels.elementwise(H100, 1e6)),
    (
        "nccl", "nccl 2.29.2", "fp16", "collective=alltoall;ranks=4;bytes=4096",
        lambda: lines.nccl(NODE.collectives["all_to_all"], "all_to_all", 4, 4096),
    ),
    (
        "custom_allreduce", "vllm 0.24.0", "bf16", "ranks=4;bytes=65536;kernel=vLLM_custom_eager",
        lambda: lines.one_kernel(
            own("all_reduce", "bf16", "vllm"), NODE.collectives["all_reduce"],
            4, 65536, True, H100.memory_bandwidth,
        ),
    ),
    *(
        (
            f"deepep_ll_{phase}", "deepep 1", dtype,
            "nodes=2;ranks=16;tokens_per_rank=128;hidden=7168;topk=8;experts=256",
            lambda phase=phase, dtype=dtype: deepep.low_latency(
                own(f"{phase}_low_latency", dtype, "deepep"), phase,
                2, 128, 7168, 8, 256, NODE.bandwidth, FABRIC.bandwidth, H100.cores,
            ),
        )
        for phase, dtype in (("dispatch", "fp8"), ("combine", "bf16"))
    ),
]  # fmt: skip


@pytest.mark.parametrize(("op", "library", "dtype", "shape", "form"), FORMS)
def test_a_row_is_its_closed_form(
    tmp_path: Path, op: str, library: str, dtype: str, shape: str, form: Callable[[], Any]
) -> None:
    (found,) = operators.predict(rows(tmp_path, op, library, dtype, shape), DGX)
    assert found == pytest.approx(float(form()), rel=1e-12)


def test_every_operation_has_a_form_here() -> None:
    assert {case[0] for case in FORMS} == set(SHAPES)


def test_rows_with_another_cache_take_its_set(tmp_path: Path) -> None:
    shape = "batch=64;kv_len=8192;heads=32;kv_heads=8;head_dim=128;kv_dtype="
    mixed = ("bf16", "fp8", "bf16")
    group = rows(
        tmp_path, "attention_decode", "vllm 1", "bf16", *(shape + cache for cache in mixed)
    )
    expected = [
        float(decode(cache, 64, 8192, 32, 8, 128, 128, size, library="vllm"))
        for cache, size in zip(mixed, (2.0, 1.0, 2.0), strict=True)
    ]
    np.testing.assert_allclose(operators.predict(group, DGX), expected)


def test_a_cache_of_int8_is_read_as_one_of_fp8(tmp_path: Path) -> None:
    shape = "batch=64;kv_len=8192;heads=32;kv_heads=8;head_dim=128;kv_dtype="
    group = rows(tmp_path, "attention_decode", "vllm 1", "bf16", shape + "int8", shape + "fp8")
    narrow, same = operators.predict(group, DGX)
    assert narrow == same


GEMM = "m=1;n=1;k=1"
DECODE = "batch=1;kv_len=9;heads=8;kv_heads=8;head_dim=64;kv_dtype="


@pytest.mark.parametrize(
    ("machine", "row", "message"),
    [
        (DGX, ("gemm", "cutlass 3", "bf16", GEMM), "no gemm kernels of cutlass; it has those of"),
        (DGX, ("gemm", "vllm 1", "int3", GEMM), "no gemm kernels for int3"),
        (DGX, ("attention_decode", "vllm 1", "bf16", DECODE + "int3"), "kernels for int3"),
        (
            DGX,
            ("nccl", "nccl 2", "fp16", "collective=broadcast;ranks=8;bytes=1"),
            "dgx-h100 has no measured line of broadcast",
        ),
        (
            cluster("dgx-a100"),
            (
                "deepep_ll_combine",
                "deepep 1",
                "bf16",
                "nodes=1;ranks=8;tokens_per_rank=1;hidden=1;topk=1;experts=8",
            ),
            "a100-sxm-80g has no combine_low_latency kernels",
        ),
        (DGX, ("gemm", "", "bf16", GEMM), "gemm, h100-sxm, line 2: found no library, expected"),
        (
            DGX,
            ("attention_decode", "vllm 1", "bf16", DECODE + "int4"),
            "no attention_decode kernels for int4",
        ),
        (
            DGX,
            ("attention_decode", "vllm 1", "bf16", DECODE + "fp32"),
            "vllm 1, bf16: kv_dtype: found 'fp32'",
        ),
    ],
)
def test_what_cannot_be_predicted_is_named(
    tmp_path: Path, machine: Cluster, row: tuple[str, ...], message: str
) -> None:
    with pytest.raises(PlannerError, match=message):
        operators.predict(rows(tmp_path, *row), machine)
