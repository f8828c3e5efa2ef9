"""From a deployment to the plan that a user reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from planner.costs.imbalance import POPULARITY
from planner.costs.queueing import accepted_tokens
from planner.costs.tree import Cost, leaf, repeat, seq
from planner.launch.engines import Server, express
from planner.layers.inference import Array, Runtime, Step
from planner.results.bands import UNLIKE, Band
from planner.results.breakdown import from_cost
from planner.results.plan import Assumption, Metric, Plan
from planner.results.ranking import Baseline, Column
from planner.serving import attention_ffn
from planner.serving.aggregated import most_running
from planner.serving.columns import Columns
from planner.serving.deployment import Deployment, Part
from planner.serving.iteration import iteration
from planner.serving.memory import memory, sequence_bytes
from planner.serving.percentiles import attainment, tpot_percentile, ttft_percentile
from planner.serving.question import Question
from planner.serving.request import Request
from planner.specs.model import ModelSpec

DEFINITIONS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("devices", "count", "devices that the replicas take"),
        Metric("output_tokens_per_s", "tokens/s", "output tokens of all replicas"),
        Metric(
            "tokens_per_s_per_device",
            "tokens/s",
            "output tokens over the devices that count: all of --devices, else those used",
        ),
        Metric(
            "tokens_per_s_per_user", "tokens/s", "output tokens that one request gets: 1 / tpot"
        ),
        Metric("ttft", "s", "mean time to the first token, waiting included"),
        Metric("tpot", "s", "mean time of an output token, the first excluded"),
        Metric("end_to_end", "s", "mean time of a request: ttft + (osl - 1) tpot"),
        Metric("ttft_percentile", "s", "ttft that --percentile of the requests do not exceed"),
        Metric("tpot_percentile", "s", "tpot that --percentile of the requests do not exceed"),
        Metric("attainment", "fraction", "requests that meet every target on ttft and tpot"),
        Metric("requests_per_s", "count", "requests a second that the deployment serves"),
        Metric("goodput", "count", "requests a second that meet every target on ttft and tpot"),
        Metric("batch", "count", "requests in flight on one replica that generates"),
        Metric("cache_occupancy", "fraction", "batch over what the cache of a replica holds"),
        Metric("peak_memory", "B", "weights, working memory and cache of a device"),
        Metric(
            "price_per_million_tokens",
            "USD",
            "price of an hour of the devices that count, over the million output tokens of it",
        ),
        Metric(
            "idle_prefill", "fraction", "of what prefill replicas could serve, not asked of them"
        ),
        Metric(
            "idle_decode", "fraction", "of what the other replicas could serve, not asked of them"
        ),
        Metric("idle_attention", "fraction", "of the time, the attention pool of a unit waits"),
        Metric("idle_ffn", "fraction", "of the time, the experts' pool of a unit waits"),
        Metric("power", "W", "rated power of the devices that are used"),
        Metric("tokens_per_joule", "1/J", "output tokens over rated energy"),
        Metric("simulated_ttft", "s", "the same of a replay (--check): mean"),
        Metric("simulated_ttft_p99", "s", "the same of a replay: 99th percentile"),
        Metric("simulated_tpot", "s", "the same of a replay (--check): mean"),
        Metric("simulated_tpot_p99", "s", "the same of a replay: 99th percentile"),
        Metric("gain", "fraction", "tokens_per_s_per_device over the baseline's, less 1"),
        Metric(
            "expected_error",
            "fraction",
            "90th percentile of the relative error of tpot on the evidence most like this",
        ),
        Metric("expected_error_ttft", "fraction", "the same of ttft"),
    )
}

COLUMNS = (
    Column("architecture", "architecture"),
    Column(
        "prefill",
        "prefill",
        optional=True,
        parts=(
            ("prefill_replicas", ""),
            ("prefill_tp", "x tp"),
            ("prefill_attention_dp", "dp"),
            ("prefill_ep", "ep"),
            ("prefill_pp", "pp"),
        ),
    ),
    Column("prefill_pool", "on", optional=True),
    Column(
        "layout",
        "replicas",
        parts=(
            ("replicas", ""),
            ("tp", "x tp"),
            ("attention_dp", "dp"),
            ("ep", "ep"),
            ("pp", "pp"),
            ("ffn_ep", "+ ffn ep"),
            ("ffn_tp", "tp"),
            ("micro_batches", "m"),
            ("prefill_share", "prompts "),
        ),
    ),
    Column("pool", "on", optional=True),
    Column("ffn_pool", "experts on", optional=True),
    Column("mixture", "and", optional=True),
    Column("batch", "batch"),
    Column("ttft", "TTFT"),
    Column("tpot", "TPOT"),
    Column("ttft_percentile", "TTFT at", optional=True, usual=None),
    Column("tpot_percentile", "TPOT at", optional=True, usual=None),
    Column("attainment", "attainment", optional=True, usual=None),
    Column("tokens_per_s_per_device", "tok/s/device"),
    Column("tokens_per_s_per_user", "tok/s/user", optional=True),
    Column("price_per_million_tokens", "$/M tok", optional=True),
    Column("simulated_ttft", "simulated TTFT", optional=True, usual=None),
    Column("simulated_tpot", "simulated TPOT", optional=True, usual=None),
    Column("gain", "gain", optional=True, usual=None),
)


DEGREES = ("tp", "attention_dp", "ep", "pp")
UNTRIED = ("shared-device", "attention-ffn", "mixed")
"""Architectures of which the evidence has no run."""
SIMULATED = ("simulated_ttft", "simulated_ttft_p99", "simulated_tpot", "simulated_tpot_p99")


def make_plan(
    request: Request,
    found: Deployment,
    bands: Mapping[str, Band],
    rank: int,
    baseline: Baseline | None = None,
) -> Plan:
    """The plan of a deployment; a baseline's scale multiplies its times."""
    asked, model = request.asked, request.model
    scale = 1.0 if baseline is None else baseline.scale
    main = generating(found)
    run = runtime(main.column)
    if main.column.experts is None:
        tree = seq("output token", _token(run, model, found, asked)).row(0)
        parts = memory_of(run, model, main.column, asked)
    else:
        tree = seq("output token", _unit_token(main.column)).row(0)
        parts = unit_memory(main.column, model, asked)
    peak = sum(parts.values())
    flags, missing = _flags(request, found)
    return Plan(
        rank,
        configuration(found, len(request.means.fleets) > 1),
        _metrics(request, found, scale, baseline)
        | {
            "peak_memory": peak,
            "expected_error": bands["time"].p90,
            "expected_error_ttft": bands["first_token"].p90,
        },
        parts,
        ((0, peak),),
        from_cost(tree, scale),
        DEFINITIONS,
        assumptions(run, model, asked),
        flags=tuple(flags),
        not_expressed=tuple(missing),
        notes=tuple(_notes(found, bands)),
    )


