"""Iteration times of one replica, tabulated once and looked up in microseconds.

An iteration holds ``x`` prompt tokens, each seeing ``w`` tokens on average, and ``D`` sequences
that generate at a mean context ``L``.  Projections and experts see ``x + D`` tokens together, the
attention core each kind apart, so that the time is a sum of three tables of two dimensions::

    T(x, w, D, L) = M(x, D) + G(x, w) + E(D, L)

with ``M`` at ``w = x / 2`` and a short context, ``G(0, w) = 0`` and ``E(0, L) = 0``.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np

from planner.layers.inference import Array, Runtime, Split, Step
from planner.serving.iteration import Replica, iteration
from planner.specs.model import ModelSpec

KNOTS = 40
"""Knots of an axis at most."""
NEAR = 16.0
"""Tokens of the shortest context."""


@dataclass(frozen=True)
class Bilinear:
    """A function of two variables between the knots of a grid; outside, its edges go on straight.

    Lists, not arrays: a scalar of a list costs a tenth of one of an array.
    """

    rows: list[float]
    columns: list[float]
    values: list[list[float]]

    def __call__(self, x: float, y: float) -> float:
        """Value at ``(x, y)``."""
        i = min(max(bisect_right(self.rows, x) - 1, 0), len(self.rows) - 2)
        j = min(max(bisect_right(self.columns, y) - 1, 0), len(self.columns) - 2)
        left, low = self.rows[i], self.columns[j]
        u = (x - left) / (self.rows[i + 1] - left)
        v = (y - low) / (self.columns[j + 1] - low)
        near, far = self.values[i], self.values[i + 1]
        first = near[j] + v * (near[j + 1] - near[j])
        return first + u * (far[j] + v * (far[j + 1] - far[j]) - first)


@dataclass(frozen=True)
class StepTable:
    """Iteration times of one attention rank of a replica."""

    mixed: Bilinear
    prompts: Bilinear
    decodes: Bilinear
    token: float
    """Host time of a sequence [s]."""

    def __call__(
        self, tokens: float, seen: float, prompts: int, decodes: float, context: float
    ) -> float:
        """Time of an iteration [s].

        ``tokens`` of ``prompts`` prompts see ``seen`` tokens on average, ``decodes`` sequences
        generate at a mean ``context``.
        """
        seconds = self.mixed(tokens, decodes) + self.token * (prompts + decodes)
        if tokens:
            seconds += self.prompts(tokens, seen)
        if decodes:
            seconds += self.decodes(decodes, context)
        return seconds


def step_table(
    run: Runtime,
    model: ModelSpec,
    replica: Replica,
    decodes: float,
    context: float,
    usual: Array | None = None,
) -> StepTable:
    """Tabulate the first row of ``replica`` in one evaluation.

    Parameters
    ----------
    decodes : float
        Most sequences of an attention rank that generate at a time.
    context : float
        Longest context [tokens].
    usual : array (n,)
        Prompt tokens that many iterations have; they become knots.
    """
    engine = run.engine
    bare = replace(run, engine=replace(engine, token=0.0))
    x = np.union1d(_knots(engine.chunk), [] if usual is None else usual)
    d = _knots(decodes)
    far = np.geomspace(NEAR, max(context, 2.0 * NEAR), KNOTS)
    both, ahead, behind = ((len(x), len(d)), (len(x) - 1, len(far)), (len(d) - 1, len(far)))
    parts = [
        (x[:, None], 0.5 * x[:, None], d[None, :], np.full((1, 1), NEAR), both),
        (x[1:, None], far[None, :], np.zeros((1, 1)), np.full((1, 1), NEAR), ahead),
        (np.zeros((1, 1)), np.zeros((1, 1)), d[1:, None], far[None, :], behind),
    ]
    columns = [
        np.concatenate([np.broadcast_to(part[i], part[4]).ravel() for part in parts])
        for i in range(4)
    ]
    seconds = _seconds(bare, model, replica, *columns)
    cuts = np.cumsum([np.prod(part[4]) for part in parts])[:-1]
    mixed, prompts, alone = (
        table.reshape(part[4]) for table, part in zip(np.split(seconds, cuts), parts, strict=True)
    )
    zero = np.zeros((1, len(far)))
    prompts = np.vstack([zero, prompts - mixed[1:, :1]])
    alone = np.vstack([zero, alone - mixed[:1, 1:].T])
    mixed[0, 0] = 0.0
    return StepTable(
        Bilinear(x.tolist(), d.tolist(), mixed.tolist()),
        Bilinear(x.tolist(), far.tolist(), prompts.tolist()),
        Bilinear(d.tolist(), far.tolist(), alone.tolist()),
        engine.token,
    )


def _knots(high: float) -> Array:
    """Whole numbers from 0 to ``high``, all of the small ones."""
    return np.append(0.0, np.unique(np.round(np.geomspace(1.0, max(high, 2.0), KNOTS))))


def _seconds(
    run: Runtime, model: ModelSpec, replica: Replica, x: Array, w: Array, d: Array, far: Array
) -> Array:
    """Times of iterations whose ``x`` prompt tokens see ``w`` tokens on average [s].

    One prompt with ``w - x / 2`` tokens before it or, where that is negative, several of ``2 w``.
    """
    prompts = np.maximum(1.0, x / np.maximum(2.0 * w, 1.0))
    chunk = x / prompts
    step = Step(
        np.where(x > 0, prompts, 0.0),
        chunk,
        np.maximum(w - 0.5 * chunk, 0.0),
        d,
        far,
        1.0 + 0.0 * d,
    )
    split = replica.split
    ways = (split.tp, split.attention_dp, split.ep, split.moe_tp, replica.pp)
    *parts, pp = (np.full_like(x, part[0]) for part in ways)
    return np.asarray(iteration(run, model, Replica(Split(*parts), pp), step).seconds)
