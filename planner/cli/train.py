"""``roofplan train``: rank the ways to pre-train a model on a cluster.

The command's signature is made of the declared options and axes; nothing is listed twice.
"""

from __future__ import annotations

from typing import Any

import typer

from planner.cli.answer import Asked, answer
from planner.cli.options import signature
from planner.cli.progress import Bar
from planner.cli.training_options import TRAIN

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def train(**options: Any) -> None:
    """Rank the ways to pre-train a model on a cluster, or cost one.

    An axis takes one value or several (--pp 4,8); with every axis fixed the answer is an estimate
    of that one configuration.  With --pareto, tab- and comma-separated values hold the front.
    """
    asked = Asked.of(TRAIN, options)
    from planner.training.plan import plan_training

    with Bar() as bar:
        ranking = plan_training(asked.model, progress=bar, **asked.question)
    answer(ranking, asked.form, asked.output)


train.__signature__ = signature(TRAIN)  # type: ignore[attr-defined]
app.command()(train)
