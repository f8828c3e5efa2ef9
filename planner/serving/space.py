"""The replicas that a model can be served by: every legal split of its layers over devices."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from planner.layers.inference import Split
from planner.serving.iteration import Replica
from planner.specs.hardware import Cluster
from planner.specs.model import GroupedQueryAttention, Layer, MixtureOfExperts, ModelSpec

STAGES = (1, 2, 3, 4, 8)
"""Pipeline stages that are tried."""


def replicas(model: ModelSpec, cluster: Cluster, most: int) -> Replica:
    """Every layout of up to ``most`` devices, in a fixed order.

    Tensor parallelism stays inside the fast domain and divides the heads; attention is replicated
    only where experts are spread over the replicas, which then share them evenly.
    """
    found = np.array(sorted(set(_layouts(model, cluster, most))), dtype=float)
    tp, dp, pp, ep = found.reshape(-1, 4).T
    return Replica(Split(tp, dp, ep, tp * dp / ep), pp)


def pick(replica: Replica, index: NDArray[np.int64] | list[int]) -> Replica:
    """Some of the replicas."""
    split = replica.split
    parts = (split.tp, split.attention_dp, split.ep, split.moe_tp)
    return Replica(Split(*(part[index] for part in parts)), replica.pp[index])


def layout_of(replica: Replica) -> list[tuple[float, ...]]:
    """tp, attention_dp, ep and pp of every replica."""
    split = replica.split
    return list(zip(split.tp, split.attention_dp, split.ep, replica.pp, strict=True))


def fast_domain(cluster: Cluster) -> int:
    """Devices that tensor parallelism may span."""
    fabric = [tier.devices for tier in cluster.tiers if tier.topology != "fat-tree"]
    return max(fabric, default=cluster.devices_per_node)


def tensor_degrees(model: ModelSpec, domain: int) -> list[int]:
    """Ways to split heads that fit into ``domain`` devices."""
    return [t for t in range(1, domain + 1) if all(_divides(t, one) for one in set(model.layers))]


def _divides(tp: int, layer: Layer) -> bool:
    spec = layer.attention
    if spec.heads % tp:
        return False
    if isinstance(spec, GroupedQueryAttention):
        return spec.kv_heads % tp == 0 or tp % spec.kv_heads == 0
    return True


def _layouts(model: ModelSpec, cluster: Cluster, most: int) -> Iterator[tuple[int, int, int, int]]:
    """tp, attention_dp, pp, ep."""
    domain = fast_domain(cluster)
    experts = [
        layer.feedforward.experts
        for layer in model.layers
        if isinstance(layer.feedforward, MixtureOfExperts)
    ]
    copies = [2**i for i in range(most.bit_length())] if experts else [1]
    for tp, dp, pp in product(tensor_degrees(model, domain), copies, STAGES):
        if tp * dp * pp > most or pp > model.num_layers:
            continue
        spread = bool(experts) and all(count % (tp * dp) == 0 for count in experts)
        if dp == 1:
            yield tp, dp, pp, 1
        if spread and tp * dp > 1:
            yield tp, dp, pp, tp * dp
