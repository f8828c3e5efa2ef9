"""Ask for deployments: ``plan_serving`` ranks the ways to serve a model on a cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.costs.kernels import OPERAND_BYTES
from planner.costs.topology import network
from planner.errors import Infeasible, PlannerError
from planner.layers.inference import Runtime
from planner.results.bands import expected_errors
from planner.results.format import show
from planner.results.ranking import Ranking
from planner.serving.deployments import (
    Columns,
    Deployment,
    Question,
    aggregated_columns,
    compose_aggregated,
    compose_disaggregated,
    decode_columns,
    prefill_columns,
)
from planner.serving.report import COLUMNS, DEFINITIONS, make_plan
from planner.serving.space import replicas
from planner.specs.engine import Engine, Widths, find_engine
from planner.specs.folders import near
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.resolve import digest, resolve_cluster, resolve_model

KIND = "serving"
ARCHITECTURES = ("any", "aggregated", "disaggregated")
OBJECTIVES = ("throughput", "devices")
LONGEST = {"ttft": 120.0, "tpot": 2.0}
"""A bare number of seconds beyond this is taken for one of milliseconds."""


def plan_serving(
    model: str | Path | ModelSpec,
    cluster: str | Path | Cluster,
    *,
    devices: int,
    isl: int,
    osl: int,
    ttft: float | None = None,
    tpot: float | None = None,
    rate: float | None = None,
    architecture: str = "any",
    engine: str = "vllm",
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    prefix_hit: float = 0.0,
    memory_fraction: float | None = None,
    chunk: int | None = None,
    objective: str = "throughput",
    price: float | None = None,
    top: int = 10,
    db: Iterable[str | Path] = (),
    overrides: Mapping[str, str] | None = None,
) -> Ranking:
    """Rank the ways to serve a model on a cluster.

    Parameters
    ----------
    model, cluster : str, Path or object
        A name in the databases, a path (``config.json``, a YAML file), or a specification.
    devices : int
        Devices to use at most; those that stay idle count.
    isl, osl : int
        Mean input and output tokens of a request.
    ttft, tpot : float
        Longest mean time to the first token and of a further one [s].
    rate : float
        Requests per second to serve; None for as many as possible.
    architecture : str
        ``aggregated`` (the same replicas prefill and decode), ``disaggregated`` or ``any``.
    engine : str
        A name in ``specs.engine``.
    weights, activations, kv : str
        Datatypes; by default what the checkpoint says, else bf16.
    prefix_hit : float
        Part of the input that is in the prefix cache.
    memory_fraction, chunk : float, int
        Instead of the engine's.
    objective : str
        ``throughput``, or ``devices``: fewest for the rate.
    price : float
        US dollars per device-hour, instead of the database's.

    Raises
    ------
    PlannerError
        If an option is wrong; the message names it.
    Infeasible
        If no deployment meets the targets; the message says which fails first and by how much.
    """
    start = time.perf_counter()
    words = {"architecture": (architecture, ARCHITECTURES), "objective": (objective, OBJECTIVES)}
    _check_words(words)
    given = {"devices": devices, "isl": isl, "osl": osl, "top": top}
    _check_numbers(given, whole=True)
    _check_numbers({"rate": rate, "ttft": ttft, "tpot": tpot, "price": price})
    _check_times(ttft, tpot)
    if objective == "devices" and rate is None:
        raise PlannerError("objective 'devices': found no rate; expected requests per second.")
    found_model = resolve_model(model, db)
    found_cluster = resolve_cluster(cluster, db, overrides or {}, price)
    if devices > found_cluster.max_devices:
        raise PlannerError(
            f"devices: found {devices}, expected at most {found_cluster.max_devices} of"
            f" {found_cluster.name}."
        )
    found_engine = _engine(engine, memory_fraction, chunk)
    widths = _widths(found_model, weights, activations, kv)
    net = network(found_cluster, devices)
    device = found_cluster.accelerator
    run = Runtime(device, net, found_model.hidden, widths, found_engine)
    question = Question(
        float(isl),
        float(osl),
        _share(prefix_hit),
        math.inf if ttft is None else ttft,
        math.inf if tpot is None else tpot,
        devices,
        rate,
        found_cluster.price_per_hour,
    )
    deployments, counts = _search(run, found_model, found_cluster, question, architecture)
    order = sorted(deployments, key=lambda one: _merit(one, objective))
    bands = expected_errors(KIND, device.generation)
    plans = tuple(
        make_plan(run, found_model, one, question, bands, rank)
        for rank, one in enumerate(order[:top], start=1)
    )
    inputs: dict[str, Any] = {
        "model": found_model.name if isinstance(model, ModelSpec) else str(model),
        "cluster": found_cluster.name if isinstance(cluster, Cluster) else str(cluster),
        **given,
        **{"ttft": ttft, "tpot": tpot, "rate": rate, "prefix_hit": prefix_hit},
        **{"architecture": architecture, "engine": engine, "objective": objective},
        **{"memory_fraction": found_engine.memory_fraction, "chunk": found_engine.chunk},
        **{"weights": widths.weights, "activations": widths.activations, "kv": widths.kv},
        "price": found_cluster.price_per_hour,
        "overrides": dict(overrides or {}),
        "digests": {"model": digest(found_model), "cluster": digest(found_cluster)},
    }
    seconds = time.perf_counter() - start
    search = {
        "candidates": counts["columns"] + counts["compositions"],
        **counts,
        "evaluated": counts["columns"],
        "seconds": seconds,
    }
    return Ranking(KIND, plans, inputs, search, DEFINITIONS, COLUMNS, bands)


def _search(
    run: Runtime, model: ModelSpec, cluster: Cluster, asked: Question, architecture: str
) -> tuple[list[Deployment], dict[str, int]]:
    """All deployments that meet the targets, and how many columns and compositions there were."""
    layouts = replicas(model, cluster, asked.devices)
    tables: list[Columns] = []
    found: list[Deployment] = []
    compositions = 0
    if architecture != "disaggregated":
        both = aggregated_columns(run, model, layouts, asked)
        tables.append(both)
        found += compose_aggregated(both, asked)
        compositions += len(both.batch)
    if architecture != "aggregated":
        prefill = prefill_columns(run, model, layouts, asked)
        decode = decode_columns(run, model, layouts, asked)
        tables += [prefill, decode]
        found += compose_disaggregated(prefill, decode, asked)
        compositions += len(prefill.batch) * len(decode.batch)
    if not found:
        raise _infeasible(tables, model, run, asked)
    return found, {
        "columns": sum(len(one.batch) for one in tables),
        "compositions": compositions,
    }


def _merit(found: Deployment, objective: str) -> tuple[float, ...]:
    """Better first; ties go to fewer devices, then to fewer and smaller replicas."""
    layout = (found.count, *found.replica.split.tp, *found.replica.split.ep, *found.replica.pp)
    if objective == "devices":
        return (found.devices, -found.requests, *layout)
    return (-round(found.requests, 9), found.devices, *layout, found.tpot)


def _infeasible(
    tables: list[Columns], model: ModelSpec, run: Runtime, asked: Question
) -> Infeasible:
    """Which target fails first, and by how much."""
    if not any(len(one.batch) for one in tables):
        return Infeasible(
            f"{model.name} does not fit: no layout of up to {asked.devices} {run.device.name} has"
            f" room for weights in {run.widths.weights} and one sequence of"
            f" {asked.isl + asked.osl:.0f} tokens."
        )
    for name, limit in (("tpot", asked.tpot), ("ttft", asked.ttft)):
        values = [getattr(one, name) for one in tables]
        least = min((float(v[v > 0].min()) for v in values if np.any(v > 0)), default=0.0)
        if least > limit:
            return Infeasible(
                f"no deployment meets {name} {show(limit, 's')}: the fastest takes"
                f" {show(least, 's')}, {least / limit:.2g} times as long."
            )
    if asked.rate is not None:
        return Infeasible(
            f"no deployment of {asked.devices} devices serves {asked.rate:g} requests per second"
            " within the targets; expected more devices or a lower rate."
        )
    return Infeasible("no deployment meets both ttft and tpot; each alone can be met.")


def _check_words(words: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
    for name, (found, known) in words.items():
        if found not in known:
            raise PlannerError(
                f"{name}: found {found!r}{near(found, known)}; expected one of {', '.join(known)}."
            )


def _check_numbers(given: Mapping[str, float | None], *, whole: bool = False) -> None:
    for name, value in given.items():
        if value is None:
            continue
        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
            expected = "a positive whole number" if whole else "a positive number"
            raise PlannerError(f"{name}: found {value!r}, expected {expected}.")


def _check_times(ttft: float | None, tpot: float | None) -> None:
    for name, value in (("ttft", ttft), ("tpot", tpot)):
        if value is not None and value > LONGEST[name]:
            raise PlannerError(
                f"{name}: found {value:g} s, expected at most {LONGEST[name]:g} s; did you mean"
                f" {value:g}ms?"
            )


def _share(value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise PlannerError(f"prefix_hit: found {value!r}, expected a share from 0 to below 1.")
    return value


def _engine(name: str, memory_fraction: float | None, chunk: int | None) -> Engine:
    found = find_engine(name)
    if memory_fraction is not None:
        if not 0.0 < memory_fraction <= 1.0:
            raise PlannerError(
                f"memory_fraction: found {memory_fraction!r}, expected a share up to 1."
            )
        found = replace(found, memory_fraction=memory_fraction)
    if chunk is not None:
        _check_numbers({"chunk": chunk}, whole=True)
        found = replace(found, chunk=chunk)
    return found


def _widths(
    model: ModelSpec, weights: str | None, activations: str | None, kv: str | None
) -> Widths:
    """Datatypes: those given, else the checkpoint's, else 16 bits."""
    published = (model.quantization or "bf16").partition("+")[0]
    known = tuple(OPERAND_BYTES)
    stored = weights or (published if published in known else "bf16")
    computed = activations or ("bf16" if stored in ("int4", "mxfp4") else stored)
    for name, found in (("weights", stored), ("activations", computed), ("kv", kv or "bf16")):
        if found not in known:
            raise PlannerError(
                f"{name}: found {found!r}{near(found, known)}; expected one of {', '.join(known)}."
            )
    return Widths(stored, computed, kv or "bf16")
