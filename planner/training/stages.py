"""How layers spread over pipeline stages, and which devices of a pipeline differ.

Stages may be unequal.  The rule: every stage gets ``L // S`` layers, and the ``L % S`` left over go
to the middle stages first, then the first, then the last, so the stages that carry the vocabulary
have the fewest; they may have none (Llama 3.1's 126 layers on 128 stages).  A layer of multi-token
prediction counts as one of the last stage's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.costs.pipeline import Schedule
from planner.costs.terms import Ref, term
from planner.specs.model import Layer, ModelSpec
from planner.specs.parallelism import chunks


@dataclass(frozen=True)
class Device:
    """What one device of the pipeline holds, and the share of its work in a micro-batch.

    ``layers`` counts each of the model's distinct layers.  ``share`` is 1, or 1/2 where a device
    serves two directions and each micro-batch takes one of them.
    """

    layers: tuple[int, ...]
    embeddings: float
    heads: float
    mtp: int
    share: float
    position: int
    """The first device of the pipeline with these contents; it keeps the most activations."""
    count: int = 1
    """Devices of the pipeline with these contents."""

    @property
    def holds(self) -> tuple[tuple[int, ...], float, float, int]:
        """Layers, input embeddings, heads and multi-token-prediction layers."""
        return self.layers, self.embeddings, self.heads, self.mtp


def distinct_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Layers that differ, in order of first appearance."""
    return list(dict.fromkeys(layers))


def split(num_layers: int, stages: int, mtp: int = 0) -> list[int]:
    """Layers a stage, by the rule of this module.

    >>> split(61, 16, 1)
    [3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 2]
    """
    base, extra = divmod(num_layers + mtp, stages)
    middle = list(range(1, stages - 1))
    order = [*middle, 0, stages - 1] if stages > 1 else [0]
    counts = [base] * stages
    for index in order[:extra]:
        counts[index] += 1
    counts[-1] -= mtp
    return counts


@term(
    "n_last minimises max(ceil((L - n_last) / (S - 1)), n_last + head FLOPs / layer FLOPs)",
    Ref("arXiv 2411.05288 (Vocabulary Parallelism)", "section 6.2, Redis"),
)
def redistribute(model: ModelSpec, stages: int) -> list[int]:
    """Layers a stage when the last stage gives up layers to make room for the head.

    Weighs the head by its FLOPs per token against the mean layer's, as the paper does.
    """
    layers = model.num_layers
    weight = model.embedding_parameters / (
        sum(layer.active_parameters(model.hidden) for layer in model.layers) / layers
    )

    def longest(last: int) -> float:
        return max(-(-(layers - last) // (stages - 1)), last + weight)

    last = min(range(layers // stages, -1, -1), key=longest)
    return [*split(layers - last, stages - 1), last]


def devices(
    model: ModelSpec, schedule: Schedule, p: int, vpp: int, mtp: bool, vocabulary: str = "ends"
) -> tuple[Device, ...]:
    """The distinct devices of a pipeline of ``p``; none where a middle stage is empty.

    Grouping keeps the result exact: devices with the same contents take the same time, and the
    first of them keeps the most activations.  ``vocabulary`` other than ``ends`` and
    ``redistributed`` gives every device an equal share of the vocabulary layers.
    """
    per_device = chunks(schedule.name, vpp)
    stages = p * per_device
    mtp_layers = len(model.mtp_layers) if mtp else 0
    if vocabulary == "redistributed":
        counts = redistribute(model, stages)
    else:
        counts = split(model.num_layers, stages, mtp_layers)
    spread = vocabulary not in ("ends", "redistributed")
    inner = counts if spread else counts[1:-1]
    if min(inner, default=1) < 1 or min(counts) < 0:
        return ()
    kinds = {layer: i for i, layer in enumerate(distinct_layers(model.layers))}
    starts = [sum(counts[:i]) for i in range(stages)]

    def contents(stage: int) -> tuple[int, ...]:
        held = [0] * len(kinds)
        for layer in model.layers[starts[stage] : starts[stage] + counts[stage]]:
            held[kinds[layer]] += 1
        return tuple(held)

    per_stage = [contents(stage) for stage in range(stages)]
    found: dict[tuple[object, ...], Device] = {}
    share = 0.5 if schedule.layout == "mirror" else 1.0
    for d in range(p):
        if schedule.layout == "line":
            held = [d + j * p for j in range(per_device)]
        elif schedule.layout == "vee":
            held = [d, 2 * p - 1 - d]
        else:
            held = [d, p - 1 - d]
        layers = tuple(sum(column) for column in zip(*(per_stage[s] for s in held), strict=True))
        first, last = held.count(0), held.count(stages - 1)
        ends = (1.0 / p, 1.0 / p) if spread else (float(first), float(last))
        key = (layers, ends, last * mtp_layers)
        if key in found:
            found[key] = replace(found[key], count=found[key].count + 1)
        else:
            found[key] = Device(layers, *ends, last * mtp_layers, share, d)
    return tuple(found.values())
