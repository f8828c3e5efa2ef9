"""Which experts follow which: from recorded routing, or a file of counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.placement.loads import Loads
from planner.placement.loads_formats import read_loads
from planner.specs.model import ModelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def count_transitions(routing: Ints, experts: int) -> Floats:
    """Tokens from each expert to each of the next layer, shape (L - 1, E, E).

    A token with K experts goes from each to each of the K of the next layer, 1 / K of it to each.

    Parameters
    ----------
    routing : (L, T, K)
        Experts of every token.
    """
    top_k = routing.shape[2]
    pairs = routing[:-1, :, :, np.newaxis] * experts + routing[1:, :, np.newaxis, :]
    return np.array(
        [
            np.bincount(one.ravel(), minlength=experts**2).reshape(experts, experts) / top_k
            for one in pairs
        ]
    ).reshape(-1, experts, experts)


def as_transitions(found: Any, loads: Loads, model: ModelSpec | None) -> Floats:
    """Transitions of the layers of ``loads`` from an array, or a file of counts or of routing.

    Raises
    ------
    PlannerError
        If they are of other layers or experts, negative, or all zero.
    """
    where = str(found) if isinstance(found, str | Path) else "transitions"
    wanted = (len(loads.layers) - 1, loads.experts, loads.experts)
    counts = _read(found, where, model, loads) if isinstance(found, str | Path) else found
    table = np.asarray(counts, dtype=float)
    if table.shape != wanted:
        raise PlannerError(
            f"{where}: found counts of shape {table.shape}, expected {wanted}: layers but one,"
            " experts, experts of the next layer."
        )
    if not np.isfinite(table).all() or (table < 0).any() or not table.any():
        raise PlannerError(f"{where}: found negative, infinite or no counts, expected tokens.")
    return table


def _read(path: str | Path, where: str, model: ModelSpec | None, loads: Loads) -> Any:
    """Counts from an array of them, or from the experts of every token."""
    if Path(path).suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise PlannerError(
                f"{where}: cannot be read: {' '.join(str(error).split())}."
            ) from None
        if array.ndim == 3 and array.shape[1] == array.shape[2] == loads.experts:
            return array
    routing = read_loads(path, model).routing
    if routing is None:
        raise PlannerError(
            f"{where}: found loads without tokens, expected counts (layers - 1, experts, experts)"
            " or the experts of every token."
        )
    return count_transitions(routing, loads.experts)
