"""Expected errors as data: the 90th percentile of the error, by what a prediction is most like.

``planner/error_bands.json`` is written from a report, shipped with the package and read by the
results.  Its form::

    {"version": 1, "training": {"time": {"all": {"p90": 0.31, "rows": 900},
                                         "Ampere": {...}, "megatron on Ampere": {...}},
                                "memory": {...}},
     "serving": {"time": {...}, "first_token": {...}}}

A key is ``all``, a device generation, or ``<software> on <generation>``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from planner.evidence import defaults
from planner.evidence.predict import Prediction
from planner.evidence.score import memory_rows, time_rows

BANDS = Path(__file__).parents[1] / "error_bands.json"
VERSION = 1

FEW = 5
"""A group with fewer rows makes no band of its own."""


Ran = Callable[[Any], tuple[str, str]]
"""From a row to the software and the accelerator that ran it."""


def trained(row: Any) -> tuple[str, str]:
    """Of a row of the training table."""
    return defaults.software_name(row), row.accelerator


def served(row: Any) -> tuple[str, str]:
    """Of a row of the serving table."""
    return row.cells["engine"], row.cells["accelerator"]


def bands(
    training: Sequence[Prediction],
    generation: Callable[[str], str],
    serving: Sequence[Prediction] = (),
) -> dict[str, Any]:
    """Error bands of training and of serving, whose time is that of an output token.

    Parameters
    ----------
    generation
        From an accelerator's name in the tables to its device generation.
    """

    def group(rows: Sequence[Prediction], ran: Ran) -> dict[str, Any]:
        found: dict[str, list[float]] = {"all": []}
        for p in rows:
            if p.ape is None:
                continue
            software, accelerator = ran(p.row)
            device = generation(accelerator)
            for key in ("all", device, f"{software} on {device}"):
                found.setdefault(key, []).append(p.ape)
        return {
            key: {"p90": round(float(np.quantile(values, 0.9)), 4), "rows": len(values)}
            for key, values in sorted(found.items())
            if len(values) >= FEW
        }

    tokens, first = (
        [p for p in serving if p.row.metric == metric] for metric in ("tpot_mean_s", "ttft_mean_s")
    )
    return {
        "version": VERSION,
        "training": {
            "time": group(time_rows(training), trained),
            "memory": group(memory_rows(training), trained),
        },
        "serving": {"time": group(tokens, served), "first_token": group(first, served)},
    }


@cache
def generation(accelerator: str) -> str:
    """Device generation of an accelerator of the tables."""
    from planner.specs.catalog import find_cluster

    return find_cluster(defaults.CLUSTERS[accelerator]).accelerator.generation


def write_bands(
    training: Sequence[Prediction], serving: Sequence[Prediction], path: Path = BANDS
) -> dict[str, Any]:
    """Write the bands of a report's rows and return them."""
    found = bands(training, generation, serving)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found
