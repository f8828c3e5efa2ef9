"""A training plan as the flags of Megatron-LM core v0.16.1, and what no flag expresses.

Flags say how the work is spread and computed; what the model is (hidden size, heads, data) and how
it learns are the user's, but for dropout and multi-token prediction, which cost time and memory.
Each flag is checked against the options of that version in the tests.  A choice that this version's
own checks refuse (megatron/training/arguments.py, megatron/core/transformer/transformer_config.py)
is named as not expressed.
The layout string of ``--pipeline-model-parallel-layout`` is that of megatron/core/transformer/
pipeline_parallel_layer_layout.py: E embedding, t layer, m multi-token prediction, L loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from planner.specs.model import DenseFeedForward, LatentAttention, MixtureOfExperts, ModelSpec
from planner.specs.parallelism import Configuration, chunks, experts_of
from planner.specs.workload import TrainingJob

VERSION = "Megatron-LM core_v0.16.1"

PRECISION_FLAGS = {
    "bf16": ("--bf16",),
    "fp16": ("--fp16",),
    # Scales of the current tensor: the default, delayed scaling, refuses to recompute the norms.
    "fp8": ("--bf16", "--fp8-format", "hybrid", "--fp8-recipe", "tensorwise"),
    "mxfp8": ("--bf16", "--fp8-format", "e4m3", "--fp8-recipe", "mxfp8"),
    "nvfp4": ("--bf16", "--fp4-format", "e2m1", "--fp4-recipe", "nvfp4"),
}

DISPATCH_FLAGS = {
    "all-to-all": ("--moe-token-dispatcher-type", "alltoall"),
    "all-gather": ("--moe-token-dispatcher-type", "allgather"),
    "deduplicated": (
        *("--moe-token-dispatcher-type", "flex"),
        *("--moe-flex-dispatcher-backend", "deepep"),
    ),
}

SHARDING = {2: "optim_grads", 3: "optim_grads_params"}
"""Strategies of Megatron-FSDP by ZeRO stage."""

EXPRESSED_SCHEDULES = ("1f1b", "interleaved-1f1b")
EXPRESSED_VOCABULARY = ("ends", "redistributed")


def express(
    model: ModelSpec,
    job: TrainingJob,
    configuration: Configuration,
    layers_per_stage: Sequence[int],
) -> tuple[list[str], list[str]]:
    """Flags of Megatron-LM, and the choices that they cannot express.

    Parameters
    ----------
    layers_per_stage
        Decoder layers of every stage in the order in which a micro-batch visits them, ``pp * vpp``
        of them; multi-token-prediction layers are on the last stage and not counted.

    Returns
    -------
    flags, not_expressed
        A flag and its value are two items.  Data parallelism has no flag: it follows from the
        number of processes.
    """
    groups = (
        _parallelism(model, configuration),
        _pipeline(model, job, configuration, layers_per_stage),
        _batch(job, configuration),
        PRECISION_FLAGS[job.precision.name],
        _model(model, job),
        _recomputation(model, job, configuration),
        _sharding(job, configuration),
        _overlap(model, job, configuration),
    )
    return [flag for group in groups for flag in group], list(_missing(model, job, configuration))


def _parallelism(model: ModelSpec, c: Configuration) -> Iterator[str]:
    yield from ("--tensor-model-parallel-size", str(c.tp))
    if c.sequence_parallel:
        yield "--sequence-parallel"
    yield from ("--context-parallel-size", str(c.cp))
    if c.cp > 1:
        yield from ("--cp-comm-type", "a2a" if c.context_parallel == "ulysses" else "p2p")
    if experts_of(model):
        yield from ("--expert-model-parallel-size", str(c.ep))
        yield from ("--expert-tensor-parallel-size", str(c.etp))
        yield from DISPATCH_FLAGS[c.dispatch]


def _pipeline(
    model: ModelSpec, job: TrainingJob, c: Configuration, counts: Sequence[int]
) -> Iterator[str]:
    """The number of stages, and where the layers go when they do not divide evenly.

    Where only the order of work has no flag (GPipe, ZB-H1, DualPipe), the flags run the same stages
    under 1F1B; a placement in a V has none at all.
    """
    yield from ("--pipeline-model-parallel-size", str(c.pp))
    if c.pp == 1 or chunks(c.schedule, c.vpp) > c.vpp:
        return
    if len(set(counts)) == 1:
        if c.vpp > 1:
            yield from ("--num-virtual-stages-per-pipeline-rank", str(c.vpp))
        return
    first, *middle, last = counts
    if c.vpp == 1 and first and last and len(set(middle)) == 1:
        yield from ("--decoder-first-pipeline-num-layers", str(first))
        yield from ("--decoder-last-pipeline-num-layers", str(last))
        return
    mtp = len(model.mtp_layers) if job.mtp else 0
    yield from ("--pipeline-model-parallel-layout", layout(counts, mtp))


def layout(counts: Sequence[int], mtp: int = 0) -> str:
    """Stages as Megatron-LM's layout string, equal neighbours folded.

    >>> layout([3, 4, 4, 4, 3], mtp=1)
    'Et*3|(t*4|)*3t*3mL'
    """
    first, *middle, last = counts
    text = f"E{_layers(first)}|"
    for count, run in groupby(middle):
        stage, times = f"{_layers(count)}|", len(list(run))
        text += stage if times == 1 else f"({stage})*{times}"
    return f"{text}{_layers(last)}{'m' * mtp}L"


def _layers(count: int) -> str:
    return f"t*{count}" if count > 1 else "t" * count


def _batch(job: TrainingJob, c: Configuration) -> Iterator[str]:
    yield from ("--micro-batch-size", str(c.micro_batch))
    yield from ("--global-batch-size", str(job.global_batch))
    yield from ("--seq-length", str(job.seq_len))


def _model(model: ModelSpec, job: TrainingJob) -> Iterator[str]:
    """Kernels and parts of the model that the plan's time and memory rest on."""
    if _groups_experts(model, job):
        yield "--moe-grouped-gemm"
    if model.mtp_layers and job.mtp:
        yield from ("--mtp-num-layers", str(len(model.mtp_layers)))
    if not job.software.dropout:
        yield from ("--attention-dropout", "0", "--hidden-dropout", "0")
    if not job.software.fused_attention:
        yield from ("--attention-backend", "unfused")