def _notes(found: Deployment, bands: Mapping[str, Band]) -> Iterator[str]:
    """What the reader must know."""
    if bands["time"].unlike_any_evidence:
        yield UNLIKE
    if found.architecture in UNTRIED:
        yield f"{found.architecture}: no published run stands behind its times"


def generating(found: Deployment) -> Part:
    """The part that generates most."""
    parts = [found.part(role) for role in ("any", "shared", "decode", "attention")]
    return next(part for part in parts if part is not None)


def runtime(column: Columns) -> Runtime:
    """The runtime of a column of one row."""
    run, _ = next(column.fleet.grouped(column.replica))
    return run


def _metrics(
    request: Request, found: Deployment, scale: float, baseline: Baseline | None
) -> dict[str, float | None]:
    asked, means, main = request.asked, request.means, generating(found)
    run = runtime(main.column)
    requests, ttft, tpot = found.requests / scale, found.ttft * scale, found.tpot * scale
    tokens = requests * asked.osl
    each = tokens / means.counted(found.parts)
    cost, watts = means.cost(found.parts), _power(found)
    places = _places(run, request.model, main.column, asked)
    base = None if baseline is None else baseline.plan.metrics["tokens_per_s_per_device"]
    prefill = found.idle.get("prefill")
    rest = [share for role, share in found.idle.items() if role != "prefill"]
    return {
        "devices": float(means.used(found.parts)[:-1].sum()),
        "output_tokens_per_s": tokens,
        "tokens_per_s_per_device": each,
        "tokens_per_s_per_user": 1.0 / tpot,
        "ttft": ttft,
        "tpot": tpot,
        "end_to_end": ttft + (asked.osl - 1.0) * tpot,
        "requests_per_s": requests,
        **_distribution(found, asked, scale),
        "goodput": requests * (_attainment(found, asked) or 1.0),
        "batch": float(main.column.batch[0]),
        "cache_occupancy": float(np.minimum(main.column.batch / places, 1.0)[0]),
        "price_per_million_tokens": None if cost is None else cost / tokens / 3600.0 * 1e6,
        **_waiting(main.column),
        "idle_prefill": prefill,
        "idle_decode": rest[0] if rest else None,
        "power": watts,
        "tokens_per_joule": None if watts is None else tokens / watts,
        **dict.fromkeys(SIMULATED),
        "gain": None if base is None else each / base - 1.0,
    }


