"""An integer program that proves how good an affinity placement is, for small cases.

The price of a step depends on two choices, so each pair of them gets a variable of its own, which
the rows make one where both are made.  Four layers of four devices take two seconds; beyond
that only the bound after the time limit is of use, and dynamic programming (`affinity_search`)
proves any number of layers where a layer has few placements.

Sources: MoETuner, arXiv 2502.06643, section 5 (the program); Adams and Johnson 1994, DIMACS 16
(the rows).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.placement.affinity_search import AffinityPlacement
from planner.search.milp import Program, solve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def certified(
    flows: Floats, distance: Floats, found: AffinityPlacement, time_limit: float
) -> AffinityPlacement:
    """The placement, or a better one, with the bound that the solver proved.

    Parameters
    ----------
    flows : (L - 1, E, E)
        Tokens from an expert, or a cluster, to one of the next layer.
    distance : (G, G)
        Symmetric price of a step, the same seen from every device.
    found
        The placement to prove.
    time_limit
        Longest time that the solver may take [s].
    """
    scale = float(flows.sum() * distance.mean()) or 1.0  # a random placement's price
    program, chosen = _program(flows / scale, distance)
    solved = solve(
        program,
        time_limit=time_limit,
        incumbent=found.price / scale,
        bound=found.bound / scale,
    )
    bound = max(found.bound, min(solved.bound * scale, found.price))
    if solved.values is None:
        return replace(found, bound=bound)
    device = solved.values[chosen].argmax(axis=2)
    return AffinityPlacement(device, solved.objective * scale, solved.bound * scale)


def _program(flows: Floats, distance: Floats) -> tuple[Program, Ints]:
    """The program, and the columns that say which expert is on which device, (L, E, G)."""
    layers, experts, devices = len(flows) + 1, flows.shape[-1], len(distance)
    program = Program("affinity")
    high = np.ones((layers, experts, devices))
    high[0, 0, 1:] = 0.0  # all devices are alike, so the first expert is on the first one
    chosen = program.variables("chosen", high.shape, high=high, integer=True)
    program.rows("once", (chosen.reshape(-1, devices), 1.0), low=1.0, high=1.0)
    by_device = chosen.transpose(0, 2, 1).reshape(-1, experts)
    room = experts / devices
    program.rows("even", (by_device, 1.0), low=room, high=room)
    for layer, flow in enumerate(flows):
        price = flow[:, np.newaxis, :, np.newaxis] * distance[:, np.newaxis, :]
        both = program.variables(f"both_{layer}", price.shape, cost=price)
        ends = ((both, chosen[layer]), (both.transpose(2, 3, 0, 1), chosen[layer + 1]))
        for name, (pairs, own) in zip(("from", "to"), ends, strict=True):
            # where an expert is on a device, each other expert is on one device, else on none
            one = np.repeat(own.ravel(), experts)[:, np.newaxis]
            rows = pairs.reshape(-1, devices)
            program.rows(f"{name}_{layer}", (rows, 1.0), (one, -1.0), low=0.0, high=0.0)
    return program, chosen
