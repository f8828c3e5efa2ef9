"""Ask for deployments: ``plan_serving`` ranks the ways to serve a model, ``estimate_serving`` costs
one.  The command line adds nothing to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.results.plan import Plan
from planner.results.ranking import Ranking
from planner.serving.axes import AxisValues, fixed_values, parse_deployment
from planner.serving.rank import rank
from planner.serving.request import Options, resolve
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec


def plan_serving(
    model: str | Path | ModelSpec,
    cluster: str | Path | Cluster | None = None,
    *,
    devices: int | None = None,
    max_devices: int | None = None,
    pool: Sequence[str] = (),
    isl: int | None = None,
    osl: int | None = None,
    trace: str | Path | None = None,
    ttft: float | None = None,
    tpot: float | None = None,
    end_to_end: float | None = None,
    percentile: float | None = None,
    variation: float | None = None,
    rate: float | None = None,
    concurrency: int | None = None,
    architecture: str = "any",
    engine: str = "vllm",
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    prefix_hit: float = 0.0,
    draft_tokens: int | None = None,
    acceptance: float | None = None,
    loads: str | None = None,
    placement: str = "contiguous",
    memory_fraction: float | None = None,
    chunk: int | None = None,
    objective: str = "throughput",
    price: float | None = None,
    budget: float | None = None,
    fixed: Mapping[str, AxisValues] | None = None,
    baseline: str | Mapping[str, AxisValues] | None = None,
    measured: float | None = None,
    pareto: bool = False,
    check: bool = False,
    top: int = 10,
    db: Iterable[str | Path] = (),
    overrides: Mapping[str, str] | None = None,
) -> Ranking:
    """Rank the ways to serve a model on machines.

    Parameters
    ----------
    model, cluster : str, Path or object
        A name in the databases, a path (``config.json``, a YAML file), or a specification.
    devices : int
        Devices to use; those that stay idle count.
    max_devices : int
        Instead: devices that may be used; only those that are used count.
    pool : sequence of str
        Instead of a cluster: ``ROLE=CLUSTER:DEVICES`` each, with the roles any, prefill, decode,
        attention and ffn; devices that stay idle do not count.
    isl, osl : int
        Input and output tokens of every request.
    trace : str or Path
        Instead: a trace (Azure's CSV, Mooncake's JSONL), a YAML summary of lengths, or the name of
        a summary (``serving.traces.summary_names``).
    ttft, tpot, end_to_end : float
        Longest time to the first token, of a further one and of a request [s].
    percentile : float
        Per cent of the requests that must meet ``ttft``, and as many ``tpot``; means without it.
    variation : float
        Coefficient of variation of the times between arrivals; by default the trace's, else 1.
    rate : float
        Requests per second to serve; None for as many as possible.
    concurrency : int
        Instead: requests in flight over the whole deployment, each replaced when it ends.
    architecture : str
        A name in ``deployment.ARCHITECTURES``, or ``any``.
    engine : str
        A name in ``specs.engine``.
    weights, activations, kv : str
        Datatypes; by default what the checkpoint says, else bf16.
    prefix_hit : float
        Part of the input that is in the prefix cache.
    draft_tokens, acceptance : int, float
        Tokens that every step drafts for a sequence, and the chance that one is right.
    loads, placement : str
        Loads of experts, a file or a preset (``placement.generate.PRESETS``), and how they are
        placed: ``contiguous`` or ``balanced``; without, ranks of experts are loaded evenly.
    memory_fraction, chunk : float, int
        Instead of the engine's.
    objective : str
        ``throughput`` for each device that counts, ``price`` of a token, or ``devices``: fewest for
        the rate.
    price : float
        US dollars per device-hour, instead of the database's.
    budget : float
        US dollars per hour that the devices may cost.
    fixed : mapping
        Values of axes (``serving.axes``); with all of them the answer is one deployment.
    baseline, measured : str or mapping, float
        What runs today, such as ``tp=8,replicas=4``, and its measured TPOT [s], by which every
        time is scaled.
    pareto : bool
        Also find the front of tokens/s for a user against tokens/s for a device.
    check : bool
        Replay the best plans in a simulation of single requests.

    Raises
    ------
    PlannerError
        If an option is wrong; the message names it.
    Infeasible
        If no deployment meets the targets; the message says which fails first and by how much.
    """
    options = Options(
        devices=devices,
        max_devices=max_devices,
        pools=tuple(pool),
        isl=isl,
        osl=osl,
        trace=None if trace is None else str(trace),
        ttft=ttft,
        tpot=tpot,
        end_to_end=end_to_end,
        percentile=percentile,
        variation=variation,
        rate=rate,
        concurrency=concurrency,
        architecture=architecture,
        engine=engine,
        weights=weights,
        activations=activations,
        kv=kv,
        prefix_hit=prefix_hit,
        draft_tokens=draft_tokens,
        acceptance=acceptance,
        loads=loads,
        placement=placement,
        memory_fraction=memory_fraction,
        chunk=chunk,
        objective=objective,
        price=price,
        budget=budget,
        top=top,
        fixed=fixed_values(fixed or {}),
        baseline=None if baseline is None else parse_deployment(baseline),
        measured=measured,
        pareto=pareto,
        check=check,
        db=tuple(map(str, db)),
        overrides=dict(overrides or {}),
    )
    return rank(resolve(model, cluster, options))


def estimate_serving(
    model: str | Path | ModelSpec,
    cluster: str | Path | Cluster | None = None,
    *,
    deployment: str | Mapping[str, AxisValues],
    **options: Any,
) -> Plan:
    """Cost one deployment: the first plan of ``plan_serving`` with the axes fixed.

    Parameters
    ----------
    deployment : str or mapping
        Values of axes (``serving.axes``), such as ``tp=8,replicas=4``.
    **options
        Those of ``plan_serving``.
    """
    fixed = parse_deployment(deployment)
    return plan_serving(model, cluster, fixed=fixed, **{**options, "top": 1}).plan(1)
