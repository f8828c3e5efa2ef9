"""Unequal numbers of experts on the devices of a layer: the lever where experts are few.

With two of eight experts on each of four devices an expert of twice the mean load cannot be
balanced; alone on its device it can.  A device then holds more experts in one layer and fewer in
another, and its memory is the constraint over all layers: the parts of every layer are dealt so
that no device holds more than its room in total.
Source: MoETuner, arXiv 2502.06643, sections 4 (clusters of any size) and 5 (the memory row).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costs.imbalance import balance
from planner.errors import PlannerError
from planner.placement.recount import place

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEW = 9
"""Experts up to which all partitions are tried, 21,147 at most."""
GAIN = 1e-9
"""Least relative gain of a change, above rounding."""


def place_unequal(loads: Floats, devices: int, room: int) -> tuple[Ints, Floats]:
    """Device of every expert, each on one device, shape (L, E), and the bound, shape (L,).

    Where all partitions are tried the best one without regard to memory is the bound, else the
    heaviest expert is.

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert.
    room
        Experts that a device can hold over all layers together.

    Raises
    ------
    PlannerError
        If the experts do not fit, or there are fewer than devices.
    """
    layers, experts = loads.shape
    if experts < devices or room * devices < layers * experts:
        raise PlannerError(
            f"slots: found room for {room * devices} experts of {layers} layers and {experts}"
            f" experts for {devices} devices, expected room for {layers * experts} and at least"
            " one expert a device."
        )
    bound = np.maximum(1.0, loads.max(axis=1) / loads.mean(axis=1) * devices / experts)
    if experts <= FEW:
        parts = _best_partitions(loads, devices)
        bound = balance(loads_of(loads, parts, devices))
    else:
        parts = np.array([_descended(load, devices) for load in loads])
    dealt, held = _dealt(parts, devices, room)
    order = np.argsort(_gain(loads, parts, devices))
    for layer in order:  # the layers that gain least go back to equal counts, which always fit
        if held.max() <= room:
            break
        parts[layer] = _equal(loads[layer], devices)
        dealt, held = _dealt(parts, devices, room)
    return dealt, bound


def loads_of(loads: Floats, device: Ints, devices: int) -> Floats:
    """Tokens of every device, shape (L, G)."""
    layers = len(loads)
    place_of = device + np.arange(layers)[:, np.newaxis] * devices
    total = np.bincount(place_of.ravel(), weights=loads.ravel(), minlength=layers * devices)
    return np.asarray(total.reshape(layers, devices))


def _gain(loads: Floats, parts: Ints, devices: int) -> Floats:
    """How much lower the balance of each layer is than with equal counts."""
    equal = np.array([_equal(load, devices) for load in loads])
    return balance(loads_of(loads, equal, devices)) - balance(loads_of(loads, parts, devices))


def _equal(load: Floats, devices: int) -> Ints:
    """Device of every expert with equal counts, or as nearly as the numbers allow."""
    spare = -len(load) % devices
    padded = np.append(load, np.zeros(spare))
    slots, _ = place(padded[np.newaxis], len(padded), devices)
    device = np.empty(len(padded), dtype=np.int64)
    device[slots[0]] = np.arange(len(padded)) // (len(padded) // devices)
    return device[: len(load)]


def _best_partitions(loads: Floats, devices: int) -> Ints:
    """The best of all ways to deal the experts into parts, none of them empty."""
    every = np.zeros((1, 1), dtype=np.int64)  # each new expert joins a part or opens the next
    for _ in range(loads.shape[1] - 1):
        more = [every.max(axis=1) + 1 >= part for part in range(devices)]
        every = np.vstack(
            [
                np.column_stack([every[fits], np.full(fits.sum(), part)])
                for part, fits in enumerate(more)
            ]
        )
    every = every[every.max(axis=1) == devices - 1]
    inside = np.equal(every[:, :, np.newaxis], np.arange(devices)).astype(float)
    busiest = np.tensordot(loads, inside, axes=(1, 1)).max(axis=2)  # (L, partitions)
    return np.asarray(every[busiest.argmin(axis=1)])


def _descended(load: Floats, devices: int) -> Ints:
    """Longest first, then moves and exchanges out of the busiest device while they help."""
    device = np.empty(len(load), dtype=np.int64)
    total = np.zeros(devices)
    for rank, expert in enumerate(np.argsort(-load, kind="stable")):
        device[expert] = rank if rank < devices else total.argmin()
        total[device[expert]] += load[expert]
    while True:
        busiest = int(total.argmax())
        own = np.flatnonzero(device == busiest)
        other = np.flatnonzero(device != busiest)
        if not len(other):
            return device
        moved = np.maximum(total[busiest] - load[own, np.newaxis], total + load[own, np.newaxis])
        moved[:, busiest] = np.inf
        if len(own) == 1:
            moved[:] = np.inf
        less = load[own, np.newaxis] - load[other]
        swapped = np.maximum(total[busiest] - less, total[device[other]] + less)
        if min(moved.min(), swapped.min()) >= total[busiest] * (1.0 - GAIN):
            return device
        if moved.min() <= swapped.min():
            expert, target = np.unravel_index(moved.argmin(), moved.shape)
            device[own[expert]] = target
        else:
            one, two = np.unravel_index(swapped.argmin(), swapped.shape)
            pair = [own[one], other[two]]
            device[pair] = device[pair[::-1]]
        total = loads_of(load[np.newaxis], device[np.newaxis], devices)[0]


def _dealt(parts: Ints, devices: int, room: int) -> tuple[Ints, Ints]:
    """Parts of every layer to devices so that all hold as many experts, and what they hold."""
    sizes = np.array([np.bincount(part, minlength=devices) for part in parts])
    held = np.zeros(devices, dtype=np.int64)
    home = np.empty_like(sizes)  # device of every part
    for layer in np.argsort(-sizes.max(axis=1), kind="stable"):
        home[layer, np.argsort(-sizes[layer], kind="stable")] = np.argsort(held, kind="stable")
        held[home[layer]] += sizes[layer]
    layer_of = np.arange(len(parts))
    while held.max() > room:
        most, least = int(held.argmax()), int(held.argmin())
        at = [(home == one).argmax(axis=1) for one in (most, least)]
        more = sizes[layer_of, at[0]] - sizes[layer_of, at[1]]
        useful = (more > 0) & (more < held[most] - held[least])
        if not useful.any():
            break
        layer = int(np.where(useful, np.abs(2 * more - (held[most] - held[least])), 10**9).argmin())
        home[layer, at[0][layer]], home[layer, at[1][layer]] = least, most
        held[most] -= more[layer]
        held[least] += more[layer]
    return np.take_along_axis(home, parts, axis=1), held
