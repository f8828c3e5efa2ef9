"""From the estimate of a configuration to the plan that a user reads.

Every metric has a definition, and a number that depends on a convention names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.costs.kernels import peak
from planner.launch.megatron import express
from planner.results.bands import UNLIKE, Band
from planner.results.breakdown import from_cost, lanes
from planner.results.format import show
from planner.results.plan import Metric, Plan
from planner.results.ranking import Column
from planner.specs.parallelism import TRAINING_AXES, Configuration, chunks
from planner.training.assumptions import assumptions
from planner.training.estimate import Estimate
from planner.training.flops import recomputed_flops, step_flops
from planner.training.request import Request
from planner.training.stages import redistribute, split

CONVENTION = "full"
"""FLOP convention of the plain metrics: attention scores over the whole sequence, as in the
Megatron-LM papers (arXiv 2104.04473, appendix) and PaLM's MFU (arXiv 2204.02311, appendix B)."""

TRILLION = 1e12
DAY = 86400.0

_FULL = "full-sequence attention (as Megatron-LM, PaLM)"
_CAUSAL = "causal half of the attention"
_MFU = "model FLOPs over the dense peak of the recipe's matrix datatype"

DEFINITIONS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("devices", "count", "devices that the plan uses"),
        Metric("step_time", "s", "time of one optimizer step over the global batch"),
        Metric("tokens_per_s", "tokens/s", "tokens of the global batch over the step time"),
        Metric("tokens_per_s_per_device", "tokens/s", "tokens_per_s over the devices"),
        Metric(
            "model_tflops_per_device",
            "TFLOP/s",
            f"model FLOPs a second and device, recomputation not counted; {_FULL}",
        ),
        Metric(
            "model_tflops_per_device_causal",
            "TFLOP/s",
            f"model FLOPs a second and device, recomputation not counted; {_CAUSAL}",
        ),
        Metric(
            "hardware_tflops_per_device",
            "TFLOP/s",
            f"model FLOPs and recomputed ones a second and device; {_FULL}",
        ),
        Metric("mfu", "fraction", f"{_MFU}; {_FULL}"),
        Metric("mfu_causal", "fraction", f"{_MFU}; {_CAUSAL}"),
        Metric("hfu", "fraction", f"as mfu, with recomputed FLOPs; {_FULL}"),
        Metric("peak_memory", "B", "bytes on the fullest device of the pipeline"),
        Metric("memory_headroom", "B", "usable memory, the reserve taken off, less peak_memory"),
        Metric("num_microbatches", "count", "micro-batches of a data-parallel rank in one step"),
        Metric("bubble_share", "fraction", "pipeline fill and drain over the step time"),
        Metric(
            "exposed_communication_share",
            "fraction",
            "communication on the critical path, hidden parts left out, over the step time",
        ),
        Metric(
            "price_per_trillion_tokens",
            "USD",
            "devices, hours for 1e12 tokens and price of a device-hour multiplied",
        ),
        Metric("training_days", "days", "days to train on the tokens asked for, without faults"),
        Metric("training_price", "USD", "price of training on the tokens asked for"),
        Metric(
            "expected_error",
            "fraction",
            "90th percentile of the time's relative error on the evidence most like this",
        ),
        Metric(
            "expected_memory_error",
            "fraction",
            "90th percentile of the memory's relative error on the evidence most like this",
        ),
        Metric("gain", "fraction", "tokens_per_s over the baseline's, less 1"),
    )
}

ALWAYS = ("tp", "pp", "vpp", "dp", "micro_batch", "zero", "schedule", "recompute")
"""Axes with a column of their own whatever their value; others only where it is unusual."""

RESULTS = (
    Column("step_time", "step"),
    Column("tokens_per_s", "tokens/s"),
    Column("mfu", "MFU"),
    Column("peak_memory", "memory"),
    Column("price_per_trillion_tokens", "$/1T tokens"),
    Column("gain", "gain", optional=True),
)


def columns(devices: Sequence[int]) -> tuple[Column, ...]:
    """The columns of the table; the number of devices only where it varies."""
    axes = [
        Column(
            axis.name,
            axis.aliases[0] if axis.aliases else axis.name.replace("_", " "),
            optional=axis.name not in ALWAYS,
            usual=getattr(Configuration(), axis.name),
        )
        for axis in TRAINING_AXES.values()
    ]
    varied = [Column("devices", "devices")] if len(devices) > 1 else []
    return (*varied, *axes, *RESULTS)


