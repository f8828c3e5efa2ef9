"""The training space: values of every axis, and blocks of legal rows to cost.

An axis that changes nothing adds no candidates: dispatch without expert parallelism, deduplication
inside one node, the kind of context parallelism without any, sequence parallelism without tp, ZeRO
without a second rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.topology import Network
from planner.search.space import divisors, product
from planner.specs.model import ModelSpec
from planner.specs.parallelism import TRAINING_AXES, Rule, experts_of, training_rules
from planner.specs.workload import TrainingJob
from planner.training.columns import Rows

BLOCK = 32768
"""Rows costed at once: enough to amortise Python, few enough to stay in cache."""

Values = Mapping[str, object]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Space:
    """Axis values of one search on one number of devices, and the rules between them."""

    devices: int
    scale_up: int
    """Devices of the job behind one port of the outermost network: a node, or a rack of NVLink."""
    rules: tuple[Rule, ...]
    numbers: Mapping[str, tuple[int, ...]]
    """Values of the integer axes, restricted to what the user fixed."""
    names: Mapping[str, tuple[str, ...]]
    """Values of the named axes, likewise."""

    def legal(self, values: Values, new: set[str]) -> Mask:
        """Where every rule holds that ``values`` suffice for and that needs one of ``new``."""
        allowed: Mask = np.array(True)
        for rule in self.rules:
            if new & set(rule.axes) and set(rule.axes) <= values.keys():
                allowed = allowed & rule.allows(values)
                if allowed.ndim == 0 and not allowed:
                    break
        return allowed


def training_space(
    model: ModelSpec,
    job: TrainingJob,
    net: Network,
    fixed: Mapping[str, tuple[int | str, ...]],
) -> Space:
    """List each axis's values: what divides the thing that the axis splits, or what is fixed."""
    devices = net.devices
    scale_up = net.domains[net.scale_up]
    ways = divisors(devices)
    stages = model.num_layers + len(model.mtp_layers) + 2  # the ends may hold no layer
    moe = bool(experts_of(model))
    natural: dict[str, Sequence[int]] = {
        "tp": ways,
        "cp": ways,
        "pp": [d for d in ways if d <= stages],
        "vpp": range(1, stages + 1),
        "dp": ways,
        "ep": ways if moe else [1],
        "etp": ways if moe else [1],
        "micro_batch": divisors(job.global_batch),
        "zero": range(4),
        "sequence_parallel": range(2),
    }
    numbers = {name: tuple(fixed.get(name, values)) for name, values in natural.items()}
    unasked = {"vocabulary": ("ends",)}
    names = {
        axis.name: tuple(
            v for v in axis.values if v in fixed.get(axis.name, unasked.get(axis.name, axis.values))
        )
        for axis in TRAINING_AXES.values()
        if axis.values and axis.name != "sequence_parallel"
    }
    rules = tuple(training_rules(model, job, devices))
    return Space(devices, scale_up, rules, numbers, names)  # type: ignore[arg-type]


def row_blocks(space: Space, mode: Mapping[str, str]) -> Iterator[tuple[float, Rows]]:
    """Legal rows under one dispatch and one kind of context parallelism, a block at a time.

    ``mode`` holds ``dispatch`` and ``context_parallel``.  Each block comes with the share of all
    dense meshes that came before it.
    """
    pending: list[NDArray[np.int64]] = []
    count = 0
    ep, etp = _expert_meshes(space, mode)
    recompute = [TRAINING_AXES["recompute"].values.index(n) for n in space.names["recompute"]]
    meshes = list(_dense_meshes(space, mode))
    for done, (tp, cp, sp) in enumerate(meshes):
        batches = _micro_batches(space, space.devices // (tp * cp))
        batch, policy, mesh = product(batches, recompute, range(len(ep)))
        same = np.ones_like(batch)
        pending.append(
            np.stack([tp * same, cp * same, sp * same, batch, policy, ep[mesh], etp[mesh]])
        )
        count += len(batch)
        if count >= BLOCK:
            yield done / len(meshes), Rows(*np.concatenate(pending, axis=1))
            pending, count = [], 0
    if count:
        yield 1.0, Rows(*np.concatenate(pending, axis=1))


def _dense_meshes(space: Space, mode: Mapping[str, str]) -> Iterator[tuple[int, int, int]]:
    """(tp, cp, sequence_parallel) that the rules allow."""
    names = ("tp", "cp", "sequence_parallel")
    columns = product(*(space.numbers[name] for name in names))
    values: dict[str, object] = {**dict(zip(names, columns, strict=True)), **mode}
    fits = space.devices % (columns[0] * columns[1]) == 0
    fits &= space.legal(values, {*names, "context_parallel"})
    if mode["context_parallel"] == "ulysses" and "ring" in space.names["context_parallel"]:
        fits &= columns[1] > 1
    yield from zip(*(column[fits].tolist() for column in columns), strict=True)


def _expert_meshes(
    space: Space, mode: Mapping[str, str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(ep, etp) that the rules allow."""
    ep, etp = product(space.numbers["ep"], space.numbers["etp"])
    fits = space.legal({"ep": ep, "etp": etp}, {"ep", "etp"})
    fits = fits & (space.devices % (ep * etp) == 0)
    if mode["dispatch"] == "all-gather" and "all-to-all" in space.names["dispatch"]:
        fits = fits & (ep > 1)
    if mode["dispatch"] == "deduplicated" and "all-to-all" in space.names["dispatch"]:
        # inside one domain the two are the same
        fits = fits & (ep * etp > space.scale_up)
    return ep[fits], etp[fits]


def _micro_batches(space: Space, ranks: int) -> list[int]:
    """Micro-batches that divide the batch for some number of stages."""
    dp = np.array([ranks // p for p in space.numbers["pp"] if ranks % p == 0], dtype=np.int64)
    dp = dp[np.isin(dp, space.numbers["dp"])]
    batch = np.array(space.numbers["micro_batch"], dtype=np.int64)
    grid = {"dp": dp[:, None], "micro_batch": batch[None, :]}
    legal = np.broadcast_to(space.legal(grid, {"micro_batch"}), (len(dp), len(batch)))
    return [int(b) for b in batch[legal.any(axis=0)]]
