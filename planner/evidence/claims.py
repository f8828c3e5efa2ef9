"""What the project promises about its accuracy, each promise with its number and its limit.

The tests hold the promises and the validation page prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.evidence.predict import Prediction
from planner.evidence.score import errors, grouped, memory_rows, table, time_rows

SCATTER = (
    "some runs with tp 2 or 4 and dp of 16 or more took 10 to 60 % longer than their neighbours,"
    " with no pattern in micro-batch or stages; no scaling of the model's terms brings the worst"
    " group above 0.8"
)

KNOWN_MISSES = frozenset(
    f"rank correlation of vtrain-{name}" for name in ("18.4b on 256", "39.1b on 512")
)
"""Promises that are known not to hold; the tests hold the list."""


@dataclass(frozen=True)
class Claim:
    """One promise: ``low <= value <= high``."""

    name: str
    value: float
    low: float
    high: float
    missed: str = ""
    """Why a promise that is known not to hold does not."""

    @property
    def holds(self) -> bool:
        return self.low <= self.value <= self.high


def claims(training: Sequence[Prediction], oom: Sequence[Prediction] = ()) -> list[Claim]:
    """Every promise about the training tables, with the value found."""
    return [
        *_sets(training),
        *_korthikanti(training),
        *_vtrain(training),
        *_folding(training, oom),
        *_vocabulary(training),
    ]


def _sets(training: Sequence[Prediction]) -> list[Claim]:
    found = table(training)
    first, second, memory = found["set_a"], found["set_b"], found["memory"]
    rows = [*time_rows(training), *memory_rows(training)]
    covered = sum(p.predicted is not None for p in rows) / max(len(rows), 1)
    return [
        Claim("set A: median error of time", first["median_ape"], 0.0, 0.10),
        Claim(
            "set A: median over the medians of sources", first["median_of_source_medians"], 0.0, 0.1
        ),
        Claim("set A: 90th percentile of the error", first["p90_ape"], 0.0, 0.30),
        Claim("set A: bias", first["bias"], 0.93, 1.07),
        Claim("set B: median error of time", second["median_ape"], 0.0, 0.20),
        Claim("memory: median error", memory["median_ape"], 0.0, 0.08),
        Claim("share of time and memory rows predicted", covered, 0.95, 1.0),
    ]


def _of(rows: Sequence[Prediction], source: str, metric: str | None = None) -> list[Prediction]:
    """Predicted rows of a source whose name starts so."""
    return [
        p
        for p in rows
        if p.row.source.startswith(source)
        and p.predicted is not None
        and metric in (None, p.row.metric)
    ]


def _korthikanti(rows: Sequence[Prediction]) -> list[Claim]:
    return [
        Claim(f"iteration time of {p.row.id}", p.ape or 0.0, 0.0, 0.10)
        for p in _of(rows, "arXiv:2205.05198", "iteration_s")
    ]


def _vtrain(rows: Sequence[Prediction]) -> list[Claim]:
    multi = _of(rows, "VIA-Research/vTrain data/ground_truth_multi", "iteration_s")
    if not multi:
        return []
    found = [Claim("vTrain, several nodes: mean error", _error(multi, "mape"), 0.0, 0.147)]
    groups = grouped(multi, lambda p: f"{p.row.model} on {p.row.num_devices}")
    for name, group in groups.items():
        rank = _error(group, "spearman")
        missed = "" if rank >= 0.9 else SCATTER
        found.append(Claim(f"rank correlation of {name}", rank, 0.9, 1.0, missed))
    return found


def _error(rows: Sequence[Prediction], name: str) -> float:
    value = errors(rows)[name]
    return float("nan") if value is None else value


def _folding(rows: Sequence[Prediction], oom: Sequence[Prediction]) -> list[Claim]:
    """MoE Parallel Folding: the order of the methods of Table 3, and what runs out of memory."""
    source = "arXiv:2504.14960 Tables 1 and 3"
    third = _of(rows, source, "mfu")
    found = []
    for model, group in grouped(third, lambda p: p.row.model).items():
        if len(group) > 1:
            wrong = _misordered(group)
            found.append(Claim(f"methods in the wrong order for {model}", wrong, 0, 0))
    if third:
        unfit = sum(not p.fits for p in third)
        found.append(Claim("runs of Folding that are predicted not to fit", unfit, 0, 0))
    for p in _of(oom, source, "oom"):
        found.append(Claim(f"{p.row.id} runs out of memory", p.predicted or 0.0, 1, 1))
    return found


def _misordered(group: Sequence[Prediction]) -> int:
    """Neighbours in the measured order that the prediction exchanges."""
    order = sorted(group, key=lambda p: p.row.value)
    values = [p.predicted or 0.0 for p in order]
    return int(np.sum(np.diff(values) <= 0))


def _vocabulary(rows: Sequence[Prediction]) -> list[Claim]:
    """Vocabulary Parallelism's baseline: how far MFU falls from 32k to 256k entries."""
    baseline = [
        p for p in _of(rows, "arXiv:2411.05288 Table 5", "mfu") if p.row.method == "baseline"
    ]

    def shape(p: Prediction) -> str:
        return f"{p.row.model.rsplit('-', 1)[0]} at {p.row.seq_len} tokens"

    found = []
    for name, group in grouped(baseline, shape).items():
        by_size = {p.row.model.rsplit("-", 1)[1]: p for p in group}
        if not {"v32k", "v256k"} <= set(by_size):
            continue
        small, large = by_size["v32k"], by_size["v256k"]
        ratio = _fall(small, large, predicted=True) / _fall(small, large, predicted=False)
        found.append(Claim(f"fall in MFU over the measured fall, {name}", ratio, 0.75, 1.25))
    return found


def _fall(small: Prediction, large: Prediction, *, predicted: bool) -> float:
    if predicted:
        return (small.predicted or 0.0) - (large.predicted or 0.0)
    return float(small.row.value - large.row.value)
