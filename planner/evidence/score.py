"""Figures of merit over predicted rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.evidence.predict import Prediction
from planner.evidence.tables import MEMORY_METRICS, SERVING_METRICS, TIME_METRICS
from planner.specs.measurements import SHAPES

SET_A = frozenset({"zero", "precision"})
"""A time row belongs to set A when its source leaves at most these unstated."""

FEW = 5
"""Rows that a source needs to count in the median over sources."""


def figures(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Rows, coverage and errors of a group; an error is None where nothing was scored.

    ``bias`` is the geometric mean of predicted over measured, errors are fractions.
    """
    done = [p for p in predictions if p.predicted is not None]
    scored = [p for p in done if p.scored]
    counts = {
        "rows": len(predictions),
        "predicted": len(done),
        "skipped": len(predictions) - len(done),
        "scored": len(scored),
    }
    return {**counts, **errors(scored)}


def errors(scored: Sequence[Prediction]) -> dict[str, float | None]:
    """The error figures of rows that all have a prediction."""
    names = ("median_ape", "mape", "p90_ape", "worst_ape", "bias", "within_20pct", "spearman")
    if not scored:
        return dict.fromkeys(names)
    predicted = np.array([p.predicted for p in scored], dtype=float)
    measured = np.array([p.row.value for p in scored])
    ape = np.abs(predicted - measured) / np.abs(measured)
    positive = (predicted > 0) & (measured > 0)
    bias = None
    if positive.all():
        bias = float(np.exp(np.mean(np.log(predicted / measured))))
    return {
        "median_ape": float(np.median(ape)),
        "mape": float(np.mean(ape)),
        "p90_ape": float(np.quantile(ape, 0.9)),
        "worst_ape": float(np.max(ape)),
        "bias": bias,
        "within_20pct": float(np.mean(ape <= 0.2)),
        "spearman": spearman(predicted, measured),
    }


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Rank correlation, ties ranked by their mean; None where it is not defined."""
    first, second = _ranks(a), _ranks(b)
    if len(a) < 2 or first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse])


def grouped(
    predictions: Sequence[Prediction], key: Callable[[Prediction], str]
) -> dict[str, list[Prediction]]:
    """Predictions by key, in order of first appearance."""
    groups: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        groups[key(prediction)].append(prediction)
    return dict(groups)


def is_time(prediction: Prediction) -> bool:
    return prediction.row.metric in (*TIME_METRICS, *SERVING_METRICS, *SHAPES)


def time_rows(predictions: Sequence[Prediction]) -> list[Prediction]:
    return [p for p in predictions if is_time(p)]


def memory_rows(predictions: Sequence[Prediction]) -> list[Prediction]:
    return [p for p in predictions if p.row.metric in MEMORY_METRICS]


def set_a(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Time rows whose sources state all but ZeRO stage and precision."""
    return [p for p in time_rows(predictions) if p.row.assumed <= SET_A]


def set_b(predictions: Sequence[Prediction]) -> list[Prediction]:
    """All other time rows."""
    return [p for p in time_rows(predictions) if not p.row.assumed <= SET_A]


def table(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The report of one table."""

    def by(group: Sequence[Prediction], key: Callable[[Prediction], str]) -> dict[str, Any]:
        return {name: figures(rows) for name, rows in grouped(group, key).items()}

    def metric(p: Prediction) -> str:
        return str(p.row.metric)

    def source(p: Prediction) -> str:
        return str(p.row.source)

    first = set_a(predictions)
    medians = [
        found["median_ape"] for found in by(first, source).values() if found["scored"] >= FEW
    ]
    return {
        **figures(predictions),
        "headline": figures(time_rows(predictions)),
        "set_a": {
            **figures(first),
            "median_of_source_medians": float(np.median(medians)) if medians else None,
        },
        "set_b": figures(set_b(predictions)),
        "memory": figures(memory_rows(predictions)),
        "by_metric": by(predictions, metric),
        "by_source": by(predictions, source),
        "by_metric_and_source": {
            name: by(rows, source) for name, rows in grouped(predictions, metric).items()
        },
    }
