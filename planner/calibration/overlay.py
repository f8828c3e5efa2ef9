"""Write parameter sets as a file of hardware_db/fits, readable by people and by ``planner.specs``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from planner.specs.kernel_sets import ASSUMED, KernelSet, parameters_of

WIDTH = 100
KEPT = "\x00"
"""Stands for a space that no line may break at."""
_UNITS = {"time": (1e6, "us"), "bytes/s": (1e-9, "GB/s"), "bytes": (1e-6, "MB")}

Sets = Mapping[str, Mapping[str, Mapping[str, KernelSet]]]


def fits_text(
    head: Mapping[str, str], kernels: Sets, collectives: Mapping[str, Mapping[str, KernelSet]]
) -> str:
    """The file's text.

    Parameters
    ----------
    head
        ``source`` or ``note`` of all sets, and ``made_by``.
    kernels
        Family -> library -> datatype -> set.
    collectives
        Tier -> operation -> set.
    """
    lines = [f"{key}: {_text(value)}" for key, value in head.items()]
    if kernels:
        lines.append("kernels:")
        for family, libraries in kernels.items():
            lines.append(f"  {family}:")
            for library, sets in libraries.items():
                lines.append(f"    {library}:")
                for dtype, one in sets.items():
                    lines += _entry(f"      {dtype}:", one)
    if collectives:
        lines.append("collectives:")
        for tier, operations in collectives.items():
            lines.append(f"  {tier}:")
            for operation, one in operations.items():
                lines += _entry(f"    {operation}:", one)
    return "\n".join(lines) + "\n"


def write_fits(
    path: Path,
    head: Mapping[str, str],
    kernels: Sets,
    collectives: Mapping[str, Mapping[str, KernelSet]],
) -> None:
    """Write the file whole or not at all."""
    text = fits_text(head, kernels, collectives)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


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
