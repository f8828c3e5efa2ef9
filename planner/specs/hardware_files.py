"""From the YAML files of hardware_db to the dataclasses of :mod:`planner.specs.hardware`.

``accelerators/`` holds devices, ``nodes/`` the tiers inside one server, ``clusters/`` the names of
both and the tiers around them, ``fits/`` the parameter sets of devices and nodes.  A device without
sets names its nearest relative as ``kernels_like``, a tier as ``collectives_like: NODE.TIER``; see
:mod:`planner.specs.fits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.specs.blocks import (
    BLOCKS,
    Place,
    Value,
    as_mapping,
    check_keys,
    check_source,
    read_blocks,
    read_file,
    read_leaf,
    require,
)
from planner.specs.fits import (
    Kernels,
    borrow,
    borrow_lines,
    read_fits,
    read_lines,
    scale_line,
)
from planner.specs.folders import find_item
from planner.specs.hardware import Accelerator, Cluster, Price, Tier
from planner.specs.hardware_schema import ACCELERATOR, CLUSTER, PRICE, TIER
from planner.specs.kernel_sets import CollectiveSet

__all__ = ["check_sizes", "load_accelerator", "load_cluster", "load_tiers", "scale_line"]

Lenders = tuple[str, ...]
_OPTIONAL = ("aliases", "notes", "price", *BLOCKS)


def load_accelerator(path: Path, folders: Sequence[Path]) -> Accelerator:
    """Read one file of accelerators/.

    Parameters
    ----------
    path
        The file; its stem is the device's name.
    folders
        The databases that hold the relative named by ``kernels_like`` and the sources.

    Raises
    ------
    PlannerError
        Naming the file and the field, what was found and what was expected.
    """
    place, data = _read_accelerator(path, folders)
    values = read_blocks(place, data, ACCELERATOR)
    require(place, values, ("memory.capacity", "memory.bandwidth", "cores", "host_bandwidth"))
    peak = {name[5:]: v.value for name, v in values.items() if name.startswith("peak.")}
    if not peak:
        raise PlannerError(f"{place}: missing field 'peak'; expected one dense rate per datatype")
    found = {name: v.value for name, v in values.items()}
    return Accelerator(
        name=path.stem,
        vendor=str(data["vendor"]),
        generation=str(data["generation"]),
        peak=peak,
        memory=found.get("memory.usable", found["memory.capacity"]),
        memory_bandwidth=found["memory.bandwidth"],
        cores=int(found["cores"]),
        clock=found.get("clock"),
        l2_cache=found.get("l2_cache"),
        host_bandwidth=found["host_bandwidth"],
        power=found.get("power"),
        kernels=_kernels(path.stem, values, folders, place),
        price=_price(place, data),
        sources=_sources(values),
    )


def load_cluster(path: Path, folders: Sequence[Path]) -> Cluster:
    """Read one file of clusters/ with the accelerator and the node that it names.

    Raises
    ------
    PlannerError
        Naming the file and the field, what was found and what was expected.
    """
    place, data = read_file(
        path, folders, required=("accelerator", "node", "tiers"), optional=_OPTIONAL
    )
    values = read_blocks(place, data, CLUSTER)
    require(place, values, ("max_devices",))
    max_devices = values["max_devices"]
    node = find_item("nodes", data["node"], folders)
    inner = load_tiers(node, folders)
    tiers = (*inner, *_tiers(place, data["tiers"], folders, whole=max_devices))
    check_sizes(str(place / "tiers"), tiers, int(max_devices.value))
    return Cluster(
        name=path.stem,
        accelerator=load_accelerator(
            find_item("accelerators", data["accelerator"], folders), folders
        ),
        devices_per_node=inner[-1].devices,
        tiers=tiers,
        max_devices=int(max_devices.value),
        price=_price(place, data),
        node=node.stem,
        sources=_sources(values),
    )


def load_tiers(path: Path, folders: Sequence[Path], *, lenders: Lenders = ()) -> tuple[Tier, ...]:
    """The tiers of one file of nodes/, the innermost first.

    ``lenders`` are the tiers whose ``collectives_like`` led here.
    """
    place, data = read_file(path, folders, required=("tiers",), optional=("aliases", "notes"))
    return _tiers(place, data["tiers"], folders, lenders=lenders)


def check_sizes(where: str, tiers: Sequence[Tier], max_devices: int) -> None:
    """Raise a PlannerError unless the tiers grow and the last one holds the whole cluster."""
    sizes = [tier.devices for tier in tiers]
    if sizes != sorted(set(sizes)) or sizes[-1] != max_devices:
        raise PlannerError(
            f"{where}: found tiers of {sizes} devices, expected growing sizes that end in "
            f"max_devices ({max_devices})"
        )


def _read_accelerator(path: Path, folders: Sequence[Path]) -> tuple[Place, dict[str, Any]]:
    required = ("vendor", "generation", "datasheet")
    return read_file(path, folders, required=required, optional=_OPTIONAL)


def _tiers(
    place: Place,
    entries: object,
    folders: Sequence[Path],
    *,
    whole: Value | None = None,
    lenders: Lenders = (),
) -> tuple[Tier, ...]:
    """Tiers in the order of the file.

    ``whole`` is the size of a cluster's last tier; measured lines belong to the tiers of nodes.
    """
    found = as_mapping(place / "tiers", entries)
    lines = read_lines(place.file.stem, folders, found) if whole is None else {}
    place = place / "tiers"
    last = next(reversed(found), None)
    return tuple(
        _tier(
            place / name,
            entry,
            lines.get(name, {}),
            folders,
            whole if name == last else None,
            lenders,
        )
        for name, entry in found.items()
    )


def _tier(
    place: Place,
    entry: object,
    lines: Mapping[str, CollectiveSet],
    folders: Sequence[Path],
    whole: Value | None,
    lenders: Lenders,
) -> Tier:
    blocks = as_mapping(place, entry)
    check_keys(place, blocks, BLOCKS)
    values = read_blocks(place, blocks, TIER)
    if whole is not None:
        values.setdefault("devices", whole)
    require(place, values, ("devices", "topology", "bandwidth", "latency", "efficiency"))
    found = {name: v.value for name, v in values.items()}
    return Tier(
        name=place.field.rpartition(".")[2],
        devices=int(found["devices"]),
        bandwidth=found["bandwidth"],
        latency=found["latency"],
        topology=found["topology"],
        pair_bandwidth=found.get("pair_bandwidth", found["bandwidth"]),
        oversubscription=found.get("oversubscription", 1.0),
        efficiency=found["efficiency"],
        collectives=_collectives(place, lines, values, folders, lenders),
        sources=_sources(values),
    )


def _kernels(
    name: str,
    values: Mapping[str, Value],
    folders: Sequence[Path],
    place: Place,
    lenders: Lenders = (),
) -> Kernels:
    """A device's own sets, and behind them its relative's."""

    def sets_of(relative: str, place: Place, lenders: Lenders) -> Kernels:
        path = find_item("accelerators", relative, folders)
        lenders = _lend(place, path.stem, lenders)
        there, data = _read_accelerator(path, folders)
        return _kernels(path.stem, read_blocks(there, data, ACCELERATOR), folders, there, lenders)

    own = read_fits(name, folders, lambda other: sets_of(other, place / "fits", lenders))
    if "kernels_like" not in values:
        return own
    relative = values["kernels_like"].value
    return borrow(own, sets_of(relative, place / "kernels_like", lenders), relative)


def _collectives(
    place: Place,
    own: Mapping[str, CollectiveSet],
    values: Mapping[str, Value],
    folders: Sequence[Path],
    lenders: Lenders,
) -> Mapping[str, CollectiveSet]:
    if "collectives_like" not in values:
        return own
    place, relative = place / "collectives_like", values["collectives_like"].value
    lenders = _lend(place, relative, lenders)
    node, _, tier_name = relative.partition(".")
    tiers = load_tiers(find_item("nodes", node, folders), folders, lenders=lenders)
    link = next((tier for tier in tiers if tier.name == tier_name), None)
    if link is None:
        raise PlannerError(
            f"{place}: found {relative!r}, expected NODE.TIER, one of: "
            f"{', '.join(f'{node}.{tier.name}' for tier in tiers)}"
        )
    ratio = values["bandwidth"].value / link.bandwidth
    return borrow_lines(own, link.collectives, ratio, relative)


def _lend(place: Place, relative: str, lenders: Lenders) -> Lenders:
    """The chain of relatives with one more, which must not be in it already."""
    if relative in lenders:
        raise PlannerError(f"{place}: relatives in a circle: {' -> '.join((*lenders, relative))}")
    return (*lenders, relative)


def _price(place: Place, data: Mapping[str, Any]) -> Price | None:
    if "price" not in data:
        return None
    place = place / "price"
    fields = as_mapping(place, data["price"])
    check_keys(place, fields, PRICE)
    for name in PRICE:
        if name not in fields:
            raise PlannerError(f"{place}: missing field {name!r}")
    check_source(place, fields["source"])
    return Price(**{key: read_leaf(place / key, fields[key], kind) for key, kind in PRICE.items()})


def _sources(values: Mapping[str, Value]) -> dict[str, str]:
    return {name: v.source for name, v in values.items() if isinstance(v.value, float)}
