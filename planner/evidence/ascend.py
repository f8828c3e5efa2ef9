"""Runs on Ascend A2 servers whose source names neither the 910B variant nor the layout.

A run's two metrics give the sequences that it generates at a time by Little's law: rate x time of a
token.  At this load each of them has to lie between the predictions for the best and the worst
variant, legal layout and use of drafts; the source (SGLang's recipes for Ascend) speculates in some
of its runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from planner.costs.topology import network
from planner.evidence.cases import Library
from planner.evidence.defaults import CLUSTERS
from planner.evidence.serving import ServingRow, widths_of
from planner.layers.inference import Array, Runtime, Split
from planner.serving.aggregated import Load, steady
from planner.serving.iteration import Replica
from planner.specs.engine import ENGINES

UNNAMED = "ascend-910b"
VARIANTS = ("ascend-910b1", "ascend-910b2", "ascend-910b3", "ascend-910b4")
DRAFTS, ACCEPTANCE = (0.0, 3.0), 0.7
"""No speculation, or SGLang's usual chain of three drafts, taken as often as DeepSeek's head."""
ROUNDS = 6
"""Steps from the sequences that generate to the requests in flight."""
RATE, TIME = "output_tokens_per_s_per_device", "tpot_mean_s"


def bracketed(
    rows: Sequence[ServingRow], library: Library
) -> dict[str, tuple[float, float, float]]:
    """Lowest prediction, measurement and highest prediction of both metrics of every such run."""
    found = {}
    runs = {row.id for row in rows if row.cells["accelerator"] == UNNAMED}
    for name in sorted(runs):
        values = {row.metric: row for row in rows if row.id == name}
        rate, time = values[RATE], values[TIME]
        devices = rate.number("num_devices", 1.0)
        generating = rate.value * devices * time.value
        states = list(_states(rate, library, int(devices), generating))
        for row, part in ((rate, 0), (time, 1)):
            all_ = np.concatenate([state[part] for state in states])
            all_ = all_[np.isfinite(all_) & (all_ > 0.0)]
            found[f"{name} {row.metric}"] = (float(all_.min()), row.value, float(all_.max()))
    return found


def _states(
    row: ServingRow, library: Library, devices: int, generating: float
) -> Iterable[tuple[Array, Array]]:
    """Output tokens per second and device, and time of a token, of every legal layout."""
    model, engine = library.model(row.cells["model"]), ENGINES["sglang"]
    ways = [float(tp) for tp in range(1, devices + 1) if devices % tp == 0]
    tp, drafts = np.array(list(product(ways, DRAFTS))).T
    one = np.ones_like(tp)
    split = Split(tp, devices / tp, one, devices * one)
    isl, osl = (row.number(name, 1.0) * one for name in ("isl", "osl"))
    for variant in VARIANTS:
        cluster = library.cluster(CLUSTERS[variant])
        net = network(cluster, devices)
        run = Runtime(cluster.accelerator, net, model.hidden, widths_of(row, model), engine)
        inside = generating * one
        for _ in range(ROUNDS):
            load = Load(isl, osl, inside, 0.0 * one, np.inf * one, one, drafts, ACCEPTANCE * one)
            state = steady(run, model, Replica(split, one), load)
            fits = np.isfinite(state.ttft)
            life = osl * np.where(fits, state.tpot, 1.0)
            waiting = np.where(fits, state.ttft, 0.0) / life
            inside = generating * (1.0 + waiting)
        yield state.throughput / devices, state.tpot
