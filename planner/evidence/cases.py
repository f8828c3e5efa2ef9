"""From a row of evidence to what the planner is asked: model, cluster, job and configurations.

Unstated choices follow ``defaults``.  Where the default is 'what fits', a case holds several
configurations in order of preference and the prediction takes the first that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from planner.errors import PlannerError
from planner.evidence import defaults
from planner.evidence.tables import Row
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.parallelism import Configuration, experts_of
from planner.specs.workload import PRECISIONS, SOFTWARE, Software, TrainingJob

VOCABULARY = {
    "redis": "redistributed",
    "vocab-1": "vocab-1",
    "vocab-2": "vocab-2",
    "interlaced": "interlaced",
}
"""Methods of the tables that say where a pipeline keeps its vocabulary layers."""

RECOMPUTE = ("none", "selective")
"""What is tried, in this order, where a row does not state it."""


class NotModelled(Exception):
    """A row that asks for something that the planner lacks; the message says what."""


@dataclass(frozen=True)
class Case:
    """One run of a table as the planner's input, configurations in order of preference."""

    model: ModelSpec
    cluster: Cluster
    job: TrainingJob
    configurations: tuple[Configuration, ...]


@dataclass(frozen=True)
class Library:
    """How names resolve: finders for models and clusters, and the software families."""

    model: Callable[[str], ModelSpec]
    cluster: Callable[[str], Cluster]
    software: Mapping[str, Software]


def case_of(row: Row, library: Library) -> Case:
    """Read a row.

    Raises
    ------
    NotModelled
        When the row asks for something that the planner lacks or a name does not resolve.
    """
    if row.accelerator not in defaults.CLUSTERS:
        raise NotModelled(f"unknown accelerator {row.accelerator!r}")
    if row.seq_len is None or row.global_batch is None or row.num_devices is None:
        raise NotModelled("sequence length, global batch or devices are not stated")
    try:
        model = library.model(row.model)
        cluster = library.cluster(defaults.CLUSTERS[row.accelerator])
    except PlannerError as error:
        raise NotModelled(str(error)) from None
    cluster = with_stated_device(cluster, row)
    if 0 < model.learned_positions < row.seq_len:  # a learned table is as long as the run's
        model = replace(model, learned_positions=row.seq_len)
    job = job_of(row, library.software)
    return Case(model, cluster, job, tuple(configurations_of(row, model, cluster)))


def with_stated_device(cluster: Cluster, row: Row) -> Cluster:
    """The cluster with the memory and power limit that the row prints for its devices."""
    device = cluster.accelerator
    stated = defaults.stated_memory(row)
    if stated is not None:
        device = replace(device, memory=stated[0], memory_bandwidth=stated[1])
    power = defaults.stated_power(row)
    if power is not None:
        device = replace(device, power=power)
    return replace(cluster, accelerator=device)


def job_of(row: Row, software: Mapping[str, Software] = SOFTWARE) -> TrainingJob:
    """The training job of a row."""
    if row.seq_len is None or row.global_batch is None:
        raise NotModelled("sequence length or global batch are not stated")
    family = software[defaults.software_name(row)]
    if "reduced without overlap" in row.notes:
        family = replace(family, overlaps_gradients=False)
    if row.method == "async-tp" or "communication overlap" in row.notes:
        family = replace(family, overlaps_tensor=True)
    precision = PRECISIONS.get(row.precision or "bf16")
    if precision is None:
        raise NotModelled(f"precision {row.precision!r} is not modelled")
    mtp = "multi-token prediction with" in row.notes
    return TrainingJob(row.seq_len, row.global_batch, precision, family, mtp=mtp)


def configurations_of(row: Row, model: ModelSpec, cluster: Cluster) -> list[Configuration]:
    """The configurations that a row may mean, the preferred one first."""
    software = defaults.software_name(row)
    total = row.num_devices or 1
    cp, ep = row.cp or 1, row.ep or 1
    tp = row.tp or min(cluster.devices_per_node, total)
    found = []
    for pp in _stages(row, total, tp * cp):
        dp = total // (tp * cp * pp)
        schedule, vpp = defaults.schedule_and_chunks(row, pp)
        recent = software in ("megatron", "megatron-bridge", "fsdp")
        moe = bool(experts_of(model))
        split = tp > 1 and row.seq_len is not None and row.seq_len % (tp * cp) == 0
        stated = {"true": split, "false": False}
        sequence_parallel = stated.get(row.sequence_parallel, split and (recent or moe))
        etp = row.etp or (tp if moe and defaults.coupled_experts(row) else 1)
        for recompute in [row.recompute] if row.recompute else RECOMPUTE:
            ulysses = row.method == "cp-a2a" or "Ulysses" in row.notes
            found.append(
                Configuration(
                    tp=tp,
                    cp=cp,
                    pp=pp,
                    vpp=vpp,
                    dp=dp,
                    ep=ep,
                    etp=etp,
                    micro_batch=row.micro_batch or 1,
                    zero=defaults.zero_stage(row, software, dp * cp, pp),
                    sequence_parallel=int(sequence_parallel),
                    recompute=recompute,
                    schedule=schedule,
                    dispatch="deduplicated" if software == "megatron-bridge" else "all-to-all",
                    vocabulary=VOCABULARY.get(row.method, "ends"),
                    context_parallel="ulysses" if ulysses and cp > 1 else "ring",
                )
            )
    for configuration in found:
        if configuration.devices != total:
            raise NotModelled(
                f"tp * cp * pp * dp = {configuration.devices} is not the {total} devices"
            )
    return found


def _stages(row: Row, total: int, inner: int) -> list[int]:
    if row.pp:
        return [row.pp]
    return [p for p in (1, 2, 4, 8, 16, 32, 64) if total % (inner * p) == 0]
