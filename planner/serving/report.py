"""From a deployment to the plan that a user reads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from planner.costs.imbalance import POPULARITY
from planner.costs.tree import leaf, seq
from planner.launch.engines import Server, express
from planner.layers.inference import Runtime, Step
from planner.results.bands import UNLIKE, Band
from planner.results.breakdown import from_cost
from planner.results.plan import Assumption, Metric, Plan
from planner.results.ranking import Column
from planner.serving.aggregated import most_running
from planner.serving.deployments import Deployment, Question
from planner.serving.iteration import Replica, iteration
from planner.serving.memory import memory, sequence_bytes
from planner.specs.model import ModelSpec

DEFINITIONS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("devices", "count", "devices that the replicas take"),
        Metric("output_tokens_per_s", "tokens/s", "output tokens of all replicas"),
        Metric(
            "tokens_per_s_per_device",
            "tokens/s",
            "output tokens over the devices asked for; those that stay idle count",
        ),
        Metric(
            "tokens_per_s_per_user", "tokens/s", "output tokens that one request gets: 1 / tpot"
        ),
        Metric("ttft", "s", "mean time to the first token, waiting included"),
        Metric("tpot", "s", "mean time of an output token, the first excluded"),
        Metric("end_to_end", "s", "mean time of a request: ttft + (osl - 1) tpot"),
        Metric("requests_per_s", "count", "requests a second that the deployment serves"),
        Metric("batch", "count", "sequences that generate on one replica at a time"),
        Metric("cache_occupancy", "fraction", "batch over what the cache of a replica holds"),
        Metric("peak_memory", "B", "weights, working memory and cache of a device"),
        Metric(
            "price_per_million_tokens",
            "USD",
            "devices asked for, price of a device-hour and hours for 1e6 output tokens multiplied",
        ),
        Metric(
            "expected_error",
            "fraction",
            "90th percentile of the relative error of tpot on the evidence most like this",
        ),
    )
}

COLUMNS = (
    Column("architecture", "architecture"),
    Column("prefill_replicas", "prefill", optional=True, usual=0),
    Column("prefill_tp", "tp", optional=True, usual=0),
    Column("prefill_attention_dp", "dp", optional=True, usual=0),
    Column("prefill_ep", "ep", optional=True, usual=0),
    Column("prefill_pp", "pp", optional=True, usual=0),
    Column("replicas", "replicas"),
    Column("tp", "tp"),
    Column("attention_dp", "dp", optional=True, usual=1),
    Column("ep", "ep", optional=True, usual=1),
    Column("pp", "pp", optional=True, usual=1),
    Column("batch", "batch"),
    Column("ttft", "TTFT"),
    Column("tpot", "TPOT"),
    Column("tokens_per_s_per_device", "tokens/s/device"),
    Column("tokens_per_s_per_user", "tokens/s/user"),
    Column("price_per_million_tokens", "$/1M tokens"),
)


def make_plan(
    run: Runtime,
    model: ModelSpec,
    found: Deployment,
    asked: Question,
    bands: Mapping[str, Band],
    rank: int,
) -> Plan:
    """The plan of a deployment."""
    batch = np.array([found.batch])
    lanes = found.replica.split.attention_dp * found.replica.pp
    step = _decode_step(asked, np.maximum(batch / lanes, 1.0))
    token = iteration(run, model, found.replica, step)
    stalls = leaf("waiting for prompts", found.tpot - token.seconds, "idle")
    tree = seq("output token", [token, stalls]).row(0)
    held = memory(run, model, found.replica)
    cache = (
        batch
        / found.replica.split.attention_dp
        * sequence_bytes(run, model, found.replica, np.array([asked.isl + 0.5 * asked.osl]))
    )
    parts = {
        "weights": float(held.weights[0]),
        "cache": float(cache[0]),
        "working": float(held.working[0]),
    }
    limit = most_running(run, model, found.replica, asked.load(batch))
    tokens = found.requests * asked.osl
    price = None if asked.price is None else asked.price * asked.devices / tokens / 3600.0 * 1e6
    metrics: dict[str, float | None] = {
        "devices": found.devices,
        "output_tokens_per_s": tokens,
        "tokens_per_s_per_device": tokens / asked.devices,
        "tokens_per_s_per_user": 1.0 / found.tpot,
        "ttft": found.ttft,
        "tpot": found.tpot,
        "end_to_end": found.ttft + (asked.osl - 1.0) * found.tpot,
        "requests_per_s": found.requests,
        "batch": found.batch,
        "cache_occupancy": float((batch / (limit * found.replica.split.attention_dp))[0]),
        "peak_memory": sum(parts.values()),
        "price_per_million_tokens": price,
        "expected_error": bands["time"].p90,
    }
    flags, missing = _flags(run, model, found)
    return Plan(
        rank,
        configuration(found),
        metrics,
        parts,
        ((0, sum(parts.values())),),
        from_cost(tree),
        DEFINITIONS,
        assumptions(run, model),
        flags=tuple(flags),
        not_expressed=tuple(missing),
        notes=(UNLIKE,) if bands["time"].unlike_any_evidence else (),
    )


def _decode_step(asked: Question, running: np.ndarray) -> Step:
    zero, one = np.zeros_like(running), np.ones_like(running)
    return Step(zero, one, zero, running, asked.isl + 0.5 * asked.osl * one, one)


def _flags(run: Runtime, model: ModelSpec, found: Deployment) -> tuple[list[str], list[str]]:
    """Flags of one server of every role, and what they cannot express."""
    published = (model.quantization or "bf16").partition("+")[0]

    def server(replica: Replica, batch: float, role: str) -> Server:
        layout = _layout("", replica)
        return Server(
            **layout,
            batch=int(batch),
            chunk=run.engine.chunk,
            memory_fraction=run.engine.memory_fraction,
            weights=run.widths.weights,
            published=published,
            kv=run.widths.kv,
            role=role,
        )

    if found.prefill is None:
        return express(run.engine.name, server(found.replica, found.batch, ""))
    flags, missing = express(run.engine.name, server(found.replica, found.batch, "decode"))
    lanes = float(found.prefill.split.attention_dp[0] * found.prefill.pp[0])
    first, _ = express(run.engine.name, server(found.prefill, lanes, "prefill"))
    return (["[decode]", *flags, "[prefill]", *first] if flags else []), missing


def configuration(found: Deployment) -> dict[str, int | str]:
    """Architecture, counts and layouts."""
    architecture = "aggregated" if found.prefill is None else "disaggregated"
    return {
        "architecture": architecture,
        "replicas": found.count,
        **_layout("", found.replica),
        "prefill_replicas": found.prefill_count,
        **_layout("prefill_", found.prefill),
    }


def _layout(prefix: str, replica: Replica | None) -> dict[str, int]:
    names = ("tp", "attention_dp", "ep", "pp")
    if replica is None:
        return {prefix + name: 0 for name in names}
    split = replica.split
    parts = (split.tp, split.attention_dp, split.ep, replica.pp)
    return {prefix + name: int(part[0]) for name, part in zip(names, parts, strict=True)}


def assumptions(run: Runtime, model: ModelSpec) -> tuple[Assumption, ...]:
    """What every plan of a request rests on."""
    engine = run.engine
    found = [
        Assumption(
            f"host time of {engine.name}",
            f"{engine.step * 1e3:.1f} ms a step, {engine.token * 1e6:.0f} us a sequence",
            "fitted to published runs",
        ),
        Assumption(
            f"time before and after {engine.name}",
            f"{engine.first * 1e3:.0f} ms",
            "fitted to published runs",
        ),
        Assumption(
            "memory of a device that is used",
            f"{engine.memory_fraction:.0%}",
            "the engine's default, or --memory-fraction",
        ),
        Assumption("lengths", "equal means", "requests arrive at random, none is longer"),
    ]
    if model.parameters().total > model.parameters().active:
        found.append(
            Assumption(
                "popularity of experts",
                f"log-normal, sigma {POPULARITY}",
                "assumed where no loads are known",
            )
        )
    return tuple(found)
