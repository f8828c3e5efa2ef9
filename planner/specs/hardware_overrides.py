"""One number of a cluster replaced, as by ``--set hardware.tiers.fabric.bandwidth='50 GB/s'``.

A tier's measured collectives follow its bandwidth: a link twice as fast moves bytes twice as fast
and takes as long to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.errors import PlannerError
from planner.specs.folders import near
from planner.specs.hardware import Accelerator, Cluster, Price, Tier
from planner.specs.hardware_files import check_sizes
from planner.specs.hardware_schema import ROOFLINE
from planner.specs.measured import ROOFLINE_FIELDS, scale_line
from planner.units import parse_quantity

USER = "user"
"""The source of a number given on the command line."""

DEVICE_FIELDS = {
    "memory": "bytes",
    "memory_bandwidth": "bytes/s",
    "cores": "count",
    "clock": "hertz",
    "l2_cache": "bytes",
    "host_bandwidth": "bytes/s",
    "power": "watts",
}
TIER_FIELDS = {
    "devices": "count",
    "bandwidth": "bytes/s",
    "pair_bandwidth": "bytes/s",
    "latency": "time",
    "oversubscription": "number",
    "efficiency": "fraction",
}


def override(cluster: Cluster, settings: Mapping[str, Any]) -> Cluster:
    """The cluster with some numbers replaced.

    Parameters
    ----------
    cluster
        What to change; it stays as it is.
    settings
        Field -> quantity with a unit.  A field is one of the device (``memory_bandwidth``,
        ``peak.bf16``, ``kernels.gemm.bf16.compute``), of a tier (``tiers.fabric.latency`` or
        ``fabric.latency``), ``max_devices`` or ``price``, each with or without ``hardware.``
        before it.

    Raises
    ------
    PlannerError
        If there is no such field or the quantity does not suit it.
    """
    for field, text in settings.items():
        cluster = _override_one(cluster, field, text)
    return cluster


def _override_one(cluster: Cluster, field: str, text: Any) -> Cluster:
    name = field.removeprefix("hardware.").removeprefix("tiers.")
    device, tiers = cluster.accelerator, {tier.name: tier for tier in cluster.tiers}
    kernels = {
        f"kernels.{family}.{dtype}.{key}": ROOFLINE[key]
        for family, by_dtype in device.kernels.items()
        for dtype in by_dtype
        for key in ROOFLINE_FIELDS
    }
    known = {
        "max_devices": "count",
        "price": "usd/h",
        **DEVICE_FIELDS,
        **{f"peak.{dtype}": "flop/s" for dtype in device.peak},
        **kernels,
        **{f"{tier}.{key}": kind for tier in tiers for key, kind in TIER_FIELDS.items()},
    }
    if name not in known:
        shown = [key for key in known if key not in kernels]
        raise PlannerError(
            f"--set {field}: unknown field{near(name, known)}; expected one of: {', '.join(shown)}"
        )
    value = parse_quantity(text, known[name], where=f"--set {field}")
    head, _, rest = name.partition(".")
    if name == "max_devices" or rest == "devices":
        resized = cluster.tiers[-1] if name == "max_devices" else tiers[head]
        return _resize(cluster, resized, int(value), f"--set {field}")
    if head in tiers:
        tiers[head] = _override_tier(tiers[head], rest, value)
        return replace(cluster, tiers=tuple(tiers.values()))
    if name == "price":
        price = Price(per_hour=value, date="", provider_class=USER, source=USER)
        return replace(cluster, price=price)
    return replace(cluster, accelerator=_override_device(device, name, value))


def _resize(cluster: Cluster, resized: Tier, devices: int, where: str) -> Cluster:
    """The cluster with one tier of another size, and with what must follow it."""
    changed = replace(resized, devices=devices, sources={**resized.sources, "devices": USER})
    tiers = tuple(changed if tier is resized else tier for tier in cluster.tiers)
    is_node = resized.devices == cluster.devices_per_node
    check_sizes(where, tiers, tiers[-1].devices)
    return replace(
        cluster,
        tiers=tiers,
        max_devices=tiers[-1].devices,
        devices_per_node=devices if is_node else cluster.devices_per_node,
    )


def _override_tier(tier: Tier, field: str, value: float) -> Tier:
    numbers: dict[str, Any] = {field: value}
    if field == "bandwidth":
        ratio = value / tier.bandwidth
        numbers["pair_bandwidth"] = tier.pair_bandwidth * ratio
        numbers["collectives"] = {
            operation: scale_line(line, ratio) for operation, line in tier.collectives.items()
        }
    return replace(tier, sources={**tier.sources, field: USER}, **numbers)


def _override_device(device: Accelerator, name: str, value: float) -> Accelerator:
    head, *path = name.split(".")
    numbers: dict[str, Any] = {head: int(value) if head == "cores" else value}
    if head == "peak":
        numbers = {"peak": {**device.peak, path[0]: value}}
    elif head == "kernels":
        family, dtype, field = path
        changes: dict[str, Any] = {field: value, "source": USER}
        kernel = replace(device.kernels[family][dtype], **changes)
        by_dtype = {**device.kernels[family], dtype: kernel}
        numbers = {"kernels": {**device.kernels, family: by_dtype}}
    return replace(device, sources={**device.sources, name: USER}, **numbers)