def _places(run: Runtime, model: ModelSpec, column: Columns, asked: Question) -> Array:
    """Sequences that the cache of a replica has room for."""
    if column.experts is not None:
        pools = column.fleet, column.experts.fleet
        middle = asked.isl + 0.5 * asked.osl
        return attention_ffn.room(pools, model, column.experts.unit, middle)
    limit = most_running(run, model, column.replica, asked.load(column.batch))
    return limit * column.replica.split.attention_dp


def _distribution(found: Deployment, asked: Question, scale: float) -> dict[str, float | None]:
    """What varies about the means, where a percentile was asked for."""
    names = ("ttft_percentile", "tpot_percentile", "attainment")
    if asked.percentile is None or found.times is None:
        return dict.fromkeys(names)
    ttft = scale * float(ttft_percentile(found.times, asked.percentile)[0])
    tpot = scale * float(tpot_percentile(found.times, asked.percentile)[0])
    return dict(zip(names, (ttft, tpot, _attainment(found, asked)), strict=True))


def _attainment(found: Deployment, asked: Question) -> float | None:
    """Share of the requests that meet the targets; None without any."""
    targets = asked.targets
    if found.times is None or np.isinf(min(targets.ttft, targets.tpot)):
        return None
    return float(attainment(found.times, ttft=targets.ttft, tpot=targets.tpot)[0])


def _waiting(column: Columns) -> dict[str, float | None]:
    experts = column.experts
    return {
        "idle_attention": None if experts is None else float(experts.idle_attention[0]),
        "idle_ffn": None if experts is None else float(experts.idle_ffn[0]),
    }


def _power(found: Deployment) -> float | None:
    """Rated power of the devices in use [W]; None where a datasheet has none."""
    total = 0.0
    for part in found.parts:
        for fleet, devices in part.column.devices_by_fleet:
            if fleet.run.device.power is None:
                return None
            total += part.count * float(devices[0]) * fleet.run.device.power
    return total


def memory_of(run: Runtime, model: ModelSpec, column: Columns, asked: Question) -> dict[str, float]:
    """Bytes by kind on a device of a column of one row."""
    held = memory(run, model, column.replica)
    middle = np.array([asked.isl + 0.5 * asked.osl])
    each = sequence_bytes(run, model, column.replica, middle)
    limit = most_running(run, model, column.replica, asked.load(column.batch))
    running = np.minimum(column.batch / column.replica.split.attention_dp, limit)
    return {
        "weights": float(held.weights[0]),
        "cache": float((running * each)[0]),
        "working": float(held.working[0]),
    }


def _token(run: Runtime, model: ModelSpec, found: Deployment, asked: Question) -> list[Cost]:
    """A decode step, and what else an output token waits for."""
    column = generating(found).column
    lanes = column.replica.split.attention_dp * column.replica.pp
    running = np.maximum(column.batch / lanes, 1.0)
    zero, one = np.zeros_like(running), np.ones_like(running)
    checked = 1.0 + asked.drafts * one
    step = Step(zero, one, zero, running, asked.isl + 0.5 * asked.osl * one, checked)
    alone = iteration(run, model, column.replica, step)
    if asked.drafts:
        yields = accepted_tokens(asked.acceptance, asked.drafts)
        alone = repeat("steps a token", alone, 1.0 / yields * one)
    names = {"any": "prompts in between", "shared": "multiprocessors that prompts take"}
    name = names.get(column.role, "waiting for a batch")
    return [alone, leaf(name, found.tpot - alone.seconds, "idle")]


def _unit_token(column: Columns) -> list[Cost]:
    """A token of an attention-ffn unit: what the attention pool works, and waits."""
    assert column.experts is not None
    idle = column.tpot * column.experts.idle_attention
    work = leaf("attention, dense layers, logits", column.tpot - idle, "compute")
    return [work, leaf("waiting for experts and network", idle, "idle")]


