"""What one part of a layer costs: forward, backward in two halves, and what it keeps.

The backward pass splits into input gradients and weight gradients, since zero-bubble schedules move
the latter and collectives hide behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from planner.costs import kernels
from planner.costs.topology import Network
from planner.costs.tree import Cost, Seconds, leaf
from planner.specs.hardware import Accelerator
from planner.specs.workload import TrainingJob

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Array = NDArray[np.float64]
Parts = TypeVar("Parts", bound="DataclassInstance")
"""A dataclass whose fields are costs, or numbers or arrays over rows."""


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


@dataclass(frozen=True)
class Distinct:
    """The distinct rows of some key columns, and which of them every row is."""

    keys: tuple[NDArray[Any], ...]
    """The columns over the distinct rows, each of shape ``(k,)``."""
    where: NDArray[np.int64]
    """Index of every row among the distinct ones, ``(n,)``."""

    @classmethod
    def of(cls, *keys: NDArray[Any]) -> Distinct:
        """Group rows whose keys, each of shape ``(n,)``, are all equal."""
        packed = np.zeros(len(keys[0]), dtype=np.int64)
        for key in keys:
            values, codes = np.unique(key, return_inverse=True)
            packed = packed * len(values) + codes
        _, first, where = np.unique(packed, return_index=True, return_inverse=True)
        return cls(tuple(key[first] for key in keys), where)

    def take(self, index: NDArray[np.int64] | slice) -> Distinct:
        """The same groups for a subset of the rows."""
        return Distinct(self.keys, self.where[index])

    def evaluate(self, function: Callable[..., Parts]) -> Parts:
        """``function(*keys)`` with its costs and arrays spread over all rows.

        A single row keeps its cost trees; many rows keep only the totals, which is what a search
        needs.
        """
        found = function(*self.keys)
        if len(self.where) == 1:
            return found
        values = {item.name: getattr(found, item.name) for item in fields(found)}
        return replace(found, **{name: self._spread(value) for name, value in values.items()})

    def _spread(self, value: Cost | Seconds) -> Cost | Array:
        if isinstance(value, Cost):
            return Cost(value.name, self.spread(value.seconds))
        return self.spread(value)

    def spread(self, value: Seconds) -> Array:
        """A value over the distinct rows, of shape ``(k,)`` or a scalar, over all rows."""
        array = np.asarray(value, dtype=float)
        return array[self.where] if array.ndim else np.broadcast_to(array, self.where.shape)


def factorised(function: Callable[..., Parts], *keys: Array) -> Parts:
    """Evaluate ``function(*keys)`` on the distinct rows of its keys and spread the result."""
    return Distinct.of(*keys).evaluate(function)
