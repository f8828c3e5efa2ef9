"""From measured times to parameter sets with their errors: the work of ``roofplan calibrate``.

Every group of rows that one set serves is fitted on three quarters of its shapes, chosen by hash,
and scored on the last quarter beside the set that the planner had before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.calibration.fit import fit
from planner.costs import kernels, operators
from planner.errors import PlannerError
from planner.specs.catalog import find_accelerator, find_cluster, list_clusters
from planner.specs.fits import OPERATIONS
from planner.specs.folders import near
from planner.specs.hardware import Cluster, Tier
from planner.specs.kernel_sets import CollectiveSet, Fit, KernelSet
from planner.specs.measurements import TEXTS, Group, shape_of

Array = NDArray[np.float64]
Predict = Callable[[Any, Group], Array]
"""From a set and rows to their times [s]."""

MOST_ROWS = 3000
"""Rows that a search looks at; more teach it nothing and cost minutes."""
HELD_BACK = 64
"""Of 256 values of a shape's hash."""


@dataclass(frozen=True)
class Score:
    """Errors of predictions on rows that no fit saw."""

    rows: int
    error: float
    """Mean of |predicted / measured - 1|."""
    median: float
    bias: float
    """Geometric mean of predicted / measured."""

    @classmethod
    def of(cls, predicted: Array, measured: Array) -> Score:
        """The errors of ``(n,)`` predictions."""
        ratio = predicted / measured
        away = np.abs(ratio - 1.0)
        return cls(
            len(ratio),
            float(away.mean()),
            float(np.median(away)),
            float(np.exp(np.log(ratio).mean())),
        )


@dataclass(frozen=True)
class Calibrated:
    """One fitted set, where it belongs and how it compares with what was there."""

    item: str
    """The accelerator, or for a collective the node, whose file holds the set."""
    family: str
    """Kernel family, or for a collective its tier."""
    library: str
    """Library, or for a collective the operation."""
    dtype: str
    """Name of the set; empty for a collective."""
    parameters: KernelSet
    start: str
    """Source of the set that the planner had."""
    before: Score
    after: Score


def calibrate(
    groups: Iterable[Group],
    *,
    cluster: str | Path | None = None,
    db: Sequence[str | Path] = (),
    source: str,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Calibrated]:
    """Fit the sets that a table of measurements sees.

    Parameters
    ----------
    groups
        Rows of a measurement table.
    cluster
        Name or path of the cluster that the devices stand in; by default the first in the
        databases with that accelerator.  Its node takes the lines of the collectives.
    db
        The user's databases, whose sets come before the packaged ones.
    source
        Id in sources.yaml of the measurements.
    progress
        Is told what is fitted next.

    Raises
    ------
    PlannerError
        If a device is unknown or has no set to start from, or a fit is refused.
    """
    found = []
    for group in groups:
        try:
            machine = _machine(group.accelerator, cluster, db)
        except PlannerError as error:
            raise PlannerError(f"{group.name}: {error}") from None
        progress(group.name)
        for one in _jobs(group, machine):
            found.append(_calibrated(*one, source))
    return found


def held_back(group: Group) -> NDArray[np.bool_]:
    """A quarter of the shapes, by hash; all kernels of a shape fall on the same side."""
    shapes = map(shape_of, group.texts)
    return np.array([hashlib.md5(shape.encode()).digest()[0] < HELD_BACK for shape in shapes])


def _machine(accelerator: str, cluster: str | Path | None, db: Sequence[str | Path]) -> Cluster:
    """The cluster that a row's device stands in."""
    device = find_accelerator(accelerator, db)
    names = list_clusters(db) if cluster is None else [cluster]
    for machine in (find_cluster(name, db) for name in names):
        if machine.accelerator.name == device.name:
            return machine
    if cluster is None:
        raise PlannerError(f"no cluster of the databases has {device.name}; name one by --cluster")
    raise PlannerError(
        f"--cluster: {cluster} has {machine.accelerator.name}, the measurements are of "
        f"{device.name}"
    )