def unit_memory(column: Columns, model: ModelSpec, asked: Question) -> dict[str, float]:
    """Bytes by kind on a device of the fuller pool of a unit."""
    assert column.experts is not None
    pools, unit = (column.fleet, column.experts.fleet), column.experts.unit
    own, experts = (float(one[0]) for one in attention_ffn.weights(pools, model, unit))
    held = float(memory(pools[0].run, model, column.replica).working[0])
    middle = np.array([asked.isl + 0.5 * asked.osl])
    each = float(sequence_bytes(pools[0].run, model, column.replica, middle)[0])
    cache = each * float((column.batch / unit.copies)[0])
    first = {"weights": own, "cache": cache, "working": held}
    second = {"weights": experts, "cache": 0.0, "working": held}
    return max(first, second, key=lambda kinds: sum(kinds.values()))


def _flags(request: Request, found: Deployment) -> tuple[list[str], list[str]]:
    """Flags of one server of every role, and what they cannot express."""
    main, ahead = generating(found), found.part("prefill")
    name = request.engine.name
    if main.column.experts is not None:
        return [], ["attention and experts on separate pools"]
    if ahead is None:
        flags, missing = express(name, _server(request, main, ""))
        if main.column.role == "shared":
            missing = [*missing, "shares of the multiprocessors (prefill_share)"]
        return flags, missing
    flags, missing = express(name, _server(request, main, "decode"))
    first, _ = express(name, _server(request, ahead, "prefill"))
    return (["[decode]", *flags, "[prefill]", *first] if flags else []), missing


def _server(request: Request, part: Part, role: str) -> Server:
    replica, widths = part.column.replica, request.widths
    lanes = float(replica.split.attention_dp[0] * replica.pp[0])
    return Server(
        **layout("", part),
        batch=int(lanes if role == "prefill" else max(1.0, part.column.batch[0])),
        chunk=request.engine.chunk,
        memory_fraction=request.engine.memory_fraction,
        weights=widths.weights,
        published=(request.model.quantization or "bf16").partition("+")[0],
        kv=widths.kv,
        role=role,
    )


def configuration(found: Deployment, several: bool = False) -> dict[str, int | str | None]:
    """Architecture, counts and layouts; the pools by name where there are several."""
    main, ahead = generating(found), found.part("prefill")
    others = [part for part in found.parts if part not in (main, ahead)]
    return {
        "architecture": found.architecture,
        "replicas": main.count,
        **layout("", main),
        "pool": main.column.fleet.name if several else None,
        "prefill_replicas": None if ahead is None else ahead.count,
        **({f"prefill_{n}": None for n in DEGREES} if ahead is None else layout("prefill_", ahead)),
        "prefill_pool": ahead.column.fleet.name if several and ahead is not None else None,
        **_experts(main),
        "prefill_share": round(100.0 * float(main.column.share[0])) or None,
        "same_node": int(found.same_node) if ahead is not None else None,
        "mixture": ", ".join(map(_told, others)) or None,
    }


def _experts(part: Part) -> dict[str, int | str | None]:
    """The experts' pool of a unit; None where there is none."""
    names = ("ffn_ep", "ffn_tp", "micro_batches")
    experts = part.column.experts
    if experts is None:
        return dict.fromkeys((*names, "ffn_pool"))
    unit = experts.unit
    values = (unit.ep, unit.expert_tp, unit.micro_batches)
    other = experts.fleet.name if experts.fleet is not part.column.fleet else None
    found: dict[str, int | str | None] = {"ffn_pool": other}
    return found | {k: int(v[0]) for k, v in zip(names, values, strict=True)}


def _told(part: Part) -> str:
    """A further part in a few words: ``4 any tp=2 on h20``."""
    sizes = " ".join(f"{k}={v}" for k, v in layout("", part).items() if v > 1 or k == "tp")
    return f"{part.count} {part.column.role} {sizes} on {part.column.fleet.name}"


def layout(prefix: str, part: Part) -> dict[str, int]:
    """Degrees of a part by name."""
    names = DEGREES
    replica = part.column.replica
    degrees = (replica.split.tp, replica.split.attention_dp, replica.split.ep, replica.pp)
    return {prefix + name: int(one[0]) for name, one in zip(names, degrees, strict=True)}


def assumptions(run: Runtime, model: ModelSpec, asked: Question) -> tuple[Assumption, ...]:
    """What every plan of a request rests on."""
    engine = run.engine
    found = [
        Assumption(
            f"host time of {engine.name}",
            f"{engine.step * 1e3:.1f} ms for 64 layers, {engine.token * 1e6:.0f} us a sequence",
            "fitted to published runs",
        ),
        Assumption(
            f"time before and after {engine.name}",
            f"{engine.first * 1e3:.0f} ms and {engine.waits:g} steps",
            "fitted to published runs; the milliseconds are assumed",
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
