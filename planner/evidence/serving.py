"""Predict every row of a table of inference runs.

A run is an engine on a replica under a load; what its source does not say follows the rules here,
which never look at the value that was measured.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from planner.costs.topology import network
from planner.errors import PlannerError
from planner.evidence.cases import Library
from planner.evidence.defaults import CLUSTERS
from planner.evidence.predict import Prediction
from planner.layers.inference import Array, Runtime, Split
from planner.serving.aggregated import Load, Steady, at_rate, most_running, steady
from planner.serving.disaggregated import Pool, decode_seconds, disaggregated, prefill_seconds
from planner.serving.iteration import Replica
from planner.specs.engine import ENGINES, Engine, Widths
from planner.specs.model import ModelSpec

DEFAULTS = {
    "engine": "an engine that is not known runs as the generic one",
    "activations": "as wide as the weights; 16 bits for weight-only int4 and mxfp4",
    "fp8": "scaled in blocks where the published checkpoint is",
    "kv": "fp8 where vLLM or TensorRT-LLM serves weights of 8 bits or fewer, as the scripts of"
    " InferenceX do, else 16 bits",
    "tp": "all devices of the run, or attention data-parallel over them where experts are spread",
    "memory": "95 % of the device where the engine's own share has no room for one sequence",
    "ascend-910c": "a package is two dies, each a device",
    "isl": "4096 tokens",
    "waves": "every place is taken ten times, the first time all at once",
    "lengths": "InferenceX draws lengths from 0.8 to 1 of the stated ones; all others are equal",
    "drafts": "CloudMatrix-Infer drafts one token, taken in 7 of 10 steps (arXiv 2506.12708)",
    "load": "latencies are predicted only where requests in flight or a rate are stated",
}
"""What a row is taken to mean where its source does not say."""

WAVES = 10.0
RANDOM_LENGTHS = "InferenceX"
ISL = 4096.0
DIES = {"ascend-910c": ("cloudmatrix384-die", 2)}
"""Packages that a framework sees as several devices: their cluster, and how many."""
SPECULATION = {"cloudmatrix-infer": (1.0, 0.7)}
"""Drafts of a step, and their acceptance, of engines that are known to speculate always."""
FULL = 0.95
UNLIMITED = 1e6
"""Requests in flight of a run that sends all at once."""
METRICS = {
    "tpot_mean_s": "tpot",
    "ttft_mean_s": "ttft",
}


@dataclass(frozen=True)
class ServingRow:
    """One measured value of one inference run; ``cells`` holds the run as the table has it."""

    id: str
    source: str
    metric: str
    value: float
    cells: Mapping[str, str]
    assumed: frozenset[str] = frozenset()

    def number(self, name: str, default: float) -> float:
        """A cell as a number, or what an empty one means."""
        text = self.cells[name].strip()
        return float(text) if text else default


def read_serving(path: Path) -> list[ServingRow]:
    """Read a serving table.

    Raises
    ------
    PlannerError
        When a column is missing or a value is not a number.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for name in ("id", "source", "model", "engine", "mode", "isl", "osl", "metric", "value"):
            if name not in (reader.fieldnames or ()):
                raise PlannerError(f"{path}: found no column {name!r}, expected a serving table.")
        return [_row(path, line, cells) for line, cells in enumerate(reader, start=2)]


def _row(path: Path, line: int, cells: dict[str, str]) -> ServingRow:
    try:
        value = float(cells["value"])
    except ValueError:
        raise PlannerError(
            f"{path}: line {line}, value: found {cells['value']!r}, expected a number."
        ) from None
    return ServingRow(cells["id"], cells["source"], cells["metric"], value, cells)


