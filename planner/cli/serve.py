"""``roofplan serve``: rank the ways to serve a model on machines.

The command's signature is made of the declared options and axes; nothing is listed twice.
"""

from __future__ import annotations

from typing import Any

import typer

from planner.cli.answer import Asked, answer
from planner.cli.options import signature
from planner.cli.serving_options import SERVE

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def serve(**options: Any) -> None:
    """Rank the ways to serve a model on machines, or cost one.

    An axis takes one value or several (--tp 4,8); with every axis fixed the answer is an estimate
    of that one deployment.  With --pareto, tab- and comma-separated values hold the front.
    """
    asked = Asked.of(SERVE, options)
    from planner.serving.plan import plan_serving

    ranking = plan_serving(asked.model, **asked.question)
    answer(ranking, asked.form, asked.output)


serve.__signature__ = signature(SERVE)  # type: ignore[attr-defined]
app.command()(serve)
