"""Strict reading of a YAML file whose numbers stand in blocks by kind of evidence.

Up to three blocks, ``datasheet``, ``measured`` and ``assumed``, share their field names; a measured
value wins over the datasheet's, which wins over an assumed one.  A number is text with a unit, or
``{value, source, note}``; ``source`` and ``note`` may also stand once in an enclosing mapping.
Every value outside ``assumed`` has a source that resolves, every assumed one a note.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.specs.folders import near
from planner.units import parse_quantity

BLOCKS = ("assumed", "datasheet", "measured")
"""The later wins."""


@dataclass(frozen=True)
class Value:
    """One leaf: a float in SI units or text, and the source id or ``assumed: note``."""

    value: Any
    source: str


@dataclass(frozen=True)
class Place:
    """A file, the dotted field in it, and the source ids that resolve there."""

    file: Path
    known_sources: frozenset[str]
    field: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.field}" if self.field else str(self.file)

    def __truediv__(self, key: str) -> Place:
        dotted = f"{self.field}.{key}" if self.field else key
        return Place(self.file, self.known_sources, dotted)


def read_file(
    path: Path, folders: Sequence[Path], *, required: Iterable[str], optional: Iterable[str]
) -> tuple[Place, dict[str, Any]]:
    """The top of a file and where it is.

    Raises
    ------
    PlannerError
        If the file is missing, is not YAML, or has an unknown key or lacks a required one.
    """
    place = Place(path, _source_ids(tuple(folders)))
    data = as_mapping(place, _parse(path))
    check_keys(place, data, (*required, *optional))
    for key in required:
        if key not in data:
            raise PlannerError(f"{place}: missing field {key!r}")
    return place, data


def read_blocks(
    place: Place, data: Mapping[str, Any], schema: Mapping[str, Any]
) -> dict[str, Value]:
    """All leaves of the blocks in ``data``, by dotted name, the best evidence for each."""
    values: dict[str, Value] = {}
    for block in BLOCKS:
        if block in data:
            values.update(_leaves(place / block, data[block], schema, assumed=block == "assumed"))
    return values


def require(place: Place, values: Mapping[str, Value], names: Iterable[str]) -> None:
    """Raise a PlannerError that names the first field of ``names`` without a value."""
    for name in names:
        if name not in values:
            raise PlannerError(f"{place}: missing field {name!r} in datasheet, measured or assumed")


def check_keys(place: Place, data: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise a PlannerError that names the first key of ``data`` which is not known."""
    for key in data:
        if key not in known:
            raise PlannerError(
                f"{place}: unknown field {key!r}{near(str(key), known)}; "
                f"expected one of: {', '.join(known)}"
            )


def as_mapping(place: Place, node: object) -> dict[str, Any]:
    """``node`` itself if it is a mapping, else a PlannerError."""
    if not isinstance(node, dict):
        raise PlannerError(f"{place}: found {node!r}, expected a mapping of fields")
    return node


def read_leaf(place: Place, found: object, kind: str | tuple[str, ...]) -> Any:
    """A quantity in SI units, or text, which ``kind`` may restrict to a few words."""
    if kind == "text":
        return str(found)
    if isinstance(kind, tuple):
        if found not in kind:
            raise PlannerError(f"{place}: found {found!r}, expected one of: {', '.join(kind)}")
        return found
    return parse_quantity(found, kind, where=str(place))


def check_source(place: Place, source: object) -> str:
    """A source id that resolves in sources.yaml, or the address of a page."""
    if source is None:
        raise PlannerError(f"{place}: no source; expected an id of sources.yaml or an address")
    if "://" not in str(source) and source not in place.known_sources:
        raise PlannerError(
            f"{place}: unknown source {source!r}{near(str(source), place.known_sources)}; "
            f"expected an id of sources.yaml or an address"
        )
    return str(source)


def _leaves(
    place: Place,
    node: object,
    schema: Mapping[str, Any],
    *,
    assumed: bool,
    name: str = "",
    source: str | None = None,
    note: str | None = None,
) -> Iterator[tuple[str, Value]]:
    """Walk a block beside its schema; ``source`` and ``note`` come from enclosing mappings."""
    fields = dict(as_mapping(place, node))
    source, note = fields.pop("source", source), fields.pop("note", note)
    check_keys(place, fields, schema)
    for key, child in fields.items():
        kind, here = schema[key], place / key
        if isinstance(kind, Mapping):
            yield from _leaves(
                here, child, kind, assumed=assumed, name=f"{name}{key}.", source=source, note=note
            )
            continue
        detail = child if isinstance(child, dict) else {"value": child}
        check_keys(here, detail, ("value", "source", "note"))
        origin = _origin(
            here, detail.get("source", source), detail.get("note", note), assumed=assumed
        )
        yield f"{name}{key}", Value(read_leaf(here, detail.get("value"), kind), origin)


def _origin(place: Place, source: str | None, note: str | None, *, assumed: bool) -> str:
    if not assumed:
        return check_source(place, source)
    if not note:
        raise PlannerError(f"{place}: assumed without a note; expected why the value is plausible")
    return f"assumed: {note}" + (f" [{check_source(place, source)}]" if source else "")


def _parse(path: Path) -> object:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlannerError(f"{path}: cannot be read as YAML: {error}") from error


@lru_cache(maxsize=8)
def _source_ids(folders: tuple[Path, ...]) -> frozenset[str]:
    """The ids of every sources.yaml."""
    files = [folder / "sources.yaml" for folder in folders]
    return frozenset(
        source
        for file in files
        if file.is_file()
        for source in as_mapping(Place(file, frozenset()), _parse(file))
    )
