"""Every axis of choice: its name, values and help, and every rule between axes, declared once.

The search enumerates what the rules allow, the command line makes one option of each axis, and the
estimate of a single configuration names the rule that forbids it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from planner.errors import PlannerError
from planner.specs.model import LinearAttention, MixtureOfExperts, ModelSpec
from planner.specs.workload import TrainingJob


@dataclass(frozen=True)
class Axis:
    """One choice.  ``values`` lists the names of a choice without numbers, in tie-break order."""

    name: str
    help: str
    values: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


TRAINING_AXES = {
    axis.name: axis
    for axis in (
        Axis("tp", "tensor parallelism of attention and dense layers"),
        Axis("cp", "context parallelism: ways to split a sequence"),
        Axis("pp", "pipeline stages (devices in a pipeline)"),
        Axis("vpp", "model chunks a device (interleaved schedule)"),
        Axis("dp", "data parallelism; follows from the others unless fixed"),
        Axis("ep", "expert parallelism"),
        Axis("etp", "tensor parallelism of each expert"),
        Axis("micro_batch", "sequences a data-parallel rank processes at once", (), ("mbs",)),
        Axis("zero", "ZeRO stage 0 to 3; Megatron's distributed optimizer is 1"),
        Axis("sequence_parallel", "split norms and residuals over TP", ("off", "on"), ("sp",)),
        Axis("recompute", "activation recomputation", ("none", "selective", "full")),
        Axis(
            "schedule",
            "pipeline schedule",
            ("1f1b", "interleaved-1f1b", "gpipe", "zb-h1", "zb-v", "v-half", "dualpipe"),
        ),
        Axis(
            "vocabulary",
            "where a pipeline keeps the vocabulary layers; searched only when asked for",
            ("ends", "redistributed", "vocab-1", "vocab-2", "interlaced"),
        ),
        Axis(
            "dispatch",
            "how tokens reach experts; deduplicated sends one copy to each node",
            ("all-to-all", "all-gather", "deduplicated"),
        ),
        Axis("context_parallel", "how context-parallel ranks attend", ("ring", "ulysses")),
    )
}


@dataclass(frozen=True)
class Configuration:
    """One value for every axis: a training plan before it is costed."""

    tp: int = 1
    cp: int = 1
    pp: int = 1
    vpp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int = 1
    micro_batch: int = 1
    zero: int = 0
    sequence_parallel: int = 0
    recompute: str = "none"
    schedule: str = "1f1b"
    vocabulary: str = "ends"
    dispatch: str = "all-to-all"
    context_parallel: str = "ring"

    @property
    def devices(self) -> int:
        return self.tp * self.cp * self.pp * self.dp

    @property
    def edp(self) -> int:
        """Expert-data parallelism: ranks that hold the same experts."""
        return self.devices // (self.pp * self.ep * self.etp)

    def as_dict(self) -> dict[str, int | str]:
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """A condition between axes.

    ``allows`` takes the axis values (names, integers or ``(n,)`` arrays) and returns where they
    are legal.  It needs the values of ``axes`` only.
    """

    name: str
    text: str
    axes: tuple[str, ...]
    allows: Callable[[Mapping[str, Any]], Any]


def chunks(schedule: str, vpp: int) -> int:
    """Model chunks on each device of a pipeline: two where the schedule runs in a V."""
    return 2 if schedule in ("zb-v", "v-half") else vpp


def experts_of(model: ModelSpec) -> list[MixtureOfExperts]:
    """The mixture-of-experts parts of a model's layers, multi-token prediction included."""
    parts = (layer.feedforward for layer in (*model.layers, *model.mtp_layers))
    return [part for part in parts if isinstance(part, MixtureOfExperts)]


