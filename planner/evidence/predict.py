"""Predict every row of a table: one estimate a run, one value a row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from planner.costs.kernels import peak
from planner.errors import PlannerError
from planner.evidence import defaults
from planner.evidence.cases import Case, Library, NotModelled, case_of
from planner.evidence.tables import TIME_METRICS, TRAINING_METRICS, Row
from planner.training.estimate import Estimate, estimate
from planner.training.flops import recomputed_flops, step_flops


@dataclass(frozen=True)
class Prediction:
    """A row with what the planner says about it; ``predicted`` is None where it was skipped."""

    row: Any
    """What was measured, by kind of table; all have ``id, source, metric, value, assumed``."""
    predicted: float | None
    reason: str = ""
    """Why it was skipped."""
    scored: bool = True
    """Whether it counts: a run's utilisation does not, where its time is known too."""
    fits: bool | None = None
    """Whether the predicted peak fits into the device's memory."""

    @property
    def ape(self) -> float | None:
        """Absolute error relative to the measured value."""
        if self.predicted is None:
            return None
        measured: float = self.row.value
        return abs(self.predicted - measured) / abs(measured)


@dataclass(frozen=True)
class Run:
    """A case and the estimate of the configuration that was taken for it."""

    case: Case
    estimate: Estimate


def fits(run: Run) -> bool:
    """Whether the predicted peak is within the device's usable memory."""
    return run.estimate.peak_memory <= run.case.cluster.accelerator.memory


def run_case(case: Case) -> Run:
    """Estimate the first configuration that fits, or the last of all when none does."""
    run: Run | None = None
    for configuration in case.configurations:
        found = estimate(case.model, case.cluster, case.job, configuration)
        run = Run(case, found)
        if fits(run):
            return run
    if run is None:
        raise NotModelled("no configuration follows from the row")
    return run


def predict_rows(rows: Iterable[Row], library: Library) -> list[Prediction]:
    """Predict rows in order; runs that share an id are estimated once."""
    rows = list(rows)
    timed = {row.id for row in rows if row.metric in TIME_METRICS}
    runs: dict[object, Run | str] = {}
    found = []
    for row in rows:
        if row.metric not in TRAINING_METRICS:
            found.append(Prediction(row, None, f"metric {row.metric!r} is not predicted"))
            continue
        # A table may say different things about the same run in different rows.
        key = (row.id, row.recompute, row.notes if "FSDP" not in row.notes else "")
        if key not in runs:
            runs[key] = _run(row, library)
        run = runs[key]
        if isinstance(run, str):
            found.append(Prediction(row, None, run))
            continue
        scored = row.metric in TIME_METRICS or row.metric in ("peak_memory_bytes", "oom")
        scored = scored or row.id not in timed
        found.append(Prediction(row, value(row, run), scored=scored, fits=fits(run)))
    return found


def _run(row: Row, library: Library) -> Run | str:
    try:
        return run_case(case_of(row, library))
    except (NotModelled, PlannerError) as error:
        return str(error)


def value(row: Row, run: Run) -> float:
    """What the planner predicts for a row's metric."""
    case, found = run.case, run.estimate
    devices = found.configuration.devices
    if row.metric == "iteration_s":
        return found.seconds
    if row.metric == "tokens_per_s_per_device":
        return case.job.global_batch * case.job.seq_len / found.seconds / devices
    if row.metric == "peak_memory_bytes":
        return found.peak_memory
    if row.metric == "oom":
        return float(not fits(run))
    counted = defaults.convention(row)
    flops = step_flops(case.model, case.job, counted)
    if row.metric == "hardware_tflops_per_device":
        recompute = found.configuration.recompute
        flops += recomputed_flops(case.model, case.job, recompute, counted)
    rate = flops / found.seconds / devices
    if row.metric == "mfu":
        return rate / (defaults.stated_peak(row) or peak(case.cluster.accelerator, "bf16"))
    return rate / 1e12
