"""``roofplan train``: rank the ways to pre-train a model on a cluster.

The command's signature is made of the declared options and axes; nothing is listed twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from planner.cli.answer import answer
from planner.cli.output import FORMATS, check_format, format_of
from planner.cli.plan_file import Given, read_plan
from planner.cli.progress import Bar
from planner.cli.training_options import OPTIONS, axis_flags, axis_help
from planner.errors import PlannerError
from planner.results.files import check_writable
from planner.specs.parallelism import TRAINING_AXES

app = typer.Typer(rich_markup_mode=None, add_completion=False)

DEVICES = {"devices", "max_devices"}
"""Two ways to say one thing: either on the command line replaces either in a file."""


def train(**options: Any) -> None:
    """Rank the ways to pre-train a model on a cluster, or cost one.

    An axis takes one value or several (--pp 4,8); with every axis fixed the answer is an estimate
    of that one configuration.  With --pareto, tab- and comma-separated values hold the front.
    """
    given: Given = {k: value for k, value in options.items() if value not in (None, [], ())}
    path = _take(given, "input")
    given = _merge({} if path is None else read_plan(path), given)
    model, form, output = (_take(given, name) for name in ("model", "format", "output"))
    check_format(form)
    if model is None:
        raise PlannerError("MODEL: missing; expected a name (roofplan show models) or a path.")
    question = _question(given, path)
    if output is not None:
        check_writable(output)
    from planner.training.plan import plan_training

    with Bar() as bar:
        ranking = plan_training(model, progress=bar, **question)
    answer(ranking, format_of(form, output), output)


def _take(given: Given, name: str) -> str | None:
    """Remove and return an option that is no parameter of ``plan_training``."""
    value = given.pop(name, None)
    return value if value is None else str(value)


def _merge(file: Given, line: Given) -> Given:
    """The file's options under the command line's; what repeats adds up."""
    file = {k: v for k, v in file.items() if not (k in DEVICES and DEVICES & line.keys())}
    merged: Given = {**file, **line}
    for name, order in (("set", (file, line)), ("db", (line, file))):
        items = [item for source in order for item in source.get(name, [])]
        if items:
            merged[name] = items
    return merged


def _question(given: Mapping[str, str | list[str]], path: str | None) -> dict[str, Any]:
    """The keyword arguments of ``plan_training``."""
    found: dict[str, Any] = {"fixed": {}}
    for name, text in given.items():
        if name in TRAINING_AXES:
            found["fixed"][name] = text
        elif name == "set":
            found["overrides"] = dict(_setting(item) for item in text)
        elif name == "db":
            found["db"] = list(text)
        else:
            found[name] = OPTIONS[name].read(str(text), OPTIONS[name].flag)
    for option in OPTIONS.values():
        if option.required and option.name not in found:
            where = f" and in {path}" if path else ""
            raise PlannerError(f"{option.flag}: missing on the command line{where}.")
    return found


def _setting(item: str) -> tuple[str, str]:
    field, equals, value = item.partition("=")
    if not (equals and field.strip() and value.strip()):
        raise PlannerError(f"--set: found {item!r}, expected hardware.FIELD=VALUE.")
    return field.strip(), value.strip()


def _signature() -> inspect.Signature:
    """MODEL, the options, the axes, and where the answer goes."""

    def option(name: str, kind: Any, flags: list[str], metavar: str, text: str) -> Any:
        info = typer.Option(*flags, metavar=metavar, help=text)
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, info]
        )

    text, texts = str | None, list[str] | None
    model = typer.Argument(metavar="MODEL", help="A name (roofplan show models) or a config.json.")
    parameters = [
        inspect.Parameter(
            "model",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[text, model],
        ),
        *(option(o.name, text, [o.flag], o.metavar, o.help) for o in OPTIONS.values()),
        *(
            option(axis.name, text, axis_flags(axis), "VALUES", axis_help(axis))
            for axis in TRAINING_AXES.values()
        ),
        option(
            "input",
            text,
            ["--input"],
            "FILE",
            "Read options from a YAML file; the command line wins.",
        ),
        option(
            "set",
            texts,
            ["--set"],
            "hardware.FIELD=VALUE",
            "Change a number of the hardware; repeatable.",
        ),
        option("db", texts, ["--db"], "DIR", "Search this database first; repeatable."),
        option("format", text, ["--format"], "|".join(FORMATS), "How to answer."),
        option("output", text, ["--output"], "FILE", "Write the answer to a file."),
    ]
    return inspect.Signature(parameters)


train.__signature__ = _signature()  # type: ignore[attr-defined]
app.command()(train)
