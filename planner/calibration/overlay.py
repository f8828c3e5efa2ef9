"""Parameter sets as files of a database, for people and for ``planner.specs.fits`` to read."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from planner.calibration.calibrate import Calibrated
from planner.specs.fits import Kernels, Lines
from planner.specs.kernel_sets import ASSUMED, CollectiveSet, KernelSet, parameters_of

WIDTH = 100
KEPT = "\x00"
"""Stands for a space that no line may break at."""
_UNITS = {"time": (1e6, "us"), "bytes/s": (1e-9, "GB/s"), "bytes": (1e-6, "MB")}


def files(
    found: Iterable[Calibrated], folder: Path, source: str, about: Mapping[str, str], made_by: str
) -> dict[Path, str]:
    """The files of a database folder that holds calibrated sets, and their text.

    Parameters
    ----------
    found
        Fitted sets of any number of devices and nodes.
    folder
        A user's database; sources that it already names are kept.
    source, about
        Id of the measurements, and what its entry in sources.yaml says.
    made_by
        Program, version and date.
    """
    kernels: dict[str, Kernels] = {}
    lines: dict[str, Lines] = {}
    for one in found:
        if isinstance(one.parameters, CollectiveSet):
            tiers = lines.setdefault(one.item, {})
            tiers.setdefault(one.family, {})[one.library] = one.parameters
        else:
            families = kernels.setdefault(one.item, {})
            libraries = families.setdefault(one.family, {})
            libraries.setdefault(one.library, {})[one.dtype] = one.parameters
    head = {"source": source, "made_by": made_by}
    database = folder / "hardware_db"
    texts = {
        database / "fits" / f"{item}.yaml": fits_text(
            head, kernels.get(item, {}), lines.get(item, {})
        )
        for item in sorted({*kernels, *lines})
    }
    sources = database / "sources.yaml"
    known = yaml.safe_load(sources.read_text(encoding="utf-8")) if sources.is_file() else {}
    texts[sources] = yaml.safe_dump({**(known or {}), source: dict(about)}, width=WIDTH)
    return texts


def fits_text(head: Mapping[str, str], kernels: Kernels, lines: Lines) -> str:
    """The text of one file of hardware_db/fits.

    Parameters
    ----------
    head
        ``source`` or ``note`` of all sets, and ``made_by``.
    kernels
        Family -> library -> datatype -> set.
    lines
        Tier -> operation -> set.
    """
    text = [f"{key}: {_text(value)}" for key, value in head.items()]
    if kernels:
        text.append("kernels:")
        for family, libraries in kernels.items():
            text.append(f"  {family}:")
            for library, sets in libraries.items():
                text.append(f"    {library}:")
                for dtype, one in sets.items():
                    text += _entry(f"      {dtype}:", one)
    if lines:
        text.append("collectives:")
        for tier, operations in lines.items():
            text.append(f"  {tier}:")
            for operation, one in operations.items():
                text += _entry(f"    {operation}:", one)
    return "\n".join(text) + "\n"


def _entry(start: str, one: KernelSet) -> list[str]:
    """One set in flow style, folded."""
    indent = " " * (len(start) - len(start.lstrip()) + 2)
    body = "{" + ", ".join([*_parameters(one), *_provenance(one)]) + "}"
    filled = textwrap.wrap(
        re.sub(r"(?<!,) ", KEPT, body),  # break after commas only
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + " ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [start, *(line.replace(KEPT, " ") for line in filled)]


def _parameters(one: Any) -> Iterator[str]:
    for field in parameters_of(type(one)):
        value = getattr(one, field.name)
        if "set" in field.metadata:
            if value is not None:
                yield f"{field.name}: {{{', '.join(_parameters(value))}}}"
        elif value != field.default:
            yield f"{field.name}: {_quantity(value, field.metadata['kind'])}"


def _quantity(value: Any, kind: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    factor, unit = _UNITS.get(kind, (1.0, ""))
    return f"{value * factor:.4g} {unit}".rstrip()


def _provenance(one: KernelSet) -> Iterator[str]:
    fit = one.fit
    if fit.source.startswith(f"{ASSUMED}: "):
        yield f"note: '{fit.source.removeprefix(f'{ASSUMED}: ')}'"
    if fit.version:
        yield f"version: {_text(fit.version)}"
    if fit.rows:
        yield f"rows: {fit.rows}"
    for name in ("error", "median", "bias"):
        value = getattr(fit, name)
        if value is not None:
            yield f"{name}: {value:.4g}"
    if fit.range:
        ranges = ", ".join(f"{k}: [{low:g}, {high:g}]" for k, (low, high) in fit.range.items())
        yield f"range: {{{ranges}}}"


def _text(value: str) -> str:
    """A YAML scalar that stays text: versions such as 1.0 and words such as no are quoted."""
    plain = value.replace(".", "").isdigit() or value.lower() in ("yes", "no", "on", "off")
    return f"'{value}'" if plain or any(sign in value for sign in ",:;{}[]#&*'\"") else value
