"""Predict every row of a table of measured kernel and collective times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planner.costs.operators import predict
from planner.errors import PlannerError
from planner.evidence.defaults import CLUSTERS
from planner.evidence.predict import Prediction
from planner.specs.catalog import find_cluster
from planner.specs.measurements import Group, read


@dataclass(frozen=True)
class KernelRow:
    """One measured time [s]; its metric is the operation, its source what it was measured on."""

    id: str
    source: str
    metric: str
    value: float
    assumed: frozenset[str] = frozenset()


def predict_kernels(path: Path) -> list[Prediction]:
    """Predict the rows of a table, operation by operation; the ids are lines of the file."""
    return [prediction for group in read(path) for prediction in _predict(group)]


def _predict(group: Group) -> list[Prediction]:
    source = f"{group.accelerator}, {group.library}, {group.dtype}"
    rows = [
        KernelRow(f"{group.op}-{line}", source, group.op, float(value))
        for line, value in zip(group.lines, group.seconds, strict=True)
    ]
    try:
        name = CLUSTERS.get(group.accelerator, group.accelerator)
        predicted = predict(group, find_cluster(name))
    except PlannerError as error:
        return [Prediction(row, None, str(error)) for row in rows]
    return [Prediction(row, float(value)) for row, value in zip(rows, predicted, strict=True)]
