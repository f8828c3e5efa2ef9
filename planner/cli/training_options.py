"""The options of ``roofplan train``, declared once for the command line and for plan files.

Every option arrives as text and is read here, so that both places share units and messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.errors import PlannerError
from planner.specs.parallelism import TRAINING_AXES, Axis
from planner.units import parse_quantity

Read = Callable[[str, str], object]
"""From an option's text and the place where it stands to a value of ``plan_training``."""


def _text(text: str, where: str) -> str:
    if not text.strip():
        raise PlannerError(f"{where}: found nothing, expected a value.")
    return text.strip()


def _count(text: str, where: str) -> int:
    return int(parse_quantity(text, "count", where=where))


def _counts(text: str, where: str) -> list[int]:
    return [_count(item, where) for item in text.split(",")]


def _quantity(dimension: str, allow_zero: bool = False) -> Read:
    def read(text: str, where: str) -> float:
        return parse_quantity(text, dimension, where=where, allow_zero=allow_zero)

    return read


@dataclass(frozen=True)
class Option:
    """One option that is a parameter of ``plan_training``."""

    name: str
    metavar: str
    help: str
    read: Read = _text
    required: bool = False

    @property
    def flag(self) -> str:
        """The option's name on the command line."""
        return "--" + self.name.replace("_", "-")


OPTIONS = {
    option.name: option
    for option in (
        Option("cluster", "NAME", "Cluster: a name (roofplan show clusters) or a YAML file.",
               required=True),
        Option("devices", "N", "Devices to use, or several numbers to try: 512,1024.", _counts),
        Option("max_devices", "N", "Try every sensible number up to this one instead.", _count),
        Option("seq_len", "S", "Tokens in a sequence.", _count, required=True),
        Option("global_batch", "B", "Sequences in an optimizer step.", _count, required=True),
        Option("precision", "NAME", "bf16 (default), fp16, fp8, mxfp8 or nvfp4."),
        Option("software", "NAME", "megatron[-2022|-bridge], fsdp or vtrain; default megatron."),
        Option("top", "N", "Plans to show; default 10.", _count),
        Option("objective", "NAME", "throughput (default), price, devices or memory."),
        Option("tokens", "T", "Tokens to train on, such as 15T.", _quantity("tokens")),
        Option("deadline", "TIME", "Longest training time, such as 30d.", _quantity("time")),
        Option("memory_reserve", "SHARE", "Memory to leave free; default '10 %'.",
               _quantity("fraction", allow_zero=True)),
        Option("max_step_time", "TIME", "Longest step, such as 12s.", _quantity("time")),
        Option("price", "PRICE", "Price of a device, such as 2.10/h.", _quantity("usd/h")),
        Option("pareto", "NAME", "Also find the front of time against memory or price."),
        Option("imbalance", "X", "Tokens of the busiest expert rank over the mean.",
               _quantity("number")),
        Option("baseline", "AXES", "What runs today, such as 'tp=8,pp=4'."),
        Option("measured", "TIME", "Measured step time of the baseline; scales every time.",
               _quantity("time")),
    )
}  # fmt: skip


def axis_flags(axis: Axis) -> list[str]:
    """The options of an axis: its own and its aliases."""
    return [axis.flag, *("--" + alias.replace("_", "-") for alias in axis.aliases)]


def axis_help(axis: Axis) -> str:
    """What the axis is, and its values where they have names."""
    values = f": {', '.join(axis.values)}" if axis.values else ""
    return f"{axis.help[0].upper()}{axis.help[1:]}{values}."


def known_keys() -> list[str]:
    """Every key of a plan file."""
    aliases = [alias for axis in TRAINING_AXES.values() for alias in axis.aliases]
    return ["model", *OPTIONS, *TRAINING_AXES, *aliases, "set", "db", "format", "output"]
