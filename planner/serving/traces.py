"""Traffic from a file: the lengths of requests, their rate and how uneven it is, prefix hits.

Traces are read as Azure (CSV) and Mooncake (JSONL) publish theirs; a YAML summary holds means and
quantiles instead, and the named ones ship in ``trace_summaries/`` beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from planner.errors import PlannerError
from planner.layers.inference import Array
from planner.serving.lengths import Lengths, Marginal, lengths_of_marginals, lengths_of_requests
from planner.serving.trace_files import Requests, read_azure, read_mooncake
from planner.specs.blocks import Place, as_mapping, check_keys, read_file
from planner.specs.folders import near
from planner.units import parse_quantity

SUMMARIES = Path(__file__).parent / "trace_summaries"
READERS = {".csv": read_azure, ".jsonl": read_mooncake}


@dataclass(frozen=True)
class Trace:
    """What a trace says about traffic."""

    name: str
    lengths: Lengths
    rate: float | None = None
    """Requests per second; None where times are unknown or all the same."""
    variation: float = 1.0
    """Coefficient of variation of the times between arrivals, 1 (Poisson) where unknown."""
    hit: float = 0.0
    """Part of all input tokens that a prefix cache without end would hold already."""
    arrivals: Array | None = None
    """Times ``(requests,)`` since the first [s]."""


def summary_names() -> list[str]:
    """Names of the summaries that ship with the project."""
    return sorted(path.stem for path in SUMMARIES.glob("*.yaml"))


def find_trace(trace: str | Path) -> Trace:
    """The summary of that name, or the trace or summary in that file.

    Raises
    ------
    PlannerError
        If there is no such name or file, or the file is not what its ending says.
    """
    names, text, path = summary_names(), str(trace), Path(trace)
    ending = path.suffix.lower()
    if text in names:
        return _summarised(SUMMARIES / f"{text}.yaml")
    if ending in (".yaml", ".yml"):
        return _summarised(path)
    if ending not in READERS:
        raise PlannerError(
            f"trace: found {text!r}{near(text, names)}; expected a .csv, .jsonl or .yaml file, or"
            f" one of {', '.join(names)}."
        )
    return _recorded(path.stem, READERS[ending](path))


def _recorded(name: str, found: Requests) -> Trace:
    lengths, gaps = lengths_of_requests(found.isl, found.osl), np.diff(found.arrivals)
    if not found.arrivals[-1] > 0.0:
        return Trace(name, lengths, hit=found.hit, arrivals=found.arrivals)
    rate, variation = float(1.0 / gaps.mean()), float(gaps.std() / gaps.mean())
    return Trace(name, lengths, rate, variation, found.hit, found.arrivals)


def _summarised(path: Path) -> Trace:
    """A YAML file with ``isl`` and ``osl``, each with a mean and maybe quantiles."""
    optional = ("title", "source", "licence", "rate", "variation", "hit")
    place, data = read_file(path, (), required=("isl", "osl"), optional=optional)
    isl, osl = (_marginal(place / name, data[name]) for name in ("isl", "osl"))
    rate = _quantity(place / "rate", data["rate"]) if "rate" in data else None
    variation = _quantity(place / "variation", data.get("variation", 1), zero=True)
    hit = _quantity(place / "hit", data.get("hit", 0), "fraction", zero=True)
    try:
        lengths = lengths_of_marginals(isl, osl)
    except PlannerError as error:
        raise PlannerError(f"{path}: {error}") from error
    return Trace(path.stem, lengths, rate, variation, hit)


def _marginal(place: Place, data: object) -> Marginal:
    fields = as_mapping(place, data)
    check_keys(place, fields, ("mean", "quantiles"))
    below = place / "quantiles"
    quantiles = {
        _quantity(below, share, "fraction", zero=True): _quantity(
            below / f"{share}", tokens, zero=True
        )
        for share, tokens in as_mapping(below, fields.get("quantiles", {})).items()
    }
    return Marginal(_quantity(place / "mean", fields.get("mean")), quantiles)


def _quantity(place: Place, found: object, kind: str = "number", *, zero: bool = False) -> float:
    return parse_quantity(found, kind, where=str(place), allow_zero=zero)
