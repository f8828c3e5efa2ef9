"""Score the planner against published measurements: how right it is, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.evidence.cases import Library
from planner.evidence.kernels import predict_kernels
from planner.evidence.predict import Prediction, predict_rows
from planner.evidence.score import grouped, table
from planner.evidence.serving import predict_serving, read_serving
from planner.evidence.tables import (
    DATA,
    KERNEL_TABLE,
    SERVING_TABLE,
    TRAINING_TABLES,
    read_training,
)
from planner.specs.catalog import find_cluster
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.workload import SOFTWARE


@dataclass(frozen=True)
class Report:
    """The predictions of every table and the figures over them."""

    tables: dict[str, list[Prediction]]

    @property
    def rows(self) -> list[Prediction]:
        """Every prediction, tables one after the other."""
        return [prediction for rows in self.tables.values() for prediction in rows]

    def to_dict(self) -> dict[str, Any]:
        """One object a table, plain data."""
        return {name: table(rows) for name, rows in self.tables.items()}

    def write_rows(self, path: Path) -> None:
        """Write id, source, metric, measured, predicted, ape and reason of every row as CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "source", "metric", "measured", "predicted", "ape", "reason"])
            writer.writerows(self._cells())

    def _cells(self) -> Iterable[list[object]]:
        for p in self.rows:
            predicted = "" if p.predicted is None else f"{p.predicted:.6g}"
            ape = "" if p.ape is None else f"{p.ape:.4f}"
            yield [p.row.id, p.row.source, p.row.metric, p.row.value, predicted, ape, p.reason]


def validate(directory: str | Path | None = None, only: str | None = None) -> Report:
    """Predict every row of the tables in ``directory``, or of the project's own copy.

    Parameters
    ----------
    directory
        A folder with any of training.csv, training_oom.csv, serving.csv, kernels.csv, and a
        models.yaml for models that are not in the database.
    only
        The name of one table, e.g. ``training``.

    Raises
    ------
    PlannerError
        When the folder holds no table, ``only`` names none, or a table cannot be read.
    """
    folder = DATA if directory is None else Path(directory)
    names = [*TRAINING_TABLES, KERNEL_TABLE, SERVING_TABLE]
    if only is not None and only not in names:
        raise PlannerError(f"--only: found {only!r}, expected one of {', '.join(names)}.")
    wanted = [n for n in names if only in (None, n) and (folder / f"{n}.csv").is_file()]
    if not wanted:
        expected = f"{only}.csv" if only else " or ".join(f"{name}.csv" for name in names)
        raise PlannerError(f"{folder}: found no table, expected {expected}.")
    library = packaged_library(folder)
    tables = {}
    for name in wanted:
        path = folder / f"{name}.csv"
        if name in TRAINING_TABLES:
            tables[name] = predict_rows(read_training(path), library)
        elif name == KERNEL_TABLE:
            tables[name] = predict_kernels(path)
        else:
            tables[name] = predict_serving(read_serving(path), library)
    return Report(tables)


def packaged_library(folder: Path | None = None) -> Library:
    """Names as the databases know them, and the models of ``folder``'s models.yaml behind them."""
    from planner.specs.models_catalog import find_model, spec_from_record

    path = None if folder is None else folder / "models.yaml"
    records: dict[str, Any] = {}
    if path is not None and path.is_file():
        import yaml

        records = yaml.safe_load(path.read_text(encoding="utf-8")) or {}

    @cache
    def model(name: str) -> ModelSpec:
        try:
            found: ModelSpec = find_model(name)
        except PlannerError:
            if name not in records:
                raise
            found = spec_from_record(name, records[name])
        return found

    @cache
    def cluster(name: str) -> Cluster:
        return find_cluster(name)

    return Library(model, cluster, SOFTWARE)


def render(report: Report) -> str:
    """The figures as text: one block a table, one line a source."""
    lines = []
    for name, rows in report.tables.items():
        found = table(rows)
        lines += [name, _line("all scored rows", found)]
        for label in ("headline", "set_a", "set_b", "memory") if name in TRAINING_TABLES else ():
            lines.append(_line(label, found[label]))
        medians = found["set_a"]["median_of_source_medians"]
        if medians is not None and name in TRAINING_TABLES:
            lines.append(f"  set A, median over the medians of its sources: {medians:.1%}")
        for metric, sources in found["by_metric_and_source"].items():
            lines.append(f" {metric}")
            lines += [_line(source, values) for source, values in sources.items()]
        reasons = grouped([p for p in rows if p.reason], lambda p: p.reason)
        lines += [f"  skipped {len(group)}: {reason}" for reason, group in reasons.items()]
    return "\n".join(lines)


def _line(label: str, values: dict[str, Any]) -> str:
    head = f"  {label[:58]:58s} {values['rows']:5d} rows {values['skipped']:4d} skipped"
    if values["median_ape"] is None:
        return head
    bias = "" if values["bias"] is None else f"{values['bias']:.3f}"
    spearman = "" if values["spearman"] is None else f"{values['spearman']:.3f}"
    return (
        f"{head}  median {values['median_ape']:6.1%}  mean {values['mape']:6.1%}"
        f"  p90 {values['p90_ape']:6.1%}  bias {bias:6s} rank {spearman}"
    )
