"""An integer program that proves how good the replicas and the packing of a layer are.

It chooses the number of replicas of every expert and their devices together, with equal splits, so
its bound holds for every placement of these slots.  Devices are alike: in the order of the heaviest
expert first, the first use of a device is the next one, which forbids most relabellings.  The
heuristic gives the upper bound, `replicas.balance_bound` the lower one, and a layer that needs
neither is left alone.  Beyond some thousand choices a solver does not beat the heuristic in any
time worth waiting for; the answer then says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.search.milp import DEAF, OVERRUN, Program, Solved, solve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PROVED = 1e-4
"""Relative gap of a layer that needs no certificate."""


@dataclass(frozen=True)
class Certificate:
    """What the solver did for the layers that had a gap."""

    open: int
    """Layers with a gap."""
    tried: int
    proved: int
    """Layers whose placement, the heuristic's or the solver's, is now proved within `PROVED`."""
    improved: int
    seconds: float


def certify(
    loads: Floats,
    slots: Ints,
    devices: int,
    found: Floats,
    bound: Floats,
    time_limit: float,
) -> tuple[Ints, Floats, Certificate]:
    """Better placements and bounds of the layers with the largest gaps, within the time.

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert.
    slots : (L, S)
        Expert of every slot of the heuristic; a device has S / G neighbouring slots.
    found, bound : (L,)
        Device load over the mean of the heuristic, and what none is below.
    time_limit
        For all layers together [s].

    Returns
    -------
    The slots and the bounds, as good as or better than those given, and what was done.
    """
    start = time.perf_counter()
    slots, bound = slots.copy(), bound.copy()
    gap = found / bound - 1.0
    order = np.argsort(-gap, kind="stable")[: int((gap > PROVED).sum())]
    need = least_time(loads.shape[1], slots.shape[1], devices)
    tried = proved = improved = 0
    for turn, layer in enumerate(order.tolist()):
        left = time_limit - (time.perf_counter() - start)
        if left <= need:
            break  # the worst layers come first
        share = max(left / (len(order) - turn), min(left, 2.0 * need))
        solved, better = certify_layer(
            loads[layer], slots.shape[1], devices, found[layer], bound[layer], share
        )
        tried += 1
        bound[layer] = max(bound[layer], solved.bound)
        proved += solved.status == "optimal"
        if better is not None:
            improved += 1
            slots[layer] = better
    return (
        slots,
        bound,
        Certificate(len(order), tried, proved, improved, time.perf_counter() - start),
    )


def least_time(experts: int, slots: int, devices: int) -> float:
    """Time below which a solver would not start on a layer [s]."""
    most = min(devices, slots - experts + 1)
    return 3.0 * experts * most * devices * DEAF / (1.0 - OVERRUN)


def certify_layer(
    loads: Floats, slots: int, devices: int, found: float, bound: float, time_limit: float
) -> tuple[Solved, Ints | None]:
    """What a solver makes of one layer: its answer, and the slots where they are better."""
    heaviest = np.argsort(-loads, kind="stable")
    program, chosen = layer_program(loads[heaviest], slots, devices)
    solved = solve(program, time_limit=time_limit, incumbent=found, bound=bound, gap=PROVED)
    if solved.values is None:
        return solved, None
    hosted = solved.values[chosen].sum(axis=1) > 0.5  # (E, G)
    device, expert = np.nonzero(hosted.T)
    return solved, heaviest[expert[np.argsort(device, kind="stable")]]


@term(
    "min z, sum_c n_ec = 1, sum_g y_ecg = c n_ec, sum_ec y_ecg = S / G, sum_ec w_e / c y_ecg <= z",
    Ref("MoETuner, arXiv 2502.06643", "section 4, the first program, with replicas and a maximum"),
)
def layer_program(loads: Floats, slots: int, devices: int) -> tuple[Program, Ints]:
    """The program of one layer, and the columns y of shape (E, c, G).

    Parameters
    ----------
    loads : (E,)
        Tokens of every expert, the heaviest first.
    """
    experts = len(loads)
    most = min(devices, slots - experts + 1)
    counts = np.arange(1.0, most + 1.0)
    weight = loads[:, np.newaxis] / counts / (loads.sum() / devices)
    reach = (np.arange(1, experts + 1) * most)[:, np.newaxis, np.newaxis]
    first = np.broadcast_to(np.arange(devices) < reach, (experts, most, devices))
    program = Program("placement")
    y = program.variables("y", (experts, most, devices), high=first, integer=True)
    z = program.variables("z", (1,), cost=1.0)
    if most == 1:
        program.rows("once", (y[:, 0], 1.0), low=1.0, high=1.0)
    else:
        n = program.variables("n", (experts, most), high=1.0, integer=True)
        program.rows("one_count", (n, 1.0), low=1.0, high=1.0)
        own = np.tile(-counts, experts)[:, np.newaxis]
        program.rows(
            "copies", (y.reshape(-1, devices), 1.0), (n.reshape(-1, 1), own), low=0.0, high=0.0
        )
    by_device = y.transpose(2, 0, 1).reshape(devices, -1)
    program.rows("slots", (by_device, 1.0), low=slots // devices, high=slots // devices)
    program.rows("load", (by_device, weight.ravel()), (z, -1.0), high=0.0)
    return program, y
