"""What one part of a layer costs: forward, backward in two halves, and what it keeps.

The backward pass splits into input gradients and weight gradients, since zero-bubble schedules move
the latter and collectives hide behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.costs import kernels
from planner.costs.topology import Network
from planner.costs.tree import Cost, Seconds, leaf
from planner.specs.hardware import Accelerator
from planner.specs.workload import TrainingJob

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """All that the parts of one search share."""

    device: Accelerator
    net: Network
    job: TrainingJob
    hidden: int
    dispatch: str = "all-to-all"
    context_parallel: str = "ring"


@dataclass(frozen=True)
class Sharding:
    """How the dense part of a layer is split; arrays of shape ``(n,)``."""

    tp: Array
    cp: Array
    sequence_parallel: Array
    """0 or 1."""
    micro_batch: Array

    def tokens(self, seq_len: int) -> Array:
        """Tokens of a micro-batch that a tensor-parallel group holds."""
        return self.micro_batch * seq_len / self.cp

    @property
    def norm_split(self) -> Array:
        """Ways in which activations outside the tensor-parallel regions are split."""
        return np.where(self.sequence_parallel > 0, self.tp, 1.0)


@dataclass(frozen=True)
class Part:
    """Times [s] and bytes of a part, for one micro-batch on one device."""

    forward: Cost
    backward: Cost
    """Input gradients, with the communication of the backward pass."""
    weight: Cost
    """Weight gradients."""
    again: Cost
    """What selective recomputation repeats in the backward pass."""
    kept: Seconds
    """Activation bytes kept for the backward pass without recomputation."""
    kept_selective: Seconds
    """The same with selective recomputation."""
    parameters: Seconds
    """Parameters on one device, routed experts left out."""
    exchange: Seconds = 0.0
    """Expert dispatch and combine within ``forward`` [s]; the backward pass has the same again."""
    expert_parameters: Seconds = 0.0
    """Routed experts' parameters on one device; they have a data-parallel group of their own."""


def moved(setting: Setting, name: str, nbytes: Seconds, launches: float = 1.0) -> Cost:
    """Elementwise kernels that move ``nbytes`` [B], times what the software moves beside them."""
    traffic = setting.job.software.traffic * nbytes
    return leaf(name, kernels.elementwise(setting.device, traffic, launches), "memory")


NOTHING = leaf("nothing to repeat", 0.0)
"""What a part without recomputation repeats."""


def factorised(function: Callable[..., Part], *keys: Array) -> Part:
    """Evaluate ``function(*keys)`` on the distinct rows of its keys and spread the result.

    A single row keeps its cost trees; many rows keep only the totals, which is what a search
    needs.
    """
    if len(keys[0]) == 1:
        return function(*keys)
    packed = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        values, codes = np.unique(key, return_inverse=True)
        packed = packed * len(values) + codes
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    part = function(*(key[first] for key in keys))
    spread: dict[str, Any] = {}
    for item in fields(Part):
        value = getattr(part, item.name)
        if isinstance(value, Cost):
            spread[item.name] = Cost(value.name, _spread(value.seconds, inverse))
        else:
            spread[item.name] = _spread(value, inverse)
    return Part(**spread)


def _spread(value: Seconds, inverse: NDArray[np.int64]) -> Array:
    array = np.asarray(value, dtype=float)
    return array[inverse] if array.ndim else np.broadcast_to(array, inverse.shape)
