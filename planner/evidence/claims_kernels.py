"""What the project promises about kernels and collectives: mean error and bias of every group."""

from __future__ import annotations

from collections.abc import Sequence

from planner.evidence.claims import Claim
from planner.evidence.predict import Prediction
from planner.evidence.score import errors, grouped

MEAN_ERROR = {
    "gemm": 0.10,
    "attention_prefill": 0.10,
    "attention_decode": 0.20,
    "moe": 0.15,
    "nccl": 0.09,
    "custom_allreduce": 0.09,
    "deepep_ll_dispatch": 0.12,
    "deepep_ll_combine": 0.12,
}
"""Largest mean error that is promised, by operation ..."""
OF_GROUP = {
    ("gemm", "h100-sxm", "bf16"): 0.09,
    ("gemm", "h200-sxm", "bf16"): 0.09,
    ("gemm", "h100-sxm", "fp8"): 0.13,
    ("gemm", "h200-sxm", "fp8"): 0.13,
    ("moe", "a100-sxm-80g", "bf16"): 0.28,
}
"""... and where a group has its own."""

SLOW_TACTICS = (
    "about a tenth of these rows ran kernels that the library had not tuned, 3 to 5 times as slow"
    " as their neighbours in shape; a later table of the same library has none"
)
SPREAD = "Triton's tiles are chosen from a table of tuned shapes, with jumps that no shape explains"

MISSED = {
    "mean error of moe, h200-sxm, bf16": SLOW_TACTICS,
    "bias of moe, h200-sxm, bf16": SLOW_TACTICS,
    "bias of moe, h100-sxm, fp8": SLOW_TACTICS,
    "bias of moe, h200-sxm, fp8": SLOW_TACTICS,
    "bias of moe, a100-sxm-80g, bf16": SPREAD,
}
"""Promises that are known not to hold, and why; the tests hold the list."""


def kernel_claims(rows: Sequence[Prediction]) -> list[Claim]:
    """Every promise about the table of kernels, with the value found."""
    found = []
    for (op, source), group in grouped_by_source(rows).items():
        accelerator, _, dtype = source.split(", ")
        name = f"{op}, {accelerator}, {dtype}"
        most = OF_GROUP.get((op, accelerator, dtype), MEAN_ERROR[op])
        values = errors(group)
        mean, bias = f"mean error of {name}", f"bias of {name}"
        found += [
            Claim(mean, values["mape"] or 0.0, 0.0, most, MISSED.get(mean, "")),
            Claim(bias, values["bias"] or 0.0, 0.93, 1.07, MISSED.get(bias, "")),
        ]
    return found


def grouped_by_source(
    rows: Sequence[Prediction],
) -> dict[tuple[str, str], list[Prediction]]:
    """Predicted rows by operation and what they were measured on."""
    done = [p for p in rows if p.predicted is not None]
    return {
        (op, source): group
        for op, of_op in grouped(done, lambda p: str(p.row.metric)).items()
        for source, group in grouped(of_op, lambda p: str(p.row.source)).items()
    }
