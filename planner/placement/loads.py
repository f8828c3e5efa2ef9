"""How often each expert of each layer is used, checked: what every placement starts from.

Counts are tokens on any scale.  A record may also hold its windows, which tell how loads drift, and
the experts of every token, which tell which experts follow and accompany which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.specs.model import MixtureOfExperts, ModelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Loads:
    """Checked loads of a model's mixture-of-experts layers."""

    counts: Floats
    """Tokens of every expert, shape (L, E)."""
    layers: tuple[int, ...]
    """Number of each layer in the model."""
    windows: Floats | None = field(default=None, repr=False)
    """The counts of each window of the record, shape (W, L, E)."""
    routing: Ints | None = field(default=None, repr=False)
    """Experts of every recorded token, shape (L, T, K)."""
    where: str = "loads"
    """The file or the argument, for messages."""

    @property
    def experts(self) -> int:
        return int(self.counts.shape[1])

    @property
    def drift(self) -> float | None:
        """Standard deviation of the logarithm of an expert's share from one window to the next.

        Experts weigh by their use; what whole counts scatter by chance alone (Poisson) is taken
        off.  None without two windows.
        """
        if self.windows is None or len(self.windows) < 2:
            return None
        whole = self.windows.sum(axis=2, keepdims=True)
        shares = self.windows / np.where(whole > 0, whole, 1.0)
        seen = (shares[:-1] > 0) & (shares[1:] > 0)
        before, after = (np.where(seen, part, 1.0) for part in (shares[:-1], shares[1:]))
        square = np.log(after / before) ** 2
        if (self.windows == np.floor(self.windows)).all():
            square -= sum(
                1.0 / np.where(seen, n, np.inf) for n in (self.windows[:-1], self.windows[1:])
            )
        weight = np.where(seen, before, 0.0)
        mean = (weight * square).sum() / max(weight.sum(), 1e-300)
        return float(np.sqrt(max(mean, 0.0)))


def check_loads(
    counts: Any,
    *,
    where: str,
    layers: Sequence[int] | None = None,
    model: ModelSpec | None = None,
    idle_layers: bool = False,
    routing: Ints | None = None,
) -> Loads:
    """Loads from counts of shape (L, E), or of several windows, (W, L, E), as an array or lists.

    Parameters
    ----------
    where
        The file or the argument, for messages.
    layers
        Number of each layer in the model; by default those of the model, else from 0.
    model
        Whose layers and experts the counts should be.
    idle_layers
        Whether layers without any count are layers without experts, as recorders write them;
        they are left out.
    routing : (L, T, K)
        Experts of every token, where recorded.

    Raises
    ------
    PlannerError
        If the counts are no table, negative, not finite, all zero, or of another model's size.
    """
    try:
        table = np.asarray(counts, dtype=float)
    except (ValueError, TypeError):
        raise PlannerError(
            f"{where}: found rows of different lengths or text, expected as many counts in each."
        ) from None
    if table.ndim not in (2, 3) or 0 in table.shape:
        raise PlannerError(
            f"{where}: found counts of shape {table.shape}, expected (layers, experts) or"
            " (windows, layers, experts)."
        )
    windows = table if table.ndim == 3 else None
    total = table if windows is None else table.sum(axis=0)
    for bad, what in ((~np.isfinite(table), "that is not finite"), (table < 0, "below zero")):
        if bad.any():
            *_, layer, expert = np.argwhere(bad)[0]
            value = table[bad][0]
            raise PlannerError(
                f"{where}: layer {_name(layers, layer)}, expert {expert}: found {value:g}, a count"
                f" {what}, expected tokens."
            )
    if not total.any():
        raise PlannerError(f"{where}: found only zeros, expected tokens of the experts.")
    used = total.any(axis=1)
    numbers = tuple(range(len(total)) if layers is None else layers)
    if idle_layers:
        total, numbers = total[used], tuple(np.array(numbers)[used].tolist())
        windows = None if windows is None else windows[:, used]
        routing = None if routing is None else routing[used]
    elif not used.all():
        raise PlannerError(
            f"{where}: layer {numbers[int(used.argmin())]}: found only zeros, expected tokens."
        )
    if model is not None:
        numbers = _matched(total.shape, numbers, layers is not None or idle_layers, model, where)
    return Loads(total, numbers, windows, routing, where)


def _name(layers: Sequence[int] | None, row: int) -> int:
    return int(row) if layers is None else int(layers[row])


def moe_layers(model: ModelSpec) -> dict[int, MixtureOfExperts]:
    """The layers with experts, by number.

    Raises
    ------
    PlannerError
        If there are none.
    """
    parts = {i: layer.feedforward for i, layer in enumerate(model.layers)}
    found = {i: part for i, part in parts.items() if isinstance(part, MixtureOfExperts)}
    if not found:
        raise PlannerError(f"model: found {model.name}, which has no experts, expected one of MoE.")
    return found


def _matched(
    shape: tuple[int, ...], numbers: tuple[int, ...], numbered: bool, model: ModelSpec, where: str
) -> tuple[int, ...]:
    """Numbers of the layers, when the counts are of the model's size."""
    known = moe_layers(model)
    experts = next(iter(known.values())).experts
    if shape[1] != experts:
        raise PlannerError(
            f"{where}: found {shape[1]} experts, expected the {experts} of {model.name}."
        )
    if len(numbers) == len(known) and (not numbered or not set(numbers) <= set(known)):
        return tuple(known)
    if len(numbers) > len(known) or max(numbers) >= model.num_layers:
        raise PlannerError(
            f"{where}: found {len(numbers)} layers up to {max(numbers)}, expected the {len(known)}"
            f" layers with experts of {model.name}."
        )
    return numbers


def as_loads(loads: Any, model: ModelSpec | None = None) -> Loads:
    """Loads from what a caller has: a file, an array, or loads.

    Raises
    ------
    PlannerError
        If they are not what `check_loads` expects.
    """
    if isinstance(loads, Loads):
        if model is None:
            return loads
        return check_loads(
            loads.counts if loads.windows is None else loads.windows,
            where=loads.where,
            layers=loads.layers,
            model=model,
            routing=loads.routing,
        )
    if isinstance(loads, str | Path):
        from planner.placement.loads_formats import read_loads

        return read_loads(loads, model)
    return check_loads(loads, where="loads", model=model)
