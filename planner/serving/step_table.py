"""Iteration times of one replica, tabulated once and looked up in microseconds.

An iteration of an attention rank holds ``x`` prompt tokens, each seeing ``w`` tokens on average,
and ``D`` sequences that generate at a mean context ``L``.  Projections see ``x + D`` tokens
together, the attention core each kind apart, and the experts the tokens of all ranks, ``t`` a rank,
so that the time is a sum of tables of one or two dimensions::

    T(x, w, D, L) = M(x, D) + G(x, w) + E(D, L) + X(t)

with ``M`` at ``w = x / 2`` and a short context, ``G(0, w) = 0`` and ``E(0, L) = 0``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from planner.layers.inference import Array, Runtime, Split, Step, experts_cost
from planner.serving.iteration import Replica, iteration
from planner.specs.model import MixtureOfExperts, ModelSpec

KNOTS = 40
"""Knots of an axis at most, those that are asked for apart."""
NEAR = 16.0
"""Tokens of the shortest context."""


def _place(knots: list[float], x: float) -> tuple[int, float]:
    """The interval that ``x`` is in, and how far; beyond the ends, the nearest goes on."""
    i = min(max(bisect_right(knots, x) - 1, 0), len(knots) - 2)
    return i, (x - knots[i]) / (knots[i + 1] - knots[i])


@dataclass(frozen=True)
class Linear:
    """A function of one variable, straight between knots.

    Lists, not arrays: a scalar of a list costs a tenth of one of an array.
    """

    knots: list[float]
    values: list[float]

    def __call__(self, x: float) -> float:
        """Value at ``x``."""
        i, u = _place(self.knots, x)
        return self.values[i] + u * (self.values[i + 1] - self.values[i])


@dataclass(frozen=True)
class Bilinear:
    """The same of two variables."""

    rows: list[float]
    columns: list[float]
    values: list[list[float]]

    def __call__(self, x: float, y: float) -> float:
        """Value at ``(x, y)``."""
        i, u = _place(self.rows, x)
        j, v = _place(self.columns, y)
        near, far = self.values[i], self.values[i + 1]
        first = near[j] + v * (near[j + 1] - near[j])
        return first + u * (far[j] + v * (far[j + 1] - far[j]) - first)


@dataclass(frozen=True)
class StepTable:
    """Iteration times of a replica."""

    mixed: Bilinear
    prompts: Bilinear
    decodes: Bilinear
    experts: Linear
    """Time of the experts of all layers, at tokens of an attention rank [s]."""
    token: float
    """Host time of a sequence [s]."""

    def own(
        self, tokens: float, seen: float, prompts: int, decodes: float, context: float
    ) -> float:
        """Time of an iteration of one attention rank without its experts [s].

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
    none, near = np.zeros((1, 1)), np.full((1, 1), NEAR)
    parts = [
        (x[:, None], 0.5 * x[:, None], d[None, :], near, both),
        (x[1:, None], far[None, :], none, near, ahead),
        (none, none, d[1:, None], far[None, :], behind),
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
    edge = np.zeros((1, len(far)))
    prompts = np.vstack([edge, prompts - mixed[1:, :1]])
    alone = np.vstack([edge, alone - mixed[:1, 1:].T])
    tokens, place = np.unique(x[:, None] + d[None, :], return_inverse=True)
    experts = _experts(bare, model, replica, tokens)
    mixed -= experts[place].reshape(both)
    mixed[0, 0] = 0.0
    return StepTable(
        Bilinear(x.tolist(), d.tolist(), mixed.tolist()),
        Bilinear(x.tolist(), far.tolist(), prompts.tolist()),
        Bilinear(d.tolist(), far.tolist(), alone.tolist()),
        Linear(tokens.tolist(), experts.tolist()),
        engine.token,
    )


def _knots(high: float) -> Array:
    """Whole numbers from 0 to ``high``, all of the small ones."""
    return np.append(0.0, np.unique(np.round(np.geomspace(1.0, max(high, 2.0), KNOTS))))


def _rows(replica: Replica, like: Array) -> Replica:
    """The first row, as often as ``like`` is long."""
    split = replica.split
    ways = (split.tp, split.attention_dp, split.ep, split.moe_tp, replica.pp)
    *parts, pp = (np.full_like(like, way[0]) for way in ways)
    return Replica(Split(*parts), pp)


def _seconds(
    run: Runtime, model: ModelSpec, replica: Replica, x: Array, w: Array, d: Array, far: Array
) -> Array:
    """Times of iterations whose ``x`` prompt tokens see ``w`` tokens on average [s].

    One prompt with ``w - x / 2`` tokens before it or, where that is negative, several of ``2 w``.
    """
    prompts = np.maximum(1.0, x / np.maximum(2.0 * w, 1.0))
    chunk = x / prompts
    cached, one = np.maximum(w - 0.5 * chunk, 0.0), np.ones_like(x)
    step = Step(np.where(x > 0, prompts, 0.0), chunk, cached, d, far, one)
    return np.asarray(iteration(run, model, _rows(replica, x), step).seconds)


def _experts(run: Runtime, model: ModelSpec, replica: Replica, tokens: Array) -> Array:
    """Times of the experts of all layers at ``tokens`` of each attention rank [s]."""
    split = _rows(replica, tokens).split
    total = np.zeros_like(tokens)
    for part, count in Counter(layer.feedforward for layer in model.layers).items():
        if isinstance(part, MixtureOfExperts):
            total += count * np.asarray(experts_cost(run, part, split, tokens).seconds)
    return np.where(tokens > 0, total, 0.0)
