"""Which fields the files of hardware_db may hold, and the dimension of each.

A leaf is a dimension of :func:`planner.units.parse_quantity`, ``"text"``, or the words allowed.
Any field may stand in a ``datasheet``, a ``measured`` or an ``assumed`` block.
"""

from __future__ import annotations

from typing import Any

DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4")
TOPOLOGIES = ("switch", "mesh", "ring", "torus", "fat-tree", "host")

ACCELERATOR: dict[str, Any] = {
    "peak": dict.fromkeys(DTYPES, "flop/s"),
    "memory": {"capacity": "bytes", "usable": "bytes", "bandwidth": "bytes/s"},
    "cores": "count",
    "clock": "hertz",
    "flop_per_cycle_per_core": "count",
    "l2_cache": "bytes",
    "host_bandwidth": "bytes/s",
    "power": "watts",
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
    "collectives_like": "text",
}
CLUSTER = {"max_devices": "count"}
PRICE = {"per_hour": "usd/h", "date": "text", "provider_class": "text", "source": "text"}
