"""The replicas that a model can be served by: every legal split of its layers over devices."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from planner.layers.inference import Split
from planner.serving.iteration import Replica
from planner.specs.hardware import Cluster
from planner.specs.model import MixtureOfExperts, ModelSpec

STAGES = (1, 2, 4, 8)
"""Pipeline stages that are tried."""


def replicas(model: ModelSpec, cluster: Cluster, most: int) -> Replica:
    """Every layout of up to ``most`` devices, in a fixed order.

    Tensor parallelism stays inside the fast domain and divides the heads; attention is replicated
    only where experts are spread over the replicas, which then share them evenly.
    """
    found = np.array(sorted(set(_layouts(model, cluster, most))), dtype=float)
    tp, dp, pp, ep = found.reshape(-1, 4).T
    return Replica(Split(tp, dp, ep, tp * dp / ep), pp)


def _layouts(model: ModelSpec, cluster: Cluster, most: int) -> Iterator[tuple[int, int, int, int]]:
    """tp, attention_dp, pp, ep."""
    fabric = [tier.devices for tier in cluster.tiers if tier.topology != "fat-tree"]
    domain = max(fabric, default=cluster.devices_per_node)
    heads = [layer.attention.heads for layer in model.layers]
    experts = [
        layer.feedforward.experts
        for layer in model.layers
        if isinstance(layer.feedforward, MixtureOfExperts)
    ]
    tensor = [t for t in range(1, domain + 1) if domain % t == 0 and all(h % t == 0 for h in heads)]
    copies = [2**i for i in range(most.bit_length())] if experts else [1]
    for tp, dp, pp in product(tensor, copies, STAGES):
        if tp * dp * pp > most or pp > model.num_layers:
            continue
        spread = bool(experts) and all(count % (tp * dp) == 0 for count in experts)
        if dp == 1:
            yield tp, dp, pp, 1
        if spread and tp * dp > 1:
            yield tp, dp, pp, tp * dp
