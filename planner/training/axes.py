"""What a user writes about the axes: names and aliases, single values, lists, half a configuration.

``tp=8,pp=4`` says enough for an estimate: what is left out takes the defaults of ``complete``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.errors import PlannerError
from planner.specs.folders import near
from planner.specs.model import ModelSpec
from planner.specs.parallelism import (
    TRAINING_AXES,
    Axis,
    Configuration,
    check,
    experts_of,
    training_rules,
)
from planner.specs.workload import TrainingJob

AxisValue = int | str
AxisValues = int | str | bool | Sequence[int | str]

ALIASES = {alias: axis.name for axis in TRAINING_AXES.values() for alias in axis.aliases}
LOWEST = {"zero": 0, "sequence_parallel": 0}
"""Smallest legal number of an axis; 1 for the others."""


def find_axis(name: str) -> Axis:
    """The axis of that name or alias; ``micro-batch`` and ``micro_batch`` are the same.

    Raises
    ------
    PlannerError
        If there is none; the message holds the nearest names.
    """
    wanted = name.strip().lower().replace("-", "_")
    wanted = ALIASES.get(wanted, wanted)
    if wanted not in TRAINING_AXES:
        known = [*TRAINING_AXES, *ALIASES]
        raise PlannerError(
            f"unknown axis {name!r}{near(wanted, known)}; expected one of {', '.join(known)}."
        )
    return TRAINING_AXES[wanted]


def axis_values(name: str, values: AxisValues) -> tuple[AxisValue, ...]:
    """The values that the user allows for one axis, each once, in the user's order.

    >>> axis_values("pp", "4,8")
    (4, 8)
    >>> axis_values("sp", "on")
    (1,)
    """
    axis = find_axis(name)
    if isinstance(values, str):
        items: list[object] = [item.strip() for item in values.split(",")]
    else:
        items = list(values) if isinstance(values, Sequence) else [values]
    if not items:
        raise PlannerError(f"{axis.flag}: found no value, expected at least one.")
    return tuple(dict.fromkeys(_axis_value(axis, item) for item in items))


def _axis_value(axis: Axis, item: object) -> AxisValue:
    text = str(item).strip().lower()
    if axis.name == "sequence_parallel":
        words = {"off": 0, "on": 1, "false": 0, "true": 1, "0": 0, "1": 1}
        if text in words:
            return words[text]
    elif axis.values and text in axis.values:
        return text
    if axis.values:
        raise PlannerError(
            f"{axis.flag}: found {item!r}{near(text, axis.values)}, expected one of"
            f" {', '.join(axis.values)}."
        )
    lowest = LOWEST.get(axis.name, 1)
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    highest = 3 if axis.name == "zero" else None
    if number < lowest or (highest is not None and number > highest):
        limit = f"{lowest} to {highest}" if highest else f"{lowest} or more"
        raise PlannerError(f"{axis.flag}: found {item!r}, expected a whole number, {limit}.")
    return number


def parse_configuration(text: str | Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    """One value an axis from ``tp=8,pp=4`` or a mapping.

    Raises
    ------
    PlannerError
        If an item is no ``axis=value``, or an axis stands twice or has several values.
    """
    if isinstance(text, str):
        pairs = []
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = item.partition("=")
            if not equals:
                raise PlannerError(f"configuration: found {item!r}, expected AXIS=VALUE.")
            pairs.append((name, value.strip()))
    else:
        pairs = [(name, str(value)) for name, value in text.items()]
    found: dict[str, AxisValue] = {}
    for name, value in pairs:
        axis = find_axis(name).name
        values = axis_values(axis, value)
        if axis in found or len(values) > 1:
            raise PlannerError(f"configuration: found several values for {axis}, expected one.")
        found[axis] = values[0]
    return found


def complete(
    given: Mapping[str, AxisValue], model: ModelSpec, job: TrainingJob, devices: int | None
) -> Configuration:
    """A whole, legal configuration from the axes that are given.

    The rest takes what a user of Megatron-LM gets or would choose: data parallelism over the
    remaining devices; sequence parallelism with tensor parallelism; the interleaved schedule when
    there are chunks; sharded optimizer states (ZeRO 1, for FSDP 3) where ranks hold copies; one
    sequence a micro-batch; no recomputation; all other degrees 1.

    Raises
    ------
    PlannerError
        If a rule forbids it; the message names the rule.
    """
    plain = Configuration(**{k: v for k, v in given.items() if k != "dp"})  # type: ignore[arg-type]
    dense = plain.tp * plain.cp * plain.pp
    if devices is not None and devices % dense:
        raise PlannerError(
            f"rule 'attention mesh': tp * cp * pp must divide the {devices} devices; found"
            f" tp={plain.tp}, cp={plain.cp}, pp={plain.pp}."
        )
    dp = int(given.get("dp", (devices or dense) // dense))
    found = replace(plain, dp=dp)
    if "sequence_parallel" not in given and found.tp > 1:
        splits = job.seq_len % (found.tp * found.cp) == 0
        found = replace(found, sequence_parallel=int(splits or bool(experts_of(model))))
    if "schedule" not in given and found.vpp > 1:
        found = replace(found, schedule="interleaved-1f1b")
    if "zero" not in given:
        copies = found.dp * found.cp > 1 or (bool(experts_of(model)) and found.edp > 1)
        stage = 3 if job.software.name == "fsdp" else 1
        found = replace(found, zero=stage if copies else 0)
    check(found, training_rules(model, job, devices or found.devices))
    return found