def make_plan(
    request: Request,
    estimate: Estimate,
    bands: Mapping[str, Band],
    *,
    rank: int = 1,
    scale: float = 1.0,
    baseline: Plan | None = None,
) -> Plan:
    """The plan of an estimate, every time multiplied by ``scale``."""
    tree = from_cost(estimate.tree, scale)
    metrics = _metrics(request, estimate, scale)
    metrics |= {
        "expected_error": bands["time"].p90,
        "expected_memory_error": bands["memory"].p90,
        "exposed_communication_share": lanes(tree).get("link", 0.0) / tree.on_path,
        "gain": None,
    }
    ours = metrics["tokens_per_s"]
    theirs = baseline.metrics["tokens_per_s"] if baseline else None
    if ours and theirs:
        metrics["gain"] = ours / theirs - 1.0
    flags, not_expressed = express(
        request.model, request.job, estimate.configuration, _layers(request, estimate.configuration)
    )
    return Plan(
        rank,
        estimate.configuration.as_dict(),
        {name: metrics[name] for name in DEFINITIONS},
        estimate.memory,
        estimate.memory_by_stage,
        tree,
        DEFINITIONS,
        assumptions(request),
        flags=tuple(flags),
        not_expressed=tuple(not_expressed),
        notes=tuple(_notes(request, estimate, bands)),
    )


def _layers(request: Request, configuration: Configuration) -> list[int]:
    """Decoder layers of every stage, in order."""
    model, job = request.model, request.job
    stages = configuration.pp * chunks(configuration.schedule, configuration.vpp)
    if configuration.vocabulary == "redistributed":
        return redistribute(model, stages)
    return split(model.num_layers, stages, len(model.mtp_layers) if job.mtp else 0)


def _metrics(request: Request, estimate: Estimate, scale: float) -> dict[str, float | None]:
    model, job, options = request.model, request.job, request.options
    devices = estimate.configuration.devices
    seconds = estimate.seconds * scale
    rate = request.tokens_per_step / seconds
    full = step_flops(model, job, CONVENTION)
    causal = step_flops(model, job, "causal") if job.causal else full
    again = recomputed_flops(model, job, estimate.configuration.recompute, CONVENTION)
    busy = seconds * devices
    top = peak(request.cluster.accelerator, job.precision.matrix)
    hourly = request.cluster.price_per_hour
    price = None if hourly is None else hourly * devices * TRILLION / rate / 3600.0
    asked = options.tokens
    return {
        "devices": devices,
        "step_time": seconds,
        "tokens_per_s": rate,
        "tokens_per_s_per_device": rate / devices,
        "model_tflops_per_device": full / busy / 1e12,
        "model_tflops_per_device_causal": causal / busy / 1e12,
        "hardware_tflops_per_device": (full + again) / busy / 1e12,
        "mfu": full / busy / top,
        "mfu_causal": causal / busy / top,
        "hfu": (full + again) / busy / top,
        "peak_memory": estimate.peak_memory,
        "memory_headroom": request.usable_memory - estimate.peak_memory,
        "num_microbatches": int(estimate.step["num_microbatches"]),
        "bubble_share": estimate.step["fill"] / estimate.seconds,
        "price_per_trillion_tokens": price,
        "training_days": None if asked is None else asked / rate / DAY,
        "training_price": None if asked is None or price is None else price * asked / TRILLION,
    }


def _notes(request: Request, estimate: Estimate, bands: Mapping[str, Band]) -> list[str]:
    notes = []
    over = estimate.peak_memory - request.usable_memory
    if over > 0:
        reserve = show(request.options.memory_reserve, "fraction")
        notes.append(
            f"does not fit: needs {show(estimate.peak_memory, 'B')}, {show(over, 'B')} more than"
            f" {show(request.cluster.accelerator.memory, 'B')} less the reserve of {reserve}"
        )
    if bands["time"].unlike_any_evidence:
        notes.append(UNLIKE)
    return notes
