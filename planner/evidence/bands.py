"""Expected errors as data: the 90th percentile of the error, by what a prediction is most like.

``planner/error_bands.json`` is written from a report, shipped with the package and read by the
results.  Its form::

    {"version": 1, "training": {"time": {"all": {"p90": 0.31, "rows": 900},
                                         "Ampere": {...}, "megatron on Ampere": {...}},
                                "memory": {...}}}

A key is ``all``, a device generation, or ``<software> on <generation>``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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


def bands(predictions: Sequence[Prediction], generation: Callable[[str], str]) -> dict[str, Any]:
    """Error bands of training.

    Parameters
    ----------
    generation
        From an accelerator's name in the tables to its device generation.
    """

    def group(rows: Sequence[Prediction]) -> dict[str, dict[str, float | int]]:
        found: dict[str, list[float]] = {"all": []}
        for p in rows:
            if p.ape is None:
                continue
            device = generation(p.row.accelerator)
            software = defaults.software_name(p.row)
            for key in ("all", device, f"{software} on {device}"):
                found.setdefault(key, []).append(p.ape)
        return {
            key: {"p90": round(float(np.quantile(values, 0.9)), 4), "rows": len(values)}
            for key, values in sorted(found.items())
            if len(values) >= FEW
        }

    return {
        "version": VERSION,
        "training": {
            "time": group(time_rows(predictions)),
            "memory": group(memory_rows(predictions)),
        },
    }


def write_bands(predictions: Sequence[Prediction], path: Path = BANDS) -> dict[str, Any]:
    """Write the bands of a report's rows and return them."""
    from planner.specs.catalog import find_cluster

    known: dict[str, str] = {}

    def generation(accelerator: str) -> str:
        if accelerator not in known:
            cluster = find_cluster(defaults.CLUSTERS[accelerator])
            known[accelerator] = cluster.accelerator.generation
        return known[accelerator]

    found = bands(predictions, generation)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found