Job = tuple[Calibrated, Sequence[KernelSet], Group, Predict]
"""What is to be fitted, with its place and the sets to start from."""


def _jobs(group: Group, machine: Cluster) -> Iterator[Job]:
    """The sets that the rows of a group see."""
    nothing = Score(0, 0.0, 0.0, 1.0)
    library, device = operators.library_of(group), machine.accelerator
    if group.op == "nccl":
        for collective in np.unique(group.shape["collective"].astype(str)):
            operation = operators.COLLECTIVES.get(collective, collective)
            if operation not in OPERATIONS:
                raise PlannerError(
                    f"{group.name}: collective: found {collective!r}{near(operation, OPERATIONS)}, "
                    f"expected one of {', '.join(OPERATIONS)}"
                )
            tier, line = _tier_with_line(machine, operation)
            place = (machine.node, tier.name, operation, "")
            one = Calibrated(*place, line, line.source, nothing, nothing)
            of_it = group.take(group.shape["collective"] == collective)
            yield one, (line,), of_it, _line_seconds(tier, operation)
        return
    family = operators.FAMILIES[group.op]
    for name, rows in operators.split(group).items():
        known = device.kernels.get(family, {})
        of_library = library if library in known else None
        own = kernels.parameters(device, family, name, of_library)
        alike = [sets[name] for sets in known.values() if name in sets]
        one = Calibrated(device.name, family, library, name, own, own.source, nothing, nothing)
        yield one, alike or (own,), group.take(rows), _kernel_seconds(machine, name)


def _kernel_seconds(machine: Cluster, name: str) -> Predict:
    return lambda kernel, rows: operators.seconds(kernel, machine, name, rows)


def _line_seconds(tier: Tier, operation: str) -> Predict:
    return lambda line, rows: operators.line_seconds(tier, line, operation, rows)


def _tier_with_line(machine: Cluster, operation: str) -> tuple[Tier, CollectiveSet]:
    """The innermost tier with a line, else the innermost with its datasheet as one."""
    for tier in machine.tiers:
        if operation in tier.collectives:
            return tier, tier.collectives[operation]
    tier = machine.tiers[0]
    rate = tier.bandwidth * tier.efficiency
    nominal = CollectiveSet(
        fit=Fit(source=f"datasheet of {tier.name}"),
        base=tier.latency,
        step=1e-6,
        low_bandwidth=0.1 * rate,
        low_step=1e-7,
        switch=1e-5,
        bandwidth=rate,
        own_copy=0.1,
        fill=1e-5,
    )
    return tier, nominal


def _calibrated(
    one: Calibrated, starts: Sequence[KernelSet], rows: Group, predict: Predict, source: str
) -> Calibrated:
    """Fit a set to three quarters of the rows and score it on the rest."""
    held = held_back(rows)
    seen, judge = rows.take(~held), rows.take(held)
    if not len(judge.seconds) or not len(seen.seconds):
        raise PlannerError(
            f"{rows.name}: found {len(rows.seconds)} rows, expected enough to hold a quarter back"
        )
    every = -(-len(seen.seconds) // MOST_ROWS)
    seen = seen.take(np.arange(len(seen.seconds)) % every == 0)

    def loss(start: KernelSet) -> float:
        return float(np.abs(np.log(predict(start, seen) / seen.seconds)).mean())

    fitted = fit(rows.name, min(starts, key=loss), seen.seconds, lambda new: predict(new, seen))
    after = Score.of(predict(fitted, judge), judge.seconds)
    about = Fit(
        source=source,
        version=rows.library.partition(" ")[2],
        rows=len(seen.seconds),
        error=after.error,
        median=after.median,
        bias=after.bias,
        range={
            name: (float(values.min()), float(values.max()))
            for name, values in seen.shape.items()
            if name not in TEXTS
        },
    )
    return replace(
        one,
        parameters=replace(fitted, fit=about),
        before=Score.of(predict(one.parameters, judge), judge.seconds),
        after=after,
    )
