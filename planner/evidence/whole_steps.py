"""Whole steps that were timed on real devices, beside what the planner says of them.

``data/whole_steps.csv`` is written by ``python -m planner.calibration.whole_steps``: decode and
prefill of real model shapes in CUDA graphs, and training steps under FSDP2, in plain PyTorch.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

from planner.costs.topology import network
from planner.layers.eager import unfused
from planner.layers.inference import Runtime, Split, Step
from planner.serving.iteration import Replica, iteration
from planner.serving.memory import memory, sequence_bytes
from planner.specs.catalog import find_cluster
from planner.specs.engine import Engine, Widths
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.models_catalog import find_model
from planner.training.plan import estimate_training

FILE = Path(__file__).with_name("data") / "whole_steps.csv"
CLUSTERS = {"h100-sxm": "dgx-h100", "h200-sxm": "hgx-h200"}
PLAIN = Engine("pytorch", "pytorch", 1 << 20, 1 << 20, 1.0)
"""Plain PyTorch in a CUDA graph: no engine, no host."""


@dataclass(frozen=True)
class WholeStep:
    """One timed step and its prediction; times [s], memory [B]."""

    cells: dict[str, str]
    seconds: float
    nbytes: float

    @property
    def phase(self) -> str:
        """decode, prefill or training."""
        return self.cells["phase"]

    @property
    def time_ratio(self) -> float:
        """Predicted over measured time."""
        return self.seconds / float(self.cells["seconds"])

    @property
    def memory_ratio(self) -> float:
        """Predicted over measured peak of allocated memory."""
        return self.nbytes / float(self.cells["allocated"])


@cache
def whole_steps() -> tuple[WholeStep, ...]:
    """Every row of the table with its prediction."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(_predicted(cells) for cells in csv.DictReader(file))


def _predicted(cells: dict[str, str]) -> WholeStep:
    cluster = _cluster(cells["accelerator"])
    spec = find_model(cells["model"])
    model = replace(spec, layers=spec.layers[: int(cells["layers"])], mtp_layers=())
    predict = _training if cells["phase"] == "training" else _inference
    return WholeStep(cells, *predict(cells, cluster, model))


@cache
def _cluster(accelerator: str) -> Cluster:
    return find_cluster(CLUSTERS[accelerator])


def _inference(cells: dict[str, str], cluster: Cluster, model: ModelSpec) -> tuple[float, float]:
    run = Runtime(cluster.accelerator, network(cluster, 1), model.hidden, Widths(), PLAIN)
    one, batch, tokens = np.ones(1), float(cells["batch"]), float(cells["tokens"])
    replica = Replica(Split(one, one, one, one), one)
    none = 0.0 * one
    decoding = cells["phase"] == "decode"
    if decoding:
        step = Step(none, one, none, batch * one, tokens * one, one)
    else:
        step = Step(batch * one, tokens * one, none, none, one, one)
    seconds = float(np.asarray(iteration(run, model, replica, step).seconds)[0])
    seconds += sum(
        float(np.asarray(part.seconds)[0])
        for layer in model.layers
        for part in unfused(run, layer, step)
    )
    held = memory(run, model, replica)
    cached = (
        batch * float(sequence_bytes(run, model, replica, tokens * one)[0]) if decoding else 0.0
    )
    widest = 2.0 * batch * (1.0 if decoding else tokens) * _widest(model)
    return seconds, float(held.weights[0]) + cached + widest


def _widest(model: ModelSpec) -> float:
    """Elements that a token keeps alive in the widest part of a layer."""
    part = model.layers[0].feedforward
    width = getattr(part, "width", 0) * getattr(part, "top_k", 1)
    return 3.0 * model.hidden + 4.0 * width


def _training(cells: dict[str, str], cluster: Cluster, model: ModelSpec) -> tuple[float, float]:
    batch = int(cells["batch"])
    plan = estimate_training(
        model,
        cluster,
        {"micro_batch": batch, "recompute": cells["recompute"], "dp": 1},
        devices=1,
        global_batch=batch,
        seq_len=int(cells["tokens"]),
        software="fsdp",
    )
    return float(plan.metrics["step_time"] or 0.0), float(plan.metrics["peak_memory"] or 0.0)


def errors(phase: str) -> Iterator[tuple[str, float, float, float, float]]:
    """Quantity, then median, 90th percentile and worst relative error, and median ratio."""
    rows = [row for row in whole_steps() if row.phase == phase]
    for name in ("time", "memory"):
        ratios = [getattr(row, f"{name}_ratio") for row in rows]
        misses = sorted(abs(ratio - 1.0) for ratio in ratios)
        yield (
            name,
            median(misses),
            float(np.quantile(misses, 0.9)),
            misses[-1],
            median(ratios),
        )


def section() -> list[str]:
    """Lines of the validation page."""
    lines = [
        "## Whole steps on a real device",
        "",
        "Decode and prefill in CUDA graphs and training under FSDP2, plain PyTorch on one H100 and",
        "one H200, measured with `python -m planner.calibration.whole_steps`; no parameter was",
        "fitted on them.",
        "Kernels that plain code does not fuse are counted in `layers/eager.py`.",
        "",
        "| phase | quantity | rows | median error | 90 % | worst | predicted / measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for phase in ("decode", "prefill", "training"):
        rows = sum(row.phase == phase for row in whole_steps())
        for name, middle, most, worst, ratio in errors(phase):
            numbers = " | ".join(f"{100.0 * value:.1f} %" for value in (middle, most, worst))
            lines.append(f"| {phase} | {name} | {rows} | {numbers} | {ratio:.2f} |")
    lines += ["", "| device | step | measured | predicted | peak memory | predicted |"]
    lines.append("|---|---|---|---|---|---|")
    for row in whole_steps():
        cells = row.cells
        step = f"{cells['phase']} {cells['model']}, {cells['layers']} layers,"
        step += f" {cells['batch']} x {cells['tokens']}"
        step += ", recompute" if cells["recompute"] == "full" else ""
        times = f"{1e3 * float(cells['seconds']):.2f} ms | {1e3 * row.seconds:.2f} ms"
        sizes = f"{float(cells['allocated']) / 1e9:.1f} GB | {row.nbytes / 1e9:.1f} GB"
        lines.append(f"| {cells['accelerator']} | {step} | {times} | {sizes} |")
    lines += [
        "",
        "Where it is wrong: mixtures of experts in plain PyTorch scatter tokens back with atomic",
        "additions, which are not modelled; short training steps wait for the host; single small",
        "kernels in a graph take a microsecond or two more than their fitted launch.",
        "",
    ]
    return lines