def predict_serving(
    rows: Iterable[ServingRow], library: Library, engines: Mapping[str, Engine] = ENGINES
) -> list[Prediction]:
    """Predict the rows, those of one model, machine and engine together."""
    given = list(rows)
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(given):
        groups.setdefault(_key(row), []).append(index)
    found: list[Prediction] = [Prediction(row, None) for row in given]
    for indices in groups.values():
        some = [given[index] for index in indices]
        try:
            values: Iterable[float | None] = _predict(some, library, engines)
            reason = ""
        except PlannerError as error:
            values, reason = [None] * len(some), str(error)
        for index, value in zip(indices, values, strict=True):
            if value is not None and not np.isfinite(value):
                value, reason = None, "lengths or requests in flight are not stated"
            why = reason or ("" if value is not None else "the metric is not predicted")
            found[index] = Prediction(given[index], value, why)
    return found


_SHARED = (
    *("model", "accelerator", "num_devices", "engine", "weight_dtype", "activation_dtype"),
    *("kv_dtype", "mode"),
)


def _key(row: ServingRow) -> tuple[str, ...]:
    """What rows that are predicted together share."""
    return (*(row.cells[name] for name in _SHARED), row.cells["request_rate"])


def _predict(
    rows: list[ServingRow], library: Library, engines: Mapping[str, Engine]
) -> list[float | None]:
    first = rows[0]
    if first.cells["accelerator"] not in CLUSTERS:
        raise PlannerError(f"unknown accelerator {first.cells['accelerator']!r}")
    model = library.model(first.cells["model"])
    accelerator = first.cells["accelerator"]
    name, _ = DIES.get(accelerator, (CLUSTERS[accelerator], 1))
    cluster = library.cluster(name)
    devices = int(first.number("num_devices", 1.0)) * dies(first)
    engine = engines.get(first.cells["engine"], engines["generic"])
    node = cluster.devices_per_node
    whole_nodes = devices if devices < node else -(-devices // node) * node
    net = network(cluster, whole_nodes)
    run = Runtime(cluster.accelerator, net, model.hidden, widths_of(first, model), engine)
    replica, load = replica_of(rows), load_of(rows)
    if np.any(most_running(run, model, replica, load) < 1.0):
        engine = replace(engine, memory_fraction=FULL, of_free=False)
        run = replace(run, engine=engine)
    mode, rate = first.cells["mode"], first.cells["request_rate"]
    whole = replica.devices / dies(first)
    if mode == "disaggregated":
        pools = [pool_of(rows, run, role) for role in ("prefill", "decode")]
        whole = sum((pool.count * pool.replica.devices for pool in pools), np.zeros(len(rows)))
        state = disaggregated(pools[0], pools[1], model, load)
    elif mode == "prefill":
        return _prefill_values(rows, Pool(run, replica, np.ones(len(rows))), model, load)
    elif rate not in ("", "inf"):
        state = at_rate(run, model, replica, load, np.full(len(rows), float(rate)))
    elif mode == "decode":
        state = _decode_state(run, replica, model, load)
    else:
        state = steady(run, model, replica, load)
    return [_value(row, state, whole, index) for index, row in enumerate(rows)]


def _decode_state(run: Runtime, replica: Replica, model: ModelSpec, load: Load) -> Steady:
    """Decoding alone, at a context of ``isl`` tokens."""
    held = replace(load, osl=np.zeros_like(load.osl))
    limit = most_running(run, model, replica, held)
    running = np.minimum(load.concurrency / replica.split.attention_dp, limit)
    running = np.maximum(running, 1.0)
    tpot = decode_seconds(Pool(run, replica, np.ones_like(running)), model, held, running)
    throughput = running * replica.split.attention_dp / tpot
    return Steady(running, limit, tpot, np.full_like(tpot, np.nan), throughput, 0.0 * tpot)


def _prefill_values(
    rows: list[ServingRow], pool: Pool, model: ModelSpec, load: Load
) -> list[float | None]:
    """Prompts on each attention rank: as many together as are in flight, where that is stated."""
    each = np.maximum(load.concurrency / pool.replica.split.attention_dp, 1.0)
    several = np.where(load.concurrency < UNLIMITED, each, 1.0)
    prompt = prefill_seconds(pool, model, load.isl, load.hit, several) / several
    devices = pool.replica.devices / dies(rows[0])
    rate = pool.replica.split.attention_dp * load.isl / prompt / devices
    found = {
        "ttft_mean_s": pool.run.engine.first + prompt,
        "input_tokens_per_s_per_device": rate,
    }
    return [
        float(found[row.metric][index]) if row.metric in found else None
        for index, row in enumerate(rows)
    ]


def pool_of(rows: list[ServingRow], run: Runtime, role: str) -> Pool:
    """The replicas of one role of a disaggregated run."""
    tp = np.array([row.number(f"{role}_tp", 1.0) for row in rows])
    dp = np.array([row.number(f"{role}_attention_dp", 1.0) for row in rows])
    ep = np.array([row.number(f"{role}_ep", 1.0) for row in rows])
    workers = np.array([row.number(f"{role}_workers", 1.0) for row in rows])
    return Pool(run, Replica(Split(tp, dp, ep, tp * dp / ep), np.ones(len(rows))), workers)


def dies(row: ServingRow) -> int:
    """Devices in what the table counts as one."""
    return DIES.get(row.cells["accelerator"], ("", 1))[1]


def widths_of(row: ServingRow, model: ModelSpec) -> Widths:
    """Datatypes of a run."""
    weights = row.cells["weight_dtype"] or "bf16"
    if weights == "fp8" and (model.quantization or "").startswith("fp8_block"):
        weights = "fp8_block"
    narrow = weights not in ("bf16", "fp16", "fp32")
    activations = row.cells["activation_dtype"] or weights
    if activations == "fp8" and weights == "fp8_block":
        activations = weights
    if weights in ("int4", "mxfp4"):
        activations = "bf16"
    eight = narrow and row.cells["engine"] in ("vllm", "tensorrt-llm")
    kv = row.cells["kv_dtype"] or ("fp8" if eight else "bf16")
    return Widths(weights, activations, "bf16" if kv == "fp16" else kv)


def replica_of(rows: list[ServingRow]) -> Replica:
    """The layout of every row."""
    pp = np.array([row.number("pp", 1.0) for row in rows])
    dp = np.array([row.number("attention_dp", 1.0) for row in rows])
    devices = np.array([row.number("num_devices", 1.0) for row in rows])
    tp = np.array([row.number("tp", 0.0) for row in rows])
    ep = np.array([row.number("ep", 1.0) for row in rows])
    devices = devices * dies(rows[0])
    wide = (tp == 0) & (ep > 1)
    dp = np.where(wide, devices / pp, dp)
    tp = np.where(wide, 1.0, np.where(tp > 0, tp, np.maximum(devices / (pp * dp), 1.0)))
    return Replica(Split(tp, dp, ep, tp * dp / ep), pp)


def load_of(rows: list[ServingRow]) -> Load:
    """The load of every row."""
    return Load(
        isl=np.array([row.number("isl", ISL) for row in rows]),
        osl=np.array([row.number("osl", 1.0) for row in rows]),
        concurrency=np.array([row.number("concurrency", UNLIMITED) for row in rows]),
        hit=np.array([row.number("prefix_hit", 0.0) for row in rows]),
        waves=np.full(len(rows), WAVES),
        fixed=np.array([0.0 if RANDOM_LENGTHS in row.source else 1.0 for row in rows]),
        drafts=np.array([SPECULATION.get(row.cells["engine"], (0.0, 0.0))[0] for row in rows]),
        acceptance=np.array([SPECULATION.get(row.cells["engine"], (0.0, 0.0))[1] for row in rows]),
    )


def _value(row: ServingRow, state: Steady, devices: Array, index: int) -> float | None:
    """The metric of a row, or None where it is not predicted."""
    if row.metric in METRICS:
        if row.cells["request_rate"] in ("", "inf") and not row.cells["concurrency"]:
            return None  # latency is that of a load, and none is stated
        return float(getattr(state, METRICS[row.metric])[index])
    output = state.throughput[index] / devices[index]
    isl, osl = row.number("isl", ISL), row.number("osl", 1.0)
    factors = {"output": 1.0, "input": isl / osl, "total": 1.0 + isl / osl}
    kind, _, rest = row.metric.partition("_")
    if rest != "tokens_per_s_per_device" or kind not in factors:
        return None
    return float(output * factors[kind])
