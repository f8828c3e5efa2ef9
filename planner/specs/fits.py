"""The files of hardware_db/fits: parameter sets of kernels and collectives, of one item a file.

A file is named for the accelerator or the node whose sets it holds.  Those of the user's databases
come before the packaged ones, set by set, so that a calibration needs to write only what it
measured; the first library of a family is the one that is used unless another is named.
``like: DEVICE`` starts from a relative's set of the same family and datatype.

Efficiencies and launch costs are properties of the software more than of the chip, so a device
without sets borrows its nearest relative's: fractions of peak and bandwidth carry over, times stay.
A borrowed set says ``like NAME``, and its error grows by what a transfer between devices costs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.specs.blocks import Place, as_mapping, check_keys, check_source, read_file, read_leaf
from planner.specs.kernel_sets import (
    ASSUMED,
    DATATYPES,
    FAMILIES,
    CollectiveSet,
    Fit,
    KernelSet,
    parameters_of,
)
from planner.units import parse_quantity

Kernels = dict[str, dict[str, dict[str, KernelSet]]]
"""Family -> library -> datatype -> set."""
Lines = dict[str, dict[str, CollectiveSet]]
"""Tier -> operation -> line."""

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
"""Collectives that a tier has lines of."""

FIT_FIELDS = ("version", "rows", "error", "median", "bias", "range")
TRANSFER_ERROR = 0.1
"""Error that a set gains on another device: H100's set of bf16 matrix products scores 6 % on the
H200, where its own scores 5 %, and 16 % on the A100, where its own scores 6 %."""


def read_fits(name: str, folders: Sequence[Path], like: Any) -> Kernels:
    """Kernel sets of a device, the user's before the packaged ones.

    Parameters
    ----------
    name
        The accelerator.
    folders
        Databases, the user's first.
    like
        From the name of another accelerator to its kernel sets, for entries that start from them.

    Raises
    ------
    PlannerError
        Naming the file and the field, what was found and what was expected.
    """
    found: Kernels = {}
    for place, data in _files(name, folders):
        for family, libraries in as_mapping(place / "kernels", data.get("kernels", {})).items():
            here = place / f"kernels.{family}"
            check_keys(place / "kernels", {family: None}, FAMILIES)
            for library, entries in as_mapping(here, libraries).items():
                sets = found.setdefault(family, {}).setdefault(str(library), {})
                for dtype, entry in as_mapping(here / str(library), entries).items():
                    _check_datatype(here / str(library), family, str(dtype))
                    at = here / str(library) / str(dtype)
                    sets.setdefault(str(dtype), _read_entry(at, data, entry, family, dtype, like))
    return found


def read_lines(name: str, folders: Sequence[Path], tiers: Collection[str]) -> Lines:
    """Lines of collectives of a node by tier, the user's before the packaged ones.

    ``tiers`` are those that the node has.
    """
    found: Lines = {}
    for place, data in _files(name, folders):
        of_tiers = as_mapping(place / "collectives", data.get("collectives", {}))
        check_keys(place / "collectives", of_tiers, tiers)
        for tier, lines in of_tiers.items():
            here = place / f"collectives.{tier}"
            check_keys(here, as_mapping(here, lines), OPERATIONS)
            for operation, entry in lines.items():
                at = here / operation
                line = _read_set(at, as_mapping(at, entry), CollectiveSet, None)
                line = replace(line, fit=_fit(at, data, entry))
                found.setdefault(tier, {}).setdefault(operation, line)
    return found


def borrow(own: Kernels, relative: Kernels, name: str) -> Kernels:
    """``own``, and behind them those of the relative called ``name``."""
    found: Kernels = {family: dict(libraries) for family, libraries in own.items()}
    for family, libraries in relative.items():
        for library, sets in libraries.items():
            lent = {dtype: replace(one, fit=_lent(one.fit, name)) for dtype, one in sets.items()}
            mine = found.setdefault(family, {})
            mine[library] = {**lent, **mine.get(library, {})}
    return found


def borrow_lines(
    own: Mapping[str, CollectiveSet],
    relative: Mapping[str, CollectiveSet],
    ratio: float,
    name: str,
) -> dict[str, CollectiveSet]:
    """``own``, and the relative's on a link ``ratio`` times as fast for operations without."""
    lent = {
        operation: replace(scale_line(line, ratio), fit=_lent(line.fit, name))
        for operation, line in relative.items()
    }
    return {**lent, **own}


def scale_line(line: CollectiveSet, ratio: float) -> CollectiveSet:
    """The line on a link ``ratio`` times as fast: bandwidths scale, latencies stay."""
    return replace(
        line,
        low_bandwidth=line.low_bandwidth * ratio,
        bandwidth=line.bandwidth * ratio,
        nvls_bandwidth=line.nvls_bandwidth * ratio,
    )


