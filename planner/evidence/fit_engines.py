"""Fit the four numbers of every engine, and test the fit on models left out of it.

``step`` and ``token`` are the pair of a grid with the least mean |log(predicted / measured)| of
TPOT, then ``waits`` and ``together`` that of TTFT; where prefill goes first, ``together`` has no
effect and keeps its 1.  An error counts at most as a factor of e, since
some runs wait for what no source states.  Leaving a model out repeats the choice without it.

``python -m planner.evidence.fit_engines`` writes ``engines.json``, which the validation page
prints; the numbers themselves are in ``planner.specs.engine``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.evidence.cases import Library
from planner.evidence.serving import ServingRow, predict_serving, read_serving
from planner.evidence.tables import DATA
from planner.specs.engine import ENGINES, Engine

RESULT = Path(__file__).with_name("engines.json")

GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "tpot_mean_s": {
        "step": (0.2e-3, 0.4e-3, 0.6e-3, 0.8e-3, 1.2e-3, 1.6e-3, 2e-3, 2.5e-3),
        "token": (4e-6, 8e-6, 16e-6, 24e-6),
    },
    "ttft_mean_s": {
        "waits": (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 25.0),
        "together": (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
    },
}
"""What each metric decides, in this order, and the values that are tried."""

Array = NDArray[np.float64]


def fit_engine(engine: Engine, rows: Sequence[ServingRow], library: Library) -> dict[str, Any]:
    """The best grid points, and the median error of every model with them and left out of them."""
    found: dict[str, Any] = {"parameters": {}, "models": {}}
    for metric, grid in GRIDS.items():
        some = [row for row in rows if row.metric == metric]
        tried = {
            name: values for name, values in grid.items() if engine.mixes or name != "together"
        }
        points: list[dict[str, Any]] = [
            dict(zip(tried, values, strict=True)) for values in product(*tried.values())
        ]
        errors = np.array([_errors(replace(engine, **one), some, library) for one in points])
        best = int(_loss(errors).argmin())
        engine = replace(engine, **points[best])
        found["parameters"] |= points[best]
        models = np.array([row.cells["model"] for row in some])
        for model in dict.fromkeys(models):
            own = models == model
            others = int(_loss(errors[:, ~own]).argmin()) if not own.all() else best
            found["models"].setdefault(model, {})[metric] = {
                "rows": int(own.sum()),
                "fitted": _median(errors[best, own]),
                "left_out": _median(errors[others, own]),
            }
    return found


def _errors(engine: Engine, rows: Sequence[ServingRow], library: Library) -> Array:
    """log(predicted / measured) of every row; a row that is not predicted has none."""
    predictions = predict_serving(rows, library, {engine.name: engine, "generic": engine})
    return np.array([np.log((p.predicted or np.nan) / p.row.value) for p in predictions])


def _loss(errors: Array) -> Array:
    return np.asarray(np.nanmean(np.minimum(np.abs(errors), 1.0), axis=-1))


def _median(errors: Array) -> float:
    return float(np.nanmedian(np.abs(np.expm1(errors))))


def result(path: Path = RESULT) -> dict[str, Any]:
    """What the last fit found, engine by engine."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> str:
    """Fit every engine of the table, write the result and say it as text."""
    from planner.evidence.validate import packaged_library

    library = packaged_library()
    rows = [row for row in read_serving(DATA / "serving.csv") if row.cells["mode"] == "aggregated"]
    rows = [row for row in rows if row.cells["concurrency"]]
    found = {
        name: fit_engine(engine, [row for row in rows if row.cells["engine"] == name], library)
        for name, engine in ENGINES.items()
        if any(row.cells["engine"] == name for row in rows)
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return json.dumps({name: one["parameters"] for name, one in found.items()}, indent=1)


if __name__ == "__main__":
    import sys

    sys.stdout.write(main() + "\n")
