"""How an expert's tokens split between its replicas, once it is known where they are.

A placement is made for past loads; the split follows the tokens of the day.  The best one is a
linear program (LPLB, FineEP).  `water_filled` is the fast way: an expert at a time fills the least
loaded of its devices up to one level, which is coordinate descent on the sum of squared device
loads.  That sum is least where the largest load is, so the rounds converge to the program's answer.

Sources: deepseek-ai/LPLB README; the split of equal parts is what EPLB assumes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.terms import Ref, term
from planner.errors import PlannerError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

ROUNDS = 16
"""Rounds over the replicated experts; at 256 experts on 64 devices within 0.3 % of the program."""


def copies_on(slots: Ints, experts: int, devices: int) -> Ints:
    """Replicas of every expert on every device, shape (L, E, G).

    Parameters
    ----------
    slots : (L, S)
        Expert of every slot; a device has S / G neighbouring slots.
    """
    layers, count = slots.shape
    copies = np.zeros((layers, experts, devices), dtype=np.int64)
    device = np.arange(count) // (count // devices)
    np.add.at(copies, (np.arange(layers)[:, np.newaxis], slots, device), 1)
    return copies


@term("x_eg = copies_eg / sum over g of copies_eg", Ref("deepseek-ai/EPLB", "README"))
def equal_shares(copies: Ints) -> Floats:
    """Shares of an expert's tokens when each replica gets as many, shape (L, E, G).

    Parameters
    ----------
    copies : (L, E, G)
        Replicas of each expert on each device.
    """
    return np.asarray(copies / copies.sum(axis=-1, keepdims=True))


def device_loads(loads: Floats, shares: Floats) -> Floats:
    """Tokens of every device, shape (L, G).

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert.
    shares : (L, E, G)
        Part of an expert's tokens that each device serves.
    """
    return np.asarray((loads[:, np.newaxis] @ shares)[:, 0])


@term(
    "min z,  sum over g of f_eg = load_e,  sum over e of f_eg <= z,  f_eg >= 0 where e is hosted",
    Ref("deepseek-ai/LPLB README", "the linear program, over all replicas of an expert"),
)
def best_shares(loads: Floats, hosted: Bools) -> Floats:
    """Shares with the least possible load of the busiest device, shape (L, E, G).

    One linear program a layer, in which experts with one device are constants.

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert.
    hosted : (L, E, G)
        Whether a device holds a replica.

    Raises
    ------
    PlannerError
        If an expert is on no device.
    """
    _check(hosted)
    return np.array([_solved(*layer) for layer in zip(loads, hosted, strict=True)])


def _check(hosted: Bools) -> None:
    missing = np.argwhere(~hosted.any(axis=2))
    if len(missing):
        layer, expert = missing[0]
        raise PlannerError(
            f"token split: found expert {expert} of layer {layer} on no device, expected one."
        )


def _solved(loads: Floats, hosted: Bools) -> Floats:
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, hstack

    shares = hosted / hosted.sum(axis=1, keepdims=True)
    split = np.flatnonzero((hosted.sum(axis=1) > 1) & (loads > 0))
    if not len(split):
        return np.asarray(shares)
    mean = loads.sum() / hosted.shape[1]
    fixed = np.delete(loads, split) @ np.delete(shares, split, axis=0) / mean
    row, device = np.nonzero(hosted[split])
    column = np.arange(len(row))
    weight = loads[split][row] / mean
    size = len(row)
    on_device = csr_array((weight, (device, column)), shape=(len(fixed), size))
    of_expert = csr_array((np.ones(size), (row, column)), shape=(len(split), size + 1))
    answer = linprog(
        np.append(np.zeros(size), 1.0),
        A_ub=hstack([on_device, csr_array(-np.ones((len(fixed), 1)))]),
        b_ub=-fixed,
        A_eq=of_expert,
        b_eq=np.ones(len(split)),
        method="highs",
    )
    shares[split] = 0.0
    shares[split[row], device] = answer.x[:-1]
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def water_filled(loads: Floats, hosted: Bools, rounds: int = ROUNDS) -> Floats:
    """Shares with nearly the least load of the busiest device, shape (L, E, G).

    All layers take a step at once.

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert.
    hosted : (L, E, G)
        Whether a device holds a replica.
    rounds
        How often each replicated expert is filled anew; the result never gets worse.

    Raises
    ------
    PlannerError
        If an expert is on no device.
    """
    _check(hosted)
    shares = equal_shares(hosted.astype(np.int64))
    total = device_loads(loads, shares)
    homes = hosted.sum(axis=2)
    most = int(homes.max())
    replicated = int((homes > 1).sum(axis=1).max())
    layer = np.arange(len(loads))[:, np.newaxis]
    heaviest = np.argsort(-np.where(homes > 1, loads, -1.0), axis=1, kind="stable")
    for _ in range(rounds):
        for rank in range(replicated):
            expert = heaviest[:, [rank]]
            tokens = loads[layer, expert]
            own = shares[layer, expert][:, 0] * tokens
            rest = np.where(hosted[layer, expert][:, 0], total - own, np.inf)
            device = np.argsort(rest, axis=1, kind="stable")[:, :most]
            filled = _filled(np.take_along_axis(rest, device, axis=1), tokens)
            parts = filled / np.where(tokens > 0, tokens, 1.0)
            keep = (homes[layer, expert] > 1) & (tokens > 0)
            before = shares[layer, expert, device]
            after = np.where(keep, parts, before)
            shares[layer, expert, device] = after
            total[layer, device] += (after - before) * tokens
    return shares


def _filled(level: Floats, amount: Floats) -> Floats:
    """Water in vessels of ascending floors when ``amount`` is poured in, shape (L, n)."""
    floors = np.where(np.isfinite(level), level, 0.0)
    wet = np.arange(1, level.shape[1] + 1)
    surface = (amount + np.cumsum(floors, axis=1)) / wet
    used = surface > level  # true for the vessels that stand under water, the first always
    deep = np.maximum(used.sum(axis=1, keepdims=True), 1)
    top = np.take_along_axis(surface, deep - 1, axis=1)
    return np.asarray(np.where(wet <= deep, top - floors, 0.0))
