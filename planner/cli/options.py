"""Options of a command that are parameters of a function: how each is named, told and read.

Every option arrives as text and is read here, so that the command line and plan files share units
and messages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from planner.cli.output import FORMATS
from planner.errors import PlannerError
from planner.specs.parallelism import Axis
from planner.units import parse_quantity

Given = dict[str, str | list[str]]
"""Options as text by name; those that repeat as lists."""

Read = Callable[[str, str], object]
"""From an option's text and the place where it stands to a value of the function."""


def read_text(text: str, where: str) -> str:
    """Text, not empty."""
    if not text.strip():
        raise PlannerError(f"{where}: found nothing, expected a value.")
    return text.strip()


def read_count(text: str, where: str) -> int:
    """A whole number such as ``512`` or ``2k``."""
    return int(parse_quantity(text, "count", where=where))


def read_counts(text: str, where: str) -> list[int]:
    """Whole numbers with commas between."""
    return [read_count(item, where) for item in text.split(",")]


def read_flag(text: str, where: str) -> bool:
    """``true`` or ``false``: an option that takes no value on the command line."""
    words = {"true": True, "false": False}
    if text.strip().lower() not in words:
        raise PlannerError(f"{where}: found {text!r}, expected true or false.")
    return words[text.strip().lower()]


def read_time(text: str, where: str) -> float:
    """``300ms``, ``0.3s`` or a bare number of seconds."""
    try:
        return float(text)
    except ValueError:
        return parse_quantity(text, "time", where=where)


def quantity(dimension: str, allow_zero: bool = False) -> Read:
    """A reader of quantities of a dimension of ``planner.units``."""

    def read(text: str, where: str) -> float:
        return parse_quantity(text, dimension, where=where, allow_zero=allow_zero)

    return read


@dataclass(frozen=True)
class Option:
    """One option that is a parameter of the function."""

    name: str
    metavar: str
    help: str
    read: Read = read_text
    required: bool = False
    repeatable: bool = False

    @property
    def flag(self) -> str:
        """The option's name on the command line."""
        return "--" + self.name.replace("_", "-")


def axis_flags(axis: Axis) -> list[str]:
    """The options of an axis: its own and its aliases."""
    return [axis.flag, *("--" + alias.replace("_", "-") for alias in axis.aliases)]


def axis_help(axis: Axis) -> str:
    """What the axis is, and its values where they have names."""
    values = f": {', '.join(axis.values)}" if axis.values else ""
    return f"{axis.help[0].upper()}{axis.help[1:]}{values}."


@dataclass(frozen=True)
class Command:
    """A command whose options and axes are the parameters of one function."""

    name: str
    options: Mapping[str, Option]
    axes: Mapping[str, Axis]

    @property
    def aliases(self) -> dict[str, str]:
        """Other names of axes."""
        return {alias: axis.name for axis in self.axes.values() for alias in axis.aliases}

    @property
    def keys(self) -> list[str]:
        """Every key of a plan file."""
        names = [*self.options, *self.axes, *self.aliases]
        return ["model", *names, "set", "db", "format", "output"]

    @property
    def repeatable(self) -> list[str]:
        """Options that may stand several times."""
        return ["set", "db", *(o.name for o in self.options.values() if o.repeatable)]


def setting(item: str) -> tuple[str, str]:
    """``hardware.FIELD=VALUE`` as a pair."""
    field, equals, value = item.partition("=")
    if not (equals and field.strip() and value.strip()):
        raise PlannerError(f"--set: found {item!r}, expected hardware.FIELD=VALUE.")
    return field.strip(), value.strip()


def question(command: Command, given: Given, path: str | None) -> dict[str, Any]:
    """The keyword arguments of the function from options as text; ``path`` is the plan file.

    Raises
    ------
    PlannerError
        If a text is not what its option expects, or a required option is missing.
    """
    found: dict[str, Any] = {"fixed": {}}
    for name, text in given.items():
        if name in command.axes:
            found["fixed"][name] = text
        elif name == "set":
            found["overrides"] = dict(setting(item) for item in text)
        elif name == "db":
            found["db"] = list(text)
        else:
            option = command.options[name]
            texts = text if isinstance(text, list) else [text]
            values = [option.read(one, option.flag) for one in texts]
            found[name] = values if option.repeatable else values[0]
    for option in command.options.values():
        if option.required and option.name not in found:
            where = f" and in {path}" if path else ""
            raise PlannerError(f"{option.flag}: missing on the command line{where}.")
    return found


def signature(command: Command) -> inspect.Signature:
    """MODEL, the options, the axes, and where the answer goes."""

    keyword, text, texts = inspect.Parameter.KEYWORD_ONLY, str | None, list[str] | None

    def parameter(name: str, kind: Any, flags: list[str], metavar: str | None, told: str) -> Any:
        info = typer.Option(*flags, metavar=metavar, help=told)
        return inspect.Parameter(name, keyword, default=None, annotation=Annotated[kind, info])

    def of(option: Option) -> Any:
        kind = bool | None if option.read is read_flag else texts if option.repeatable else text
        metavar = None if option.read is read_flag else option.metavar
        return parameter(option.name, kind, [option.flag], metavar, option.help)

    model = typer.Argument(metavar="MODEL", help="A name (roofplan show models) or a config.json.")
    parameters = [
        inspect.Parameter("model", keyword, default=None, annotation=Annotated[text, model]),
        *map(of, command.options.values()),
        *(
            parameter(axis.name, text, axis_flags(axis), "VALUES", axis_help(axis))
            for axis in command.axes.values()
        ),
        parameter(
            "input",
            text,
            ["--input"],
            "FILE",
            "Read options from a YAML file; the command line wins.",
        ),
        parameter(
            "set",
            texts,
            ["--set"],
            "hardware.FIELD=VALUE",
            "Change a number of the hardware; repeatable.",
        ),
        parameter("db", texts, ["--db"], "DIR", "Search this database first; repeatable."),
        parameter("format", text, ["--format"], "|".join(FORMATS), "How to answer."),
        parameter("output", text, ["--output"], "FILE", "Write the answer to a file."),
    ]
    return inspect.Signature(parameters)
