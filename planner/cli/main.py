"""``roofplan``: finds the subcommand, and turns errors into one line and an exit code.

A subcommand's module is imported when it is run, so that ``roofplan --help`` answers at once.
Exit codes: 0 fine, 2 bad input, 3 nothing feasible, 4 stopped by a limit without proof.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from planner import __version__
from planner.cli.output import abandon_stdout
from planner.errors import PlannerError

COMMANDS = {
    "train": "Rank the ways to pre-train a model on a cluster, or cost one.",
    "serve": "Rank the ways to serve a model on machines, or cost one.",
    "place": "Place experts on devices, with replicas, and say what that gains.",
    "make-loads": "Make loads of a model's experts, skewed as published models are.",
    "explain": "Show why a plan of a result file takes its time.",
    "compare": "Show what makes the difference between two plans of a result file.",
    "show": "List the hardware, clusters, models, equations and axes, or describe one.",
    "calibrate": "Fit the planner's parameters to a machine's own times.",
    "validate": "Score the planner against published measurements.",
}
"""Subcommands in the order of the help, each with the first sentence of its own."""

BAD_INPUT = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
"""128 and the number of SIGINT or SIGPIPE, as shells report them."""


USAGE_ERRORS: tuple[type[Exception], ...] = tuple(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)
"""What typer raises for a wrong command line; it has no public name for it."""


class Commands(TyperGroup):
    """Subcommands that are imported when they are needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The subcommand of that name.

        Raises
        ------
        PlannerError
            If there is none; the message holds the nearest names.
        """
        if cmd_name not in COMMANDS:
            from planner.specs.folders import near

            raise PlannerError(
                f"unknown command {cmd_name!r}{near(cmd_name, COMMANDS)}; expected one of"
                f" {', '.join(COMMANDS)}."
            )
        return get_command(import_module(f"planner.cli.{cmd_name.replace('-', '_')}").app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table of subcommands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(cls=Commands, rich_markup_mode=None, add_completion=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"roofplan {__version__}")
        raise typer.Exit


@app.callback()
def roofplan(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Plan LLM training and serving: the best configurations on a cluster, ranked and explained."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; ``arguments`` default to the command line's."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, who wants none of it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 still gets its table
    try:
        code = _run(given or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_stdout()  # the reader has gone (``roofplan ... | head``)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        # Not ``Command.main``, which turns a broken pipe and an interrupt into codes of its own.
        with get_command(app).make_context("roofplan", list(arguments)) as context:
            context.command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except PlannerError as error:
        return _complain(str(error), error.exit_code)
    except typer.Abort:
        return INTERRUPTED
    except USAGE_ERRORS as error:
        return _complain(error.format_message(), BAD_INPUT)  # type: ignore[attr-defined]
    return 0


def _complain(message: str, code: int) -> int:
    """One line on stderr."""
    sys.stdout.flush()
    print(f"roofplan: {' '.join(message.split())}", file=sys.stderr)
    return code
