"""Whether bands hold what they claim: every model's rows against a band made of all others'."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planner.evidence.bands import FEW, Ran
from planner.evidence.predict import Prediction
from planner.results.bands import ENOUGH

Error = tuple[float, str, str]
"""Relative error, software, device generation."""


def coverage(rows: Sequence[Prediction], generation: Callable[[str], str], ran: Ran) -> float:
    """Share of the rows whose error is within the band that the other models' rows give.

    The band is chosen as for a plan: of the same software and generation, else of the generation,
    else of all.

    Parameters
    ----------
    ran
        From a row to its software and accelerator.
    """
    groups: defaultdict[str, list[Error]] = defaultdict(list)
    for p in rows:
        if p.ape is not None:
            software, accelerator = ran(p.row)
            groups[_model(p.row)].append((p.ape, software, generation(accelerator)))
    inside, total = 0, 0
    for model, own in groups.items():
        others = [error for name, errors in groups.items() if name != model for error in errors]
        for kind in sorted({error[1:] for error in own}):
            limit = np.quantile(_like(others, *kind), 0.9)
            errors = [error[0] for error in own if error[1:] == kind]
            inside += sum(bool(error <= limit) for error in errors)
            total += len(errors)
    return inside / total if total else 1.0


def _model(row: Any) -> str:
    """Whose run a row is, in either table."""
    return str(row.cells["model"] if hasattr(row, "cells") else row.model)


def _like(errors: Sequence[Error], software: str, generation: str) -> list[float]:
    """The errors of the runs that are most like one."""
    device = [error for error in errors if error[2] == generation]
    own = [error[0] for error in device if error[1] == software]
    if len(own) >= ENOUGH:
        return own
    return [error[0] for error in (device if len(device) >= FEW else errors)]
