"""One number of a cluster replaced, as by ``--set hardware.tiers.fabric.bandwidth='50 GB/s'``.

A tier's measured collectives follow its bandwidth: a link twice as fast moves bytes twice as fast
and takes as long to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.errors import PlannerError
from planner.specs.fits import scale_line
from planner.specs.folders import near
from planner.specs.hardware import Accelerator, Cluster, Price, Tier
from planner.specs.hardware_files import check_sizes
from planner.specs.kernel_sets import Fit, KernelSet, parameters_of
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
        ``peak.bf16``, ``kernels.gemm.bf16.compute`` for the library that is used unless another
        is named, ``kernels.gemm.vllm.bf16.compute``), of a tier (``tiers.fabric.latency`` or
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
    kernels = _kernel_fields(device)
    known = {
        "max_devices": "count",
        "price": "usd/h",
        **DEVICE_FIELDS,
        **{f"peak.{dtype}": "flop/s" for dtype in device.peak},
        **{field: kind for field, (kind, _) in kernels.items()},
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
    if name in kernels:
        changed = _override_kernel(device, kernels[name][1], value)
        return replace(cluster, accelerator=changed)
    return replace(cluster, accelerator=_override_device(device, name, value))


Place = tuple[str, str, str, str]
"""Family, library, datatype and field of a kernel's number."""


def _kernel_fields(device: Accelerator) -> dict[str, tuple[str, Place]]:
    """Dimension and place of every kernel number by name, with the library and without."""
    found: dict[str, tuple[str, Place]] = {}
    for family, libraries in device.kernels.items():
        for library, sets in libraries.items():
            for dtype, one in sets.items():
                for field in parameters_of(type(one)):
                    kind = field.metadata.get("kind")
                    if not isinstance(kind, str):
                        continue
                    known = (kind, (family, library, dtype, field.name))
                    found[f"kernels.{family}.{library}.{dtype}.{field.name}"] = known
                    found.setdefault(f"kernels.{family}.{dtype}.{field.name}", known)
    return found


def _override_kernel(device: Accelerator, place: Place, value: float) -> Accelerator:
    family, library, dtype, field = place
    libraries = device.kernels[family]
    numbers: dict[str, Any] = {field: value, "fit": Fit(source=USER)}
    changed: KernelSet = replace(libraries[library][dtype], **numbers)
    sets = {**libraries[library], dtype: changed}
    kernels = {**device.kernels, family: {**libraries, library: sets}}
    return replace(device, kernels=kernels)


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
    head, _, dtype = name.partition(".")
    numbers: dict[str, Any] = {head: int(value) if head == "cores" else value}
    if head == "peak":
        numbers = {"peak": {**device.peak, dtype: value}}
    return replace(device, sources={**device.sources, name: USER}, **numbers)
