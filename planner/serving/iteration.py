"""Time of one engine iteration: all layers of a pipeline stage, the logits, the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from planner.costs import collectives
from planner.costs.terms import Ref, term
from planner.costs.tree import Cost, leaf, repeat, seq
from planner.layers.inference import Array, Runtime, Split, Step, head_cost, layer_costs
from planner.specs.model import Layer, ModelSpec

STEP_LAYERS = 64
"""Layers of the model that an engine's ``step`` is said for."""


@dataclass(frozen=True)
class Replica:
    """One engine: its split of a layer and its pipeline stages; arrays of shape ``(n,)``."""

    split: Split
    pp: Array

    @property
    def devices(self) -> Array:
        """Devices of the replica."""
        return self.split.tp * self.split.attention_dp * self.pp


@lru_cache(maxsize=64)
def _kinds(layers: tuple[Layer, ...]) -> Mapping[Layer, int]:
    """How many layers of each kind."""
    return Counter(layers)


@term(
    "one more layer and the logits for every draft",
    Ref("DeepSeek-V3, arXiv 2412.19437", "section 2.2, multi-token prediction"),
)
def draft_seconds(run: Runtime, model: ModelSpec, split: Split, step: Step) -> Array:
    """Time to draft what the next step checks, with a layer like the last [s]."""
    if not np.any(step.verified > 1.0):
        return np.zeros_like(step.verified)
    one = np.ones_like(step.decodes)
    alone = Step(0.0 * one, one, 0.0 * one, step.decodes, step.context, one)
    layer = layer_costs(run, model.layers[-1:], split, alone)[model.layers[-1]]
    head = head_cost(run, model.vocab, split, step.decodes)
    return np.asarray((step.verified - 1.0) * (layer.seconds + head.seconds))


def iteration(run: Runtime, model: ModelSpec, replica: Replica, step: Step) -> Cost:
    """Time of one iteration of a replica [s].

    With ``pp`` stages as many batches are in flight, so that an iteration of a batch passes all
    stages one after the other.
    """
    split = replica.split
    kinds = _kinds(model.layers)
    costs = layer_costs(run, kinds, split, step)
    parts = [repeat("layers", costs[kind], float(count)) for kind, count in kinds.items()]
    nbytes = 2.0 * step.tokens * model.hidden
    stride = split.tp * split.attention_dp
    hop = collectives.point_to_point(run.net, stride, nbytes)
    engine = run.engine
    gaps = engine.step * model.num_layers / STEP_LAYERS
    host = gaps + engine.token * (step.decodes + step.prefills)
    return seq(
        "iteration",
        [
            run.moved("embedding", 4.0 * step.tokens * model.hidden),
            *parts,
            leaf("drafts", draft_seconds(run, model, split, step), "compute"),
            leaf("stage to stage (PP)", (replica.pp - 1.0) * hop, "link"),
            head_cost(run, model.vocab, split, step.rows),
            leaf("host", host, "host"),
        ],
    )
