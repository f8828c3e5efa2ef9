"""Which fields the files of hardware_db may hold, and the dimension of each.

A leaf is a dimension of :func:`planner.units.parse_quantity`, ``"text"``, or the words allowed.
Any field may stand in a ``datasheet``, a ``measured`` or an ``assumed`` block.
"""

from __future__ import annotations

from typing import Any

DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4")
KERNEL_DTYPES = (*DTYPES, "fp8_block", "mxfp8", "nvfp4")
"""Formats with a scale per block are kernels of their own; they run at the peak of fp8 or fp4."""

FAMILIES = ("gemm", "attention", "grouped_gemm", "elementwise")
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
TOPOLOGIES = ("switch", "mesh", "ring", "torus", "fat-tree", "host")

_EVIDENCE = {"software": "text", "rows": "count", "fitted_on": "text"}

ROOFLINE = {
    "compute": "fraction",
    "memory": "fraction",
    "launch": "time",
    "smoothness": "number",
    "head_dim_exponent": "number",
    "error": "fraction",
    **_EVIDENCE,
}
LINE = {
    "base": "time",
    "step": "time",
    "low_bandwidth": "bytes/s",
    "switch": "time",
    "bandwidth": "bytes/s",
    "error": "fraction",
    **_EVIDENCE,
}
ACCELERATOR: dict[str, Any] = {
    "peak": dict.fromkeys(DTYPES, "flop/s"),
    "memory": {"capacity": "bytes", "usable": "bytes", "bandwidth": "bytes/s"},
    "cores": "count",
    "clock": "hertz",
    "flop_per_cycle_per_core": "count",
    "l2_cache": "bytes",
    "host_bandwidth": "bytes/s",
    "power": "watts",
    "kernels": {family: dict.fromkeys(KERNEL_DTYPES, ROOFLINE) for family in FAMILIES},
    "kernels_like": "text",
}
TIER: dict[str, Any] = {
    "devices": "count",
    "topology": TOPOLOGIES,
    "bandwidth": "bytes/s",
    "pair_bandwidth": "bytes/s",
    "latency": "time",
    "oversubscription": "number",
    "efficiency": "fraction",
    "collectives": dict.fromkeys(OPERATIONS, LINE),
    "collectives_like": "text",
}
CLUSTER = {"max_devices": "count"}
PRICE = {"per_hour": "usd/h", "date": "text", "provider_class": "text", "source": "text"}