def _groups_experts(model: ModelSpec, job: TrainingJob) -> bool:
    """Whether the experts' products run as one grouped kernel, which exists for bf16 only."""
    return bool(experts_of(model)) and job.precision.name != "fp16"


def _recomputation(model: ModelSpec, job: TrainingJob, c: Configuration) -> Iterator[str]:
    if c.recompute == "full":
        yield from ("--recompute-granularity", "full")
        yield from ("--recompute-method", "uniform", "--recompute-num-layers", "1")
    if c.recompute == "selective":
        yield from ("--recompute-granularity", "selective")
        yield from ("--recompute-modules", "layernorm")
        if not job.software.fused_attention:
            yield "core_attn"
        if any(isinstance(layer.attention, LatentAttention) for layer in model.layers):
            yield "mla_up_proj"
        if _groups_experts(model, job):
            yield "moe_act"


def _sharding(job: TrainingJob, c: Configuration) -> Iterator[str]:
    """Optimizer sharding, and what hides the communication of gradients and weights."""
    if c.zero:
        yield "--use-distributed-optimizer"
    if c.zero in SHARDING:
        yield "--use-megatron-fsdp"
        yield from ("--data-parallel-sharding-strategy", SHARDING[c.zero])
        yield from ("--no-gradient-accumulation-fusion", "--ckpt-format", "fsdp_dtensor")
    if job.software.overlaps_gradients:
        yield "--overlap-grad-reduce"
        if c.zero:
            yield "--overlap-param-gather"


def _overlap(model: ModelSpec, job: TrainingJob, c: Configuration) -> Iterator[str]:
    """What hides the communication of activations."""
    if job.software.overlaps_tensor and c.sequence_parallel:
        yield "--tp-comm-overlap"
    if _hides_exchange(model, job, c) and _may_hide_exchange(c):
        yield "--overlap-moe-expert-parallel-comm"


def _hides_exchange(model: ModelSpec, job: TrainingJob, c: Configuration) -> bool:
    """Whether the plan counts on expert exchange behind another micro-batch's work."""
    return job.software.overlaps_exchange and bool(experts_of(model)) and c.ep > 1 and c.pp > 1


def _may_hide_exchange(c: Configuration) -> bool:
    """What ``--overlap-moe-expert-parallel-comm`` asks of a pipeline."""
    return c.vpp > 1 and c.recompute != "full" and c.dispatch != "all-gather"


def _missing(model: ModelSpec, job: TrainingJob, c: Configuration) -> Iterator[str]:
    """What the flags leave out, each named as the plan names it."""
    if c.schedule not in EXPRESSED_SCHEDULES:
        placed = " and its placement of layers" if chunks(c.schedule, c.vpp) > c.vpp else ""
        yield f"schedule={c.schedule}{placed}"
    if c.vocabulary not in EXPRESSED_VOCABULARY:
        yield f"vocabulary={c.vocabulary}"
    if c.recompute == "selective" and _has_plain_activation(model):
        yield "recompute=selective of the activation function of dense layers and shared experts"
    if c.cp > 1 and job.seq_len % (2 * c.cp):
        yield f"cp={c.cp}: the sequence must be a multiple of 2 cp"
    if job.precision.name == "fp16" and experts_of(model):
        with_ep = f", and none with ep={c.ep}" if c.ep > 1 else ""
        yield f"precision=fp16: no grouped kernel for the experts{with_ep}"
    if job.software.overlaps_tensor and c.tp > 1 and not c.sequence_parallel:
        yield "overlap of tensor-parallel communication without sequence parallelism"
    if _hides_exchange(model, job, c) and not _may_hide_exchange(c):
        yield "overlap of expert exchange without vpp > 1, with recompute=full or all-gather"
    if not job.software.name.startswith("megatron"):
        yield f"software={job.software.name}: these are flags of {VERSION}"


def _has_plain_activation(model: ModelSpec) -> bool:
    """Whether some activation function is outside the routed experts."""
    parts = [layer.feedforward for layer in model.layers]
    return any(
        isinstance(part, DenseFeedForward)
        or (isinstance(part, MixtureOfExperts) and bool(part.shared_width or part.dense_width))
        for part in parts
    )
