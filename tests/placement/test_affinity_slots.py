"""Maps of slots moved near their neighbours: prices, limits of load, and what is gained."""

from __future__ import annotations

import time
from itertools import pairwise, permutations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.placement.affinity import cluster_flows
from planner.placement.affinity_search import place_by_affinity
from planner.placement.affinity_slots import near, steps_price
from planner.placement.splitting import copies_on, device_loads, equal_shares

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def tree(devices: int, node: int) -> Floats:
    """One hop inside a node, two between nodes."""
    device = np.arange(devices)
    together = device[:, np.newaxis] // node == device // node
    return np.where(np.eye(devices) > 0, 0.0, np.where(together, 1.0, 2.0))


def routed(layers: int, experts: int, seed: int) -> tuple[Floats, Floats]:
    """Transitions with four preferred successors for every expert, and the loads they add up to."""
    random = np.random.default_rng(seed)
    popular = random.lognormal(0.0, 0.7, (layers, experts))
    rows = 0.5 * popular[1:, np.newaxis] / popular[1:, np.newaxis].sum(axis=2, keepdims=True)
    rows = np.repeat(rows, experts, axis=1)
    for layer, expert in np.ndindex(layers - 1, experts):
        liked = random.choice(experts, 4, replace=False)
        rows[layer, expert, liked] += 0.5 * random.dirichlet(np.ones(4))
    loads = [popular[0] / popular[0].sum()]
    transitions = []
    for row in rows:
        transitions.append(loads[-1][:, np.newaxis] * row)
        loads.append(transitions[-1].sum(axis=0))
    return np.array(transitions), np.array(loads)


def striped(loads: Floats, slots: int, devices: int) -> Ints:
    """The heaviest twice, all dealt to the devices forth and back."""
    answer = []
    for load in loads:
        order = np.argsort(-load)
        twice = order[: slots - len(load)]
        weight = np.where(np.isin(np.arange(len(load)), twice), load / 2, load)
        one = np.concatenate([np.arange(len(load)), twice])
        one = one[np.argsort(-weight[one], kind="stable")].reshape(-1, devices)
        one[1::2] = one[1::2, ::-1]
        answer.append(one.T.ravel())
    return np.array(answer)


def imbalance(loads: Floats, slots: Ints, devices: int) -> Floats:
    by_device = device_loads(loads, equal_shares(copies_on(slots, loads.shape[1], devices)))
    return np.asarray(by_device.max(axis=1) / by_device.mean(axis=1))


def test_price_by_hand() -> None:
    """Expert 0 is on both devices: half of its tokens stay, half make one step."""
    transitions = np.array([[[8.0, 0.0], [0.0, 0.0]]])
    slots = np.array([[0, 1, 0, 1], [0, 0, 1, 1]])
    assert steps_price(transitions, slots, 1.0 - np.eye(2)).tolist() == [4.0]


@pytest.mark.parametrize("limit", [1.02, 1.1, 1.5])
def test_the_load_stays_within_the_limit_and_the_price_falls(limit: float) -> None:
    transitions, loads = routed(6, 64, 0)
    slots = striped(loads, 80, 16)
    moved = near(transitions, loads, slots, tree(16, 4), limit)
    before, after = imbalance(loads, slots, 16), imbalance(loads, moved, 16)
    assert np.all(after <= np.maximum(before, limit) * (1 + 1e-6))
    price = [steps_price(transitions, one, tree(16, 4)).sum() for one in (slots, moved)]
    assert price[1] < price[0]


def test_the_same_replicas_and_none_twice_on_a_device() -> None:
    transitions, loads = routed(6, 64, 0)
    slots = striped(loads, 80, 16)
    moved = near(transitions, loads, slots, tree(16, 4), 1.3)
    assert np.array_equal(np.sort(slots, axis=1), np.sort(moved, axis=1))
    assert copies_on(moved, 64, 16).max() == 1


def test_moving_replicas_saves_more_than_mapping_clusters() -> None:
    transitions, loads = routed(12, 128, 0)
    slots, distance = striped(loads, 144, 16), tree(16, 4)
    clusters = cluster_flows(transitions, equal_shares(copies_on(slots, 128, 16)))
    packed = steps_price(transitions, slots, distance).sum()
    mapped = place_by_affinity(clusters, distance).price
    moved = steps_price(transitions, near(transitions, loads, slots, distance, 1.1), distance).sum()
    assert packed - moved > 2 * (packed - mapped) > 0


@pytest.mark.parametrize("seed", range(3))
def test_whole_devices_are_mapped_first_and_no_pass_costs_more(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transitions, loads = routed(6, 32, seed)
    slots, distance = striped(loads, 56, 8), tree(8, 4)
    prices = []
    for sweeps in range(4):
        monkeypatch.setattr("planner.placement.affinity_slots.SWEEPS", sweeps)
        moved = near(transitions, loads, slots, distance, 1.5)
        prices.append(steps_price(transitions, moved, distance).sum())
    clusters = cluster_flows(transitions, equal_shares(copies_on(slots, 32, 8)))
    assert prices[0] == pytest.approx(place_by_affinity(clusters, distance).price)
    assert all(later <= before for before, later in pairwise(prices))


@pytest.mark.parametrize("seed", range(4))
def test_is_close_to_the_best_of_all_placements(seed: int) -> None:
    """Three layers of four equally heavy experts on two devices."""
    random = np.random.default_rng(seed)
    transitions, loads = random.exponential(size=(2, 4, 4)), np.ones((3, 4))
    every = [np.array(p) for p in permutations(range(4)) if p[0] < p[1] and p[2] < p[3]]
    distance = 1.0 - np.eye(2)
    best = min(
        steps_price(transitions, np.array(slots), distance).sum()
        for slots in product(every, repeat=3)
    )
    found = near(transitions, loads, np.array([[0, 1, 2, 3]] * 3), distance, 1.0)
    assert best <= steps_price(transitions, found, distance).sum() * (1 + 1e-12)
    assert steps_price(transitions, found, distance).sum() < 1.1 * best


def test_a_whole_model_takes_a_few_seconds_at_most() -> None:
    transitions, loads = routed(20, 256, 0)
    slots = striped(loads, 320, 64)
    begin = time.process_time()
    near(transitions, loads, slots, tree(64, 8), 1.2)
    assert time.process_time() - begin < 3.0