def training_rules(model: ModelSpec, job: TrainingJob, devices: int) -> list[Rule]:
    """The rules of one training search, in the order in which they are checked and reported."""
    heads = int(np.gcd.reduce(sorted({layer.attention.heads for layer in model.layers})))
    moe = experts_of(model)
    experts = int(np.gcd.reduce([m.experts for m in moe])) if moe else 1
    width = int(np.gcd.reduce([m.width for m in moe])) if moe else 1
    linear = any(isinstance(layer.attention, LinearAttention) for layer in model.layers)
    mtp = len(model.mtp_layers) if job.mtp else 0
    stages = model.num_layers + (mtp or 2)  # an end that holds the vocabulary may have no layer
    batch = job.global_batch

    def microbatches(v: Mapping[str, Any]) -> Any:
        return batch // (v["dp"] * v["micro_batch"])

    return [
        Rule(
            "attention mesh",
            f"tp * cp * pp * dp must equal the {devices} devices",
            ("tp", "cp", "pp", "dp"),
            lambda v: v["tp"] * v["cp"] * v["pp"] * v["dp"] == devices,
        ),
        Rule(
            "expert mesh",
            f"ep * etp * pp must divide the {devices} devices",
            ("ep", "etp", "pp"),
            lambda v: devices % (v["ep"] * v["etp"] * v["pp"]) == 0,
        ),
        Rule(
            "query heads over tp",
            f"tp must divide the {heads} query heads",
            ("tp",),
            lambda v: heads % v["tp"] == 0,
        ),
        Rule(
            "sequence over cp",
            f"cp must divide the sequence of {job.seq_len} tokens",
            ("cp",),
            lambda v: job.seq_len % v["cp"] == 0,
        ),
        Rule(
            "linear mixers over cp",
            "cp must be 1 for a model with linear token mixers",
            ("cp",),
            lambda v: (not linear) | (v["cp"] == 1),
        ),
        Rule(
            "heads over Ulysses",
            f"with Ulysses, tp * cp must divide the {heads} query heads",
            ("tp", "cp", "context_parallel"),
            lambda v: (v["context_parallel"] != "ulysses") | (heads % (v["tp"] * v["cp"]) == 0),
        ),
        Rule(
            "sequence parallelism",
            "sequence parallelism needs tp > 1, and tp * cp must divide the sequence",
            ("tp", "cp", "sequence_parallel"),
            lambda v: (
                (v["sequence_parallel"] == 0)
                | ((v["tp"] > 1) & (job.seq_len % (v["tp"] * v["cp"]) == 0))
            ),
        ),
        Rule(
            "experts under tp",
            "a mixture of experts with tp > 1 needs sequence parallelism",
            ("tp", "sequence_parallel"),
            lambda v: (not moe) | (v["tp"] == 1) | (v["sequence_parallel"] == 1),
        ),
        Rule(
            "experts over ep",
            f"ep must divide the {experts} routed experts"
            if moe
            else "ep must be 1 for a dense model",
            ("ep",),
            lambda v: experts % v["ep"] == 0,
        ),
        Rule(
            "expert width over etp",
            f"etp must divide the expert width of {width}"
            if moe
            else "etp must be 1 for a dense model",
            ("etp",),
            lambda v: width % v["etp"] == 0,
        ),
        Rule(
            "batch over dp",
            f"dp * micro_batch must divide the global batch of {batch} sequences",
            ("dp", "micro_batch"),
            lambda v: batch % (v["dp"] * v["micro_batch"]) == 0,
        ),
        Rule(
            "layers over stages",
            f"pp * chunks must not exceed {stages} stages for {model.num_layers} layers",
            ("pp", "vpp", "schedule"),
            lambda v: v["pp"] * chunks(v["schedule"], v["vpp"]) <= stages,
        ),
        Rule(
            "chunks and schedule",
            "vpp > 1 belongs to interleaved-1f1b, which needs it",
            ("vpp", "schedule"),
            lambda v: (v["vpp"] > 1) == (v["schedule"] == "interleaved-1f1b"),
        ),
        Rule(
            "schedule and stages",
            "a schedule other than 1f1b needs pp > 1, dualpipe an even pp",
            ("pp", "schedule"),
            lambda v: (
                (v["schedule"] == "1f1b")
                | ((v["pp"] > 1) & ((v["schedule"] != "dualpipe") | (v["pp"] % 2 == 0)))
            ),
        ),
        Rule(
            "vocabulary and schedule",
            "vocabulary layers move off the ends only under 1f1b or v-half with pp > 1",
            ("pp", "schedule", "vocabulary"),
            lambda v: (
                (v["vocabulary"] == "ends")
                | ((v["pp"] > 1) & (v["schedule"] in ("1f1b", "v-half")))
            ),
        ),
        Rule(
            "micro-batches and schedule",
            "interleaved-1f1b needs micro-batches in multiples of pp; dualpipe an even number,"
            " at least 2 pp",
            ("pp", "dp", "micro_batch", "schedule"),
            lambda v: {
                "interleaved-1f1b": lambda: microbatches(v) % v["pp"] == 0,
                "dualpipe": lambda: (microbatches(v) % 2 == 0) & (microbatches(v) >= 2 * v["pp"]),
            }.get(v["schedule"], lambda: np.full(np.shape(v["micro_batch"]), True))(),
        ),
        Rule(
            "ZeRO 2 and stages",
            "zero=2 needs pp=1: a pipeline accumulates whole gradients, which is zero=1",
            ("pp", "zero"),
            lambda v: (v["zero"] != 2) | (v["pp"] == 1),
        ),
        Rule(
            "ZeRO over ranks",
            "zero must be 0 to 3, and 0 where no two ranks hold the same weights",
            ("tp", "cp", "pp", "ep", "etp", "zero"),
            lambda v: (
                (v["zero"] == 0)
                | (
                    (v["zero"] <= 3)
                    & (
                        (devices > v["tp"] * v["pp"])
                        | (bool(moe) & (devices > v["ep"] * v["etp"] * v["pp"]))
                    )
                )
            ),
        ),
    ]


def check(configuration: Configuration, rules: list[Rule]) -> None:
    """Raise the first rule that forbids a configuration, with the values found."""
    values = configuration.as_dict()
    for name, value in values.items():
        axis = TRAINING_AXES[name]
        low = 0 if name in ("zero", "sequence_parallel") else 1
        if axis.values and isinstance(value, str) and value not in axis.values:
            near = get_close_matches(str(value), axis.values, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PlannerError(
                f"{axis.flag}: found {value!r}, expected one of {', '.join(axis.values)}{hint}"
            )
        if isinstance(value, int) and value < low:
            raise PlannerError(f"{axis.flag}: found {value}, expected {low} or more.")
    for rule in rules:
        if not np.all(rule.allows(values)):
            found = ", ".join(f"{axis}={values[axis]}" for axis in rule.axes)
            raise PlannerError(f"rule '{rule.name}': {rule.text}; found {found}.")
