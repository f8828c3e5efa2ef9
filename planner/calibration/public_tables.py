"""Public kernel measurements as rows of the project's measurement tables.

The wheel of ``aiconfigurator-core`` (NVIDIA, Apache-2.0) holds measured times of single kernels in
one parquet file for every device, library and operation.  Of the data only the sample that judges
is shipped (planner/evidence/data/kernels.csv); the fitted parameters are, with attribution.  Needs
pandas with pyarrow, and the unpacked wheel.

``python -m planner.calibration.public_tables FOLDER OPERATION ACCELERATOR LIBRARY OUT.csv [SKIP]``
writes one table of the newest version, without the shapes of the measurement table SKIP;
``roofplan calibrate --from OUT.csv`` then scores the shipped parameters on the shapes held back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.errors import PlannerError
from planner.specs.measurements import COLUMNS, SHAPES, shape_of, write
from planner.specs.measurements import read as read_measurements

if TYPE_CHECKING:
    import pandas as pd

SOURCE = "aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0)"

DEVICES = {
    "a100-sxm-80g": "a100_sxm",
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200-sxm": "b200_sxm",
    "b300-sxm": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
}
"""Accelerators of the database and their folders."""

LIBRARIES = {"tensorrt-llm": "trtllm", "vllm": "vllm", "sglang": "sglang", "nccl": "nccl"}

_DTYPES = {"bfloat16": "bf16", "half": "fp16"}
_BYTES = {"half": 2, "bfloat16": 2, "int8": 1}
_COLUMNS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "gemm": ("gemm/{}/{}/gemm", {"m": "m", "n": "n", "k": "k", "gemm_dtype": "dtype"}),
    "attention_prefill": (
        "attention/{}/{}/context_attention",
        {
            "batch_size": "batch",
            "isl": "query_len",
            "step": "cached_len",
            "num_heads": "heads",
            "num_key_value_heads": "kv_heads",
            "head_dim": "head_dim",
            "window_size": "window",
            "attn_dtype": "dtype",
            "kv_cache_dtype": "kv_dtype",
        },
    ),
    "attention_decode": (
        "attention/{}/{}/generation_attention",
        {
            "batch_size": "batch",
            "step": "kv_len",
            "num_heads": "heads",
            "num_key_value_heads": "kv_heads",
            "head_dim": "head_dim",
            "window_size": "window",
            "attn_dtype": "dtype",
            "kv_cache_dtype": "kv_dtype",
        },
    ),
    "mla_prefill": (
        "mla/{}/{}/context_mla",
        {
            "batch_size": "batch",
            "isl": "query_len",
            "step": "cached_len",
            "num_heads": "heads",
            "mla_dtype": "dtype",
            "kv_cache_dtype": "kv_dtype",
        },
    ),
    "mla_decode": (
        "mla/{}/{}/generation_mla",
        {
            "batch_size": "batch",
            "step": "kv_len",
            "num_heads": "heads",
            "mla_dtype": "dtype",
            "kv_cache_dtype": "kv_dtype",
        },
    ),
    "moe": (
        "moe/{}/{}/moe",
        {
            "num_tokens": "tokens",
            "hidden_size": "hidden",
            "inter_size": "expert_width",
            "topk": "topk",
            "num_experts": "experts",
            "moe_tp_size": "moe_tp",
            "moe_ep_size": "ep",
            "distribution": "routing",
            "moe_dtype": "dtype",
            "kernel_source": "kernel",
        },
    ),
    "nccl": (
        "comm/{}/{}/nccl",
        {
            "op_name": "collective",
            "num_gpus": "ranks",
            "message_size": "bytes",
            "nccl_dtype": "dtype",
        },
    ),
    "custom_allreduce": (
        "comm/{}/{}/custom_allreduce",
        {
            "num_gpus": "ranks",
            "message_size": "bytes",
            "allreduce_dtype": "dtype",
            "kernel_source": "kernel",
        },
    ),
}
_DEEPEP = {
    "node_num": "nodes",
    "num_token": "tokens_per_rank",
    "hidden_size": "hidden",
    "num_topk": "topk",
    "num_experts": "experts",
}
OPERATIONS = (*_COLUMNS, "deepep_ll_dispatch", "deepep_ll_combine")


def versions(root: Path, operation: str, accelerator: str, library: str) -> list[str]:
    """Versions of a library with a table of an operation, oldest name first."""
    pattern = _file(operation, library, "*")
    folder = root / "systems" / "data" / DEVICES[accelerator]
    return sorted(path.parent.name for path in folder.glob(pattern))


def read(root: Path, operation: str, accelerator: str, library: str, version: str) -> pd.DataFrame:
    """One table as measurement rows.

    Parameters
    ----------
    root
        The package folder ``aiconfigurator_core`` of the unpacked wheel.
    operation
        One of ``OPERATIONS``.
    accelerator
        Name in the database, a key of ``DEVICES``.
    library, version
        As the folders of the wheel name them, the library by our name.

    Returns
    -------
    Columns ``op, accelerator, library, dtype, shape, latency_s`` and one column for every part of
    the shape; ``latency_s`` is in seconds, sizes are in bytes.  A shape that was timed more than
    once has the median.
    """
    import pandas as pd

    path = root / "systems" / "data" / DEVICES[accelerator] / _file(operation, library, version)
    if not path.is_file():
        raise PlannerError(f"{path}: no such table, expected the unpacked wheel of {SOURCE}")
    table = pd.read_parquet(path)
    read_table = _deepep if operation.startswith("deepep") else _plain
    found: Any = read_table(table, operation)
    found = found[found["latency_s"] > 0.0]
    parts = [name for name in SHAPES[operation] if name in found]
    keys = ["dtype", *parts]
    found = found.groupby(keys, as_index=False, dropna=False)["latency_s"].median()
    found.insert(0, "op", operation)
    found.insert(1, "accelerator", accelerator)
    found.insert(2, "library", f"{library} {version}")
    found["shape"] = _shape_text(found, parts)
    return pd.DataFrame(found)


def _file(operation: str, library: str, version: str) -> str:
    folder = LIBRARIES[library]
    if operation.startswith("deepep_ll"):
        return f"comm/{folder}/{version}/wideep_deepep_ll_perf.parquet"
    return _COLUMNS[operation][0].format(folder, version) + "_perf.parquet"


def _plain(table: Any, operation: str) -> Any:
    names = {old: new for old, new in _COLUMNS[operation][1].items() if old in table}
    found = table[list(names)].rename(columns=names)
    found["latency_s"] = table["latency"] * 1e-3
    if operation == "attention_decode" or operation == "mla_decode":
        found["kv_len"] = found["kv_len"] + 1  # the step counts the tokens before this one
    if "bytes" in found:
        found["bytes"] = found["bytes"] * found["dtype"].map(_BYTES)
    for name in ("dtype", "kv_dtype"):
        if name in found:
            found[name] = found[name].replace(_DTYPES)
    return found


def _deepep(table: Any, operation: str) -> Any:
    phase = operation.rpartition("_")[2]
    found = table[list(_DEEPEP)].rename(columns=_DEEPEP)
    found["ranks"] = 8 * found["nodes"]
    found["dtype"] = "fp8" if phase == "dispatch" else "bf16"
    found["latency_s"] = table[f"{phase}_avg_t_us"] * 1e-6
    return found


def _shape_text(table: Any, parts: Iterable[str]) -> Any:
    """``key=value`` pairs of every row, joined by semicolons."""
    text: Any = ""
    for name in parts:
        values = table[name].astype(str)
        pair = f";{name}=" + values
        text = text + (pair.where(values != "0", "") if name == "window" else pair)
    return text.str.removeprefix(";")


def main(
    root: str, operation: str, accelerator: str, library: str, out: str, skip: str | None = None
) -> None:
    """Write one table of the newest version as measurement rows; arguments as in the module."""
    folder = Path(root)
    version = versions(folder, operation, accelerator, library)[-1]
    found = read(folder, operation, accelerator, library, version)
    if skip is not None:
        known = {
            (group.dtype, shape_of(text))
            for group in read_measurements(Path(skip))
            if (group.op, group.accelerator) == (operation, accelerator)
            for text in group.texts
        }
        shapes = zip(found["dtype"], found["shape"].map(shape_of), strict=True)
        found = found[[one not in known for one in shapes]]
    columns = [found[name] for name in COLUMNS]
    write(Path(out), (dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