def _lent(fit: Fit, name: str) -> Fit:
    error = None if fit.error is None else fit.error + TRANSFER_ERROR
    return replace(fit, source=f"like {name}", error=error, median=None, bias=None)


def _files(name: str, folders: Sequence[Path]) -> list[tuple[Place, dict[str, Any]]]:
    paths = [folder / "fits" / f"{name}.yaml" for folder in folders]
    allowed = ("source", "note", "kernels", "collectives", "made_by")
    return [
        read_file(path, folders, required=(), optional=allowed) for path in paths if path.is_file()
    ]


def _check_datatype(place: Place, family: str, name: str) -> None:
    """Of the products, in prefill with the cache's behind a dash where it differs."""
    parts = name.split("-", 1) if family.endswith("prefill") else [name]
    check_keys(place, dict.fromkeys(parts), DATATYPES)


def _read_entry(
    place: Place, data: Mapping[str, Any], entry: object, family: str, dtype: str, like: Any
) -> KernelSet:
    fields = dict(as_mapping(place, entry))
    base = None
    if "like" in fields:
        name = fields.pop("like")
        base = default_set(like(name), family, dtype)
        if base is None:
            raise PlannerError(f"{place / 'like'}: {name} has no set of {family} in {dtype}")
    found: KernelSet = _read_set(place, fields, FAMILIES[family], base)
    return replace(found, fit=_fit(place, data, fields))


def default_set(kernels: Kernels, family: str, dtype: str) -> KernelSet | None:
    """The set of the first library that has one in ``dtype``."""
    libraries = kernels.get(family, {}).values()
    return next((sets[dtype] for sets in libraries if dtype in sets), None)


def _read_set(place: Place, fields: Mapping[str, Any], kind: type, base: Any) -> Any:
    """A set from the fields of a file, what is missing from ``base`` or the defaults."""
    known = parameters_of(kind)
    check_keys(place, fields, [*(one.name for one in known), *FIT_FIELDS, "source", "note"])
    values: dict[str, Any] = {}
    for one in known:
        if one.name not in fields:
            if base is None and one.default is MISSING:
                raise PlannerError(f"{place}: missing field {one.name!r}")
            continue
        found, about = fields[one.name], one.metadata
        at = place / one.name
        if "set" in about:
            inner = None if base is None else getattr(base, one.name)
            values[one.name] = _read_set(at, as_mapping(at, found), about["set"], inner)
            continue
        value = values[one.name] = _read_value(at, found, about)
        if "low" in about and not 0.98 * about["low"] <= value <= 1.02 * about["high"]:
            raise PlannerError(
                f"{at}: found {found}, expected from {about['low']:g} to {about['high']:g} "
                f"in SI units"
            )
    return kind(**values) if base is None else replace(base, **values)


def _read_value(place: Place, found: object, about: Mapping[str, Any]) -> Any:
    if "low" not in about:
        return read_leaf(place, found, about["kind"])
    return parse_quantity(found, about["kind"], where=str(place), allow_zero=about["low"] == 0.0)


def _fit(place: Place, data: Mapping[str, Any], fields: Mapping[str, Any]) -> Fit:
    """Provenance: of the entry, else of the file."""
    note = fields.get("note", data.get("note"))
    source = fields.get("source", data.get("source"))
    if source is None and note is None:
        raise PlannerError(f"{place}: no source and no note; expected one of the two")
    text = "" if source is None else check_source(place, source)
    if note is not None:
        text = f"{ASSUMED}: {note}" + (f" [{text}]" if text else "")
    ranges = as_mapping(place / "range", fields.get("range", {}))
    known = {
        name: _number(place / name, fields[name])
        for name in ("error", "median", "bias")
        if name in fields
    }
    return Fit(
        rows=int(_number(place / "rows", fields.get("rows", 0), "count")),
        source=text,
        version=str(fields.get("version", "")),
        range={name: _ends(place / f"range.{name}", ends) for name, ends in ranges.items()},
        **known,
    )


def _number(place: Place, found: object, kind: str = "number") -> float:
    """Zero or more; YAML reads 1e+06, which a calibration may write, as text."""
    return parse_quantity(found, kind, where=str(place), allow_zero=True)


def _ends(place: Place, found: object) -> tuple[float, float]:
    """Smallest and largest value of a part of the shapes."""
    if not isinstance(found, list) or len(found) != 2:
        raise PlannerError(f"{place}: found {found!r}, expected two numbers")
    low, high = (_number(place, end) for end in found)
    if low > high:
        raise PlannerError(f"{place}: found {found!r}, expected the smaller number first")
    return low, high
