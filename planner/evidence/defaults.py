"""What a row of evidence is taken to mean where its source does not say: one rule for all sources.

``DEFAULTS`` is the table that docs/validation.md prints; the functions beside it are the rules.
No rule looks at the value that was measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from planner.evidence.tables import Row

CLUSTERS = {
    "a100-sxm-80g": "dgx-a100",
    "a100-sxm-40g": "dgx-a100-40g",
    "a100-pcie-80g": "a100-pcie-ib",
    "h100-sxm": "dgx-h100",
    "h100-pcie": "h100-pcie-ib",
    "h200-sxm": "hgx-h200",
    "h800-sxm": "h800-ib",
    "h20": "h20",
    "gh200": "gh200-ib",
    "l40s": "l40s-pcie",
    "b200-sxm": "dgx-b200",
    "b300-sxm": "dgx-b300",
    "gb200": "gb200-nvl72",
    "gb300": "gb300-nvl72",
    "mi300x": "mi300x-ib",
    "mi325x": "mi325x-ib",
    "mi355x": "mi355x-ib",
    "ascend-910b": "atlas-800t-a2",
    "ascend-910b1": "atlas-800t-a2-910b1",
    "ascend-910b2": "atlas-800t-a2-910b2",
    "ascend-910b3": "atlas-800t-a2",
    "ascend-910b4": "atlas-800i-a2",
    "ascend-910c": "cloudmatrix384",
    "ascend-910c-die": "cloudmatrix384-die",
    "rtx-4090": "rtx-4090-pcie",
}
"""The cluster that an accelerator of the tables stands in; a variant that is not stated (the 910B)
takes the one of the training server."""


@dataclass(frozen=True)
class Default:
    """One unstated field: what it is taken to be, and why."""

    field: str
    value: str
    reason: str


DEFAULTS = (
    Default(
        "cluster",
        "the accelerator's reference cluster, with the memory and power limit that a row prints",
        "sources name devices only",
    ),
    Default(
        "software",
        "fsdp where the method says FSDP or ZeRO-3; vtrain for its own runs; megatron-2022 before"
        " October 2022; megatron-bridge for NVIDIA's NeMo and Megatron-Bridge recipes; else"
        " megatron",
        "fused attention and overlapped gradients came to Megatron in 2022-23; NVIDIA's recipes"
        " turn on the overlap of tensor-parallel and expert communication",
    ),
    Default("micro_batch", "1", "the usual choice of large runs"),
    Default("vpp", "1, or 2 where the row says interleaved", "the smallest that the schedule has"),
    Default("cp, ep", "1", "an axis that is not mentioned is not used"),
    Default(
        "etp",
        "tp where the expert mesh follows the dense one (ep is 1, or the method says so), else 1",
        "Megatron-Core's own default without and with decoupled meshes",
    ),
    Default("tp, pp", "a node's devices; then the fewest stages that fit", "as the papers advise"),
    Default("dp", "the devices left over", "num_devices = tp * cp * pp * dp"),
    Default(
        "zero",
        "3 for fsdp, 1 for megatron, 0 before 2023 and for vtrain; 0 without replicas; 2 in a"
        " pipeline is 1",
        "Megatron's distributed optimizer came in 2022; pipelines accumulate whole gradients",
    ),
    Default("sequence_parallel", "on with tp > 1, off before 2023 and for vtrain", "as zero"),
    Default(
        "recompute",
        "none where that fits into the device's memory, else selective",
        "full recomputation costs a quarter of the speed, so who uses it says so",
    ),
    Default("schedule", "interleaved-1f1b with vpp > 1, else 1f1b", "Megatron's own"),
    Default("vocabulary", "on the first and last stage unless the method says otherwise", "usual"),
    Default("block", "sequential, with full attention", "no source prints a window"),
    Default("precision", "as listed in the row", "the tables give their reading"),
    Default(
        "dispatch",
        "deduplicated for megatron-bridge, else all-to-all",
        "its recipes use DeepEP or HybridEP; Megatron's own default is all-to-all",
    ),
    Default("context_parallel", "ring; Ulysses where the row says all-to-all", "Megatron's own"),
    Default("imbalance", "1, tokens spread evenly", "benchmarks force the balance or drop tokens"),
    Default("mtp", "off unless the row mentions it", "Megatron's own"),
    Default("FLOPs convention", "full attention unless the row says causal", "the older count"),
    Default("MFU peak", "the peak that the row prints, else 16 bits", "the usual denominator"),
    Default("packing", "as pre-training at the same length", "sequences are packed to full length"),
)

_ARXIV = re.compile(r"arXiv:(\d{4})\.")
_FUSED_SINCE = 2210
"""arXiv year and month from which software is taken to have fused attention: FlashAttention is
arXiv 2205.14135 and entered Megatron-LM in late 2022."""


def before_fused_attention(row: Row) -> bool:
    """Whether a run used software without fused attention."""
    match = _ARXIV.match(row.source)
    return int(match[1]) < _FUSED_SINCE if match else row.source.startswith("bigscience")


def software_name(row: Row) -> str:
    """The software family of a row: a key of ``planner.specs.workload.SOFTWARE``."""
    if before_fused_attention(row):
        return "megatron-2022"
    if "vtrain" in row.source.lower():
        return "vtrain"
    if row.method.startswith("fsdp") or row.zero == 3:
        return "fsdp"
    if row.source.startswith(("NVIDIA-NeMo/", "NVIDIA/NeMo", "NeMo ")):
        return "megatron-bridge"
    return "megatron"


def zero_stage(row: Row, software: str, replicas: int, pp: int) -> int:
    """The ZeRO stage: stated, or the family's habit; 0 where nothing is replicated.

    Stage 2 in a pipeline is stage 1: it accumulates whole gradients.
    """
    if replicas <= 1 and row.zero != 3:
        return 0
    if row.zero == 2 and pp > 1:
        return 1
    if row.zero is not None:
        return row.zero
    return {"fsdp": 3, "megatron": 1, "megatron-bridge": 1}.get(software, 0)


def schedule_and_chunks(row: Row, pp: int) -> tuple[str, int]:
    """Pipeline schedule and model chunks on a device."""
    if pp == 1:
        return "1f1b", 1
    if row.schedule and row.schedule not in ("1f1b", "interleaved-1f1b"):
        return row.schedule, 1  # V schedules have their two chunks by definition
    vpp = row.vpp or (2 if row.schedule == "interleaved-1f1b" else 1)
    return ("interleaved-1f1b", vpp) if vpp > 1 else ("1f1b", 1)


def coupled_experts(row: Row) -> bool:
    """Whether experts are split over the same ranks as dense layers (no decoupled mesh)."""
    if row.method.startswith("fsdp"):
        return False  # FSDP gathers whole experts
    return (row.ep or 1) == 1 or row.method in ("mcore", "tp+ep+dp")


def convention(row: Row) -> str:
    """How the row counts the FLOPs of causal attention."""
    return "causal" if "causal (half) attention" in row.notes else "full"


def stated_peak(row: Row) -> float | None:
    """The denominator of an MFU that the row prints [FLOP/s]."""
    match = re.search(r"mfu against ([\d.]+) TFLOPS", row.notes)
    return float(match[1]) * 1e12 if match else None


def stated_memory(row: Row) -> tuple[float, float] | None:
    """Capacity [B] and bandwidth [B/s] of a device that the row describes as unusual."""
    match = re.search(r"(\d+) GB HBM\w* at ([\d.]+) TB/s", row.notes)
    return (float(match[1]) * 2**30, float(match[2]) * 1e12) if match else None


def stated_power(row: Row) -> float | None:
    """Power limit [W] of a device that the row describes as unusual."""
    match = re.search(r"(\d+) W power limit", row.notes)
    return float(match[1]) if match else None
