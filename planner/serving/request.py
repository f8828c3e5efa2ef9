"""What was asked, checked and resolved: names became specs and fleets, lengths became traffic.

``Options`` are plain values as the user gave them and go into the result file, so that a plan can
be explained again from the file alone; ``resolve`` turns them into a ``Request``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from planner.costs.kernels import OPERAND_BYTES
from planner.costs.topology import network
from planner.errors import PlannerError
from planner.layers.inference import Runtime
from planner.placement.rank_skew import known_skew
from planner.serving.deployment import ARCHITECTURES, Means
from planner.serving.fleet import ROLES, Fleet
from planner.serving.lengths import Lengths, fixed_lengths
from planner.serving.question import Question, Targets
from planner.serving.traces import find_trace
from planner.specs.engine import Engine, Widths, find_engine
from planner.specs.folders import near
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.resolve import digest, resolve_cluster, resolve_model
from planner.specs.skew import RankSkew

OBJECTIVES = ("throughput", "price", "devices")
LONGEST = {"ttft": 120.0, "tpot": 2.0}
"""A bare number of seconds beyond this is taken for one of milliseconds."""


@dataclass(frozen=True)
class Options:
    """The options of a question, as given; None is 'not given'."""

    devices: int | None = None
    max_devices: int | None = None
    pools: tuple[str, ...] = ()
    isl: int | None = None
    osl: int | None = None
    trace: str | None = None
    ttft: float | None = None
    tpot: float | None = None
    end_to_end: float | None = None
    percentile: float | None = None
    variation: float | None = None
    rate: float | None = None
    concurrency: int | None = None
    architecture: str = "any"
    engine: str = "vllm"
    weights: str | None = None
    activations: str | None = None
    kv: str | None = None
    prefix_hit: float = 0.0
    draft_tokens: int | None = None
    acceptance: float | None = None
    loads: str | None = None
    placement: str = "contiguous"
    memory_fraction: float | None = None
    chunk: int | None = None
    objective: str = "throughput"
    price: float | None = None
    budget: float | None = None
    top: int = 10
    fixed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    baseline: Mapping[str, tuple[int, ...]] | None = None
    measured: float | None = None
    pareto: bool = False
    check: bool = False
    db: tuple[str, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """Options with everything looked up."""

    options: Options
    model: ModelSpec
    means: Means
    asked: Question
    engine: Engine
    widths: Widths
    architectures: tuple[str, ...]
    record: Mapping[str, Any]
    """What the result file says was asked."""


def resolve(
    model: str | Path | ModelSpec, cluster: str | Path | Cluster | None, options: Options
) -> Request:
    """Check the options and look everything up.

    Raises
    ------
    PlannerError
        If an option is wrong; the message names it.
    """
    _check_words(options)
    _check_numbers(options)
    _check_times(options)
    found = resolve_model(model, options.db)
    engine = _engine(options)
    widths = _widths(found, options)
    skew = known_skew(options.loads, options.placement, found)
    fleets = tuple(_fleets(cluster, options, found.hidden, widths, engine, skew))
    whole = options.max_devices is None and not options.pools
    budget = math.inf if options.budget is None else options.budget
    means = Means(fleets, budget, whole and options.budget is None, options.max_devices is not None)
    if options.budget is not None or options.objective == "price":
        _need_prices(fleets, "--budget" if options.budget is not None else "objective 'price'")
    asked = _question(options, means)
    names = tuple(ARCHITECTURES) if options.architecture == "any" else (options.architecture,)
    record = {
        "model": found.name if isinstance(model, ModelSpec) else str(model),
        "cluster": _name(cluster),
        **{key: _plain(value) for key, value in asdict(options).items()},
        "resolved": {
            "memory_fraction": engine.memory_fraction,
            "chunk": engine.chunk,
            **asdict(widths),
            "price": {fleet.name: fleet.price for fleet in fleets},
            "isl": asked.isl,
            "osl": asked.osl,
            "variation": asked.variation,
        },
        "digests": {
            "model": digest(found),
            **{_key(fleet, fleets): digest(fleet.cluster) for fleet in fleets},
        },
    }
    return Request(options, found, means, asked, engine, widths, names, record)


def _name(cluster: str | Path | Cluster | None) -> str | None:
    if cluster is None:
        return None
    return cluster.name if isinstance(cluster, Cluster) else str(cluster)


def _key(fleet: Fleet, fleets: tuple[Fleet, ...]) -> str:
    return "cluster" if len(fleets) == 1 else f"cluster {fleet.name}"


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _question(options: Options, means: Means) -> Question:
    if not 0.0 <= options.prefix_hit < 1.0:
        raise PlannerError(
            f"prefix_hit: found {options.prefix_hit!r}, expected a share from 0 to below 1."
        )
    if options.rate is not None and options.concurrency is not None:
        raise PlannerError("--concurrency: found together with --rate, expected one of them.")
    share = options.percentile
    if share is not None and not 50.0 <= share < 100.0:
        raise PlannerError(f"percentile: found {share:g}, expected 50 to below 100, such as 99.")
    lengths, variation = _traffic(options)
    limits = (options.ttft, options.tpot, options.end_to_end)
    return Question(
        lengths,
        hit=options.prefix_hit,
        drafts=float(options.draft_tokens or 0),
        acceptance=_acceptance(options),
        variation=variation,
        targets=Targets(*(math.inf if limit is None else limit for limit in limits)),
        percentile=None if share is None else share / 100.0,
        rate=options.rate,
        concurrency=None if options.concurrency is None else float(options.concurrency),
        whole=means.whole,
        fixed=options.fixed,
    )


def _acceptance(options: Options) -> float:
    """Chance that a draft is accepted; drafts and it belong together."""
    if (options.draft_tokens is None) != (options.acceptance is None):
        raise PlannerError("--draft-tokens: expected it and --acceptance, or neither.")
    found = options.acceptance or 0.0
    if not 0.0 <= found <= 1.0:
        raise PlannerError(f"acceptance: found {found!r}, expected a share up to 1.")
    return found


def _traffic(options: Options) -> tuple[Lengths, float]:
    """Lengths of requests, and how unevenly they come."""
    given = options.variation
    if options.trace is not None:
        if options.isl is not None or options.osl is not None:
            raise PlannerError("--trace: found together with --isl or --osl, expected one of them.")
        found = find_trace(options.trace)
        return found.lengths, found.variation if given is None else given
    if options.isl is None or options.osl is None:
        missing = "--isl" if options.isl is None else "--osl"
        raise PlannerError(f"{missing}: missing; expected mean tokens of a request, or --trace.")
    return fixed_lengths(options.isl, options.osl), 1.0 if given is None else given


def _fleets(
    cluster: str | Path | Cluster | None,
    options: Options,
    hidden: int,
    widths: Widths,
    engine: Engine,
    skew: RankSkew | None,
) -> Iterator[Fleet]:
    """The pools, or all devices of one cluster for any role."""
    if options.pools:
        if cluster is not None or options.devices or options.max_devices:
            raise PlannerError("--pool: found together with --cluster, expected one of them.")
        seen = set()
        for text in options.pools:
            role, name, devices = _pool(text)
            if (role, name) in seen:
                raise PlannerError(f"--pool: found {role}={name} twice, expected once.")
            seen.add((role, name))
            yield _fleet(role, name, devices, options, hidden, widths, engine, skew)
        return
    if cluster is None:
        raise PlannerError(
            "--cluster: missing; expected a name (roofplan show clusters), or --pool."
        )
    if (options.devices is None) == (options.max_devices is None):
        raise PlannerError("--devices: expected it or --max-devices, and not both.")
    number = options.devices or options.max_devices
    assert number is not None
    yield _fleet("any", cluster, number, options, hidden, widths, engine, skew)


def _fleet(
    role: str,
    cluster: str | Path | Cluster,
    devices: int,
    options: Options,
    hidden: int,
    widths: Widths,
    engine: Engine,
    skew: RankSkew | None,
) -> Fleet:
    found = resolve_cluster(cluster, options.db, options.overrides, options.price)
    if devices > found.max_devices:
        raise PlannerError(
            f"devices: found {devices}, expected at most {found.max_devices} of {found.name}."
        )
    net = network(found, devices)
    run = Runtime(found.accelerator, net, hidden, widths, engine, skew=skew)
    return Fleet(role, found, devices, run)


def _pool(text: str) -> tuple[str, str, int]:
    """``decode=h800-ib:64`` as role, cluster and devices."""
    role, equals, rest = text.partition("=")
    name, colon, devices = rest.rpartition(":")
    if not (equals and colon and name) or not devices.strip().isdecimal() or int(devices) < 1:
        raise PlannerError(f"--pool: found {text!r}, expected NAME=CLUSTER:DEVICES.")
    if role.strip() not in ROLES:
        raise PlannerError(
            f"--pool: found {role.strip()!r}{near(role, ROLES)}; expected one of"
            f" {', '.join(ROLES)}."
        )
    return role.strip(), name.strip(), int(devices)


def _need_prices(fleets: tuple[Fleet, ...], what: str) -> None:
    for fleet in fleets:
        if fleet.price is None:
            raise PlannerError(
                f"{what}: found no price of {fleet.name}, expected --price, such as 2.10/h."
            )


def _check_words(options: Options) -> None:
    for name, known in (("architecture", ("any", *ARCHITECTURES)), ("objective", OBJECTIVES)):
        found = getattr(options, name)
        if found not in known:
            raise PlannerError(
                f"{name}: found {found!r}{near(found, known)}; expected one of {', '.join(known)}."
            )
    if options.objective == "devices" and options.rate is None:
        raise PlannerError("objective 'devices': found no rate; expected requests per second.")


def _check_numbers(options: Options) -> None:
    whole = ("devices", "max_devices", "isl", "osl", "concurrency", "chunk", "top", "draft_tokens")
    if options.variation is not None and not 0.0 <= options.variation < math.inf:
        raise PlannerError(f"variation: found {options.variation!r}, expected 0 or more.")
    real = ("ttft", "tpot", "end_to_end", "percentile", "rate", "price", "budget", "measured")
    for name in (*whole, *real):
        value = getattr(options, name)
        if value is None:
            continue
        kind = int if name in whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
            expected = "a positive whole number" if name in whole else "a positive number"
            raise PlannerError(f"{name}: found {value!r}, expected {expected}.")


def _check_times(options: Options) -> None:
    for name, longest in LONGEST.items():
        value = getattr(options, name)
        if value is not None and value > longest:
            raise PlannerError(
                f"{name}: found {value:g} s, expected at most {longest:g} s; did you mean"
                f" {value:g}ms?"
            )


def _engine(options: Options) -> Engine:
    found = find_engine(options.engine)
    if options.memory_fraction is not None:
        if not 0.0 < options.memory_fraction <= 1.0:
            raise PlannerError(
                f"memory_fraction: found {options.memory_fraction!r}, expected a share up to 1."
            )
        found = replace(found, memory_fraction=options.memory_fraction)
    return found if options.chunk is None else replace(found, chunk=options.chunk)


def _widths(model: ModelSpec, options: Options) -> Widths:
    """Datatypes: those given, else the checkpoint's, else 16 bits."""
    published = (model.quantization or "bf16").partition("+")[0]
    known = tuple(OPERAND_BYTES)
    stored = options.weights or (published if published in known else "bf16")
    computed = options.activations or ("bf16" if stored in ("int4", "mxfp4") else stored)
    kv = options.kv or "bf16"
    for name, found in (("weights", stored), ("activations", computed), ("kv", kv)):
        if found not in known:
            raise PlannerError(
                f"{name}: found {found!r}{near(found, known)}; expected one of {', '.join(known)}."
            )
    return Widths(stored, computed, kv)
