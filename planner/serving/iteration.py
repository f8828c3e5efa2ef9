"""Time of one engine iteration: all layers of a pipeline stage, the logits, the host."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from planner.costs import collectives
from planner.costs.tree import Cost, leaf, repeat, seq
from planner.layers.inference import Array, Runtime, Split, Step, head_cost, layer_cost
from planner.specs.model import ModelSpec


@dataclass(frozen=True)
class Replica:
    """One engine: its split of a layer and its pipeline stages; arrays of shape ``(n,)``."""

    split: Split
    pp: Array

    @property
    def devices(self) -> Array:
        """Devices of the replica."""
        return self.split.tp * self.split.attention_dp * self.pp


def iteration(run: Runtime, model: ModelSpec, replica: Replica, step: Step) -> Cost:
    """Time of one iteration of a replica [s].

    With ``pp`` stages as many batches are in flight, so that an iteration of a batch passes all
    stages one after the other.
    """
    split = replica.split
    parts = [
        repeat("layers", layer_cost(run, layer, split, step), float(count))
        for layer, count in Counter(model.layers).items()
    ]
    nbytes = 2.0 * step.tokens * model.hidden
    stride = split.tp * split.attention_dp
    hop = collectives.point_to_point(run.net, stride, nbytes)
    engine = run.engine
    host = engine.step + engine.token * (step.decodes + step.prefills)
    return seq(
        "iteration",
        [
            run.moved("embedding", 4.0 * step.tokens * model.hidden),
            *parts,
            leaf("stage to stage (PP)", (replica.pp - 1.0) * hop, "link"),
            head_cost(run, model.vocab, split, step.rows),
            leaf("host", host + np.zeros_like(step.decodes), "host"),
        ],
    )
