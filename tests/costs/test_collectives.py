"""Collectives: limits, order of magnitude against NCCL, and which tier carries what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from planner.costs import collectives
from planner.costs.topology import Network, network
from planner.specs.catalog import find_cluster
from planner.specs.hardware import Tier

NODE = Tier("node", 8, 400e9, 5e-6, "switch", 400e9, efficiency=0.8)
FABRIC = Tier("fabric", 4096, 50e9, 10e-6, "fat-tree", 50e9, efficiency=0.8)
NOMINAL = Network((NODE, FABRIC), (8, 1024), 1024)
MEASURED = network(find_cluster("dgx-h100"), 1024)
GIB = 2.0**30

GROUPS = (
    collectives.all_reduce,
    collectives.all_gather,
    collectives.reduce_scatter,
    collectives.all_to_all,
    collectives.broadcast,
)
Collective = Callable[..., float]


def name(function: Collective) -> str:
    return function.__name__


@pytest.mark.parametrize("net", [NOMINAL, MEASURED], ids=["nominal", "measured"])
@pytest.mark.parametrize("collective", GROUPS, ids=name)
class TestEveryCollective:
    def test_a_single_rank_costs_nothing(self, collective: Collective, net: Network) -> None:
        for stride in (1, 8, 64):
            assert float(collective(net, 1, stride, GIB)) == 0.0

    def test_it_takes_longer_for_more_bytes(self, collective: Collective, net: Network) -> None:
        nbytes = np.logspace(0, 11, 200)
        for size, stride in ((2, 1), (8, 1), (64, 1), (16, 8)):
            seconds = np.array([float(collective(net, size, stride, b)) for b in nbytes])
            assert np.all(np.diff(seconds) >= 0.0)
            assert seconds[-1] > 100.0 * seconds[0]

    def test_latency_grows_with_the_group(self, collective: Collective, net: Network) -> None:
        empty = [float(collective(net, size, 1, 0.0)) for size in (1, 2, 4, 8, 16, 64, 256, 1024)]
        assert np.all(np.diff(empty) > 0.0)

    def test_a_batch_is_its_rows(self, collective: Collective, net: Network) -> None:
        sizes, strides = np.array([1, 4, 8, 64, 16]), np.array([1, 2, 1, 1, 8])
        nbytes = np.array([1e9, 1e3, 1e6, 1e8, 1e7])
        together = collective(net, sizes, strides, nbytes)
        alone = [
            float(collective(net, int(n), int(s), float(b)))
            for n, s, b in zip(sizes, strides, nbytes, strict=True)
        ]
        np.testing.assert_allclose(together, alone, rtol=1e-12)

    def test_slowdown_stretches_the_transfer_only(
        self, collective: Collective, net: Network
    ) -> None:
        slow = replace(net, slowdown=1.3)
        latency = float(collective(net, 64, 1, 0.0))
        transfer = float(collective(net, 64, 1, GIB)) - latency
        assert float(collective(slow, 64, 1, 0.0)) == pytest.approx(latency)
        assert float(collective(slow, 64, 1, GIB)) == pytest.approx(latency + 1.3 * transfer)


class TestBandwidthRegime:
    """Long buffers on nominal tiers meet the textbook volumes."""

    @pytest.mark.parametrize(("size", "stride"), [(8, 1), (64, 1), (16, 8)])
    def test_all_reduce_is_reduce_scatter_and_all_gather(self, size: int, stride: int) -> None:
        both = collectives.reduce_scatter(NOMINAL, size, stride, 64 * GIB)
        both = both + collectives.all_gather(NOMINAL, size, stride, 64 * GIB)
        whole = collectives.all_reduce(NOMINAL, size, stride, 64 * GIB)
        assert float(whole) == pytest.approx(float(both), rel=1e-3)

    def test_inside_a_node_two_n_minus_one_over_n_on_the_link(self) -> None:
        expected = 2 * 7 / 8 * 64 * GIB / (0.8 * 400e9)
        assert float(collectives.all_reduce(NOMINAL, 8, 1, 64 * GIB)) == pytest.approx(
            expected, rel=1e-3
        )

    def test_across_nodes_eight_rings_share_the_eight_network_cards(self) -> None:
        expected = 63 / 64 * 64 * GIB / 8 / (0.8 * 50e9)
        assert float(collectives.all_gather(NOMINAL, 64, 1, 64 * GIB)) == pytest.approx(
            expected, rel=2e-2
        )

    def test_a_strided_group_has_one_card_for_each_rank(self) -> None:
        expected = 7 / 8 * 64 * GIB / (0.8 * 50e9)
        assert float(collectives.all_gather(NOMINAL, 8, 8, 64 * GIB)) == pytest.approx(
            expected, rel=1e-2
        )

    def test_a_hierarchical_ring_beats_a_flat_one_by_the_devices_of_a_node(self) -> None:
        for collective in (collectives.all_reduce, collectives.all_gather):
            flat = float(collective(NOMINAL, 64, 8, 64 * GIB))
            tiered = float(collective(NOMINAL, 64, 1, 64 * GIB))
            assert flat / tiered == pytest.approx(8.0, rel=0.03)

    def test_a_slow_inner_tier_limits_a_hierarchical_ring(self) -> None:
        slow = replace(NOMINAL, tiers=(replace(NODE, bandwidth=40e9), FABRIC))
        expected = 63 / 64 * 64 * GIB / (0.8 * 40e9)
        whole = float(collectives.all_gather(slow, 64, 1, 64 * GIB))
        assert 0.85 * expected < whole < 1.05 * expected

    def test_all_to_all_sends_what_leaves_the_node_over_the_fabric(self) -> None:
        expected = 56 / 64 * 64 * GIB / (0.8 * 50e9)
        assert float(collectives.all_to_all(NOMINAL, 64, 1, 64 * GIB)) == pytest.approx(
            expected, rel=1e-3
        )

    def test_broadcast_moves_the_buffer_once(self) -> None:
        assert float(collectives.broadcast(NOMINAL, 8, 8, 64 * GIB)) == pytest.approx(
            64 * GIB / (0.8 * 50e9), rel=1e-3
        )

    def test_oversubscription_divides_the_bandwidth(self) -> None:
        shared = replace(NOMINAL, tiers=(NODE, replace(FABRIC, oversubscription=7.0)))
        for collective in GROUPS:
            latency = float(collective(NOMINAL, 16, 8, 0.0))
            clear = float(collective(NOMINAL, 16, 8, 64 * GIB)) - latency
            assert float(collective(shared, 16, 8, 64 * GIB)) - latency == pytest.approx(7 * clear)


class TestLatency:
    """Steps of 10 us across nodes: a ring takes n - 1 of them, a tree 2 log2 n."""

    @pytest.mark.parametrize("nodes", [2, 8, 128])
    def test_gathering_rings_take_one_step_a_rank(self, nodes: int) -> None:
        for collective in (collectives.all_gather, collectives.reduce_scatter):
            assert float(collective(NOMINAL, nodes, 8, 0.0)) == pytest.approx((nodes - 1) * 10e-6)

    @pytest.mark.parametrize(("nodes", "steps"), [(2, 2), (8, 6), (100, 14), (128, 14)])
    def test_all_reduce_takes_a_tree_when_it_is_shorter(self, nodes: int, steps: int) -> None:
        assert float(collectives.all_reduce(NOMINAL, nodes, 8, 0.0)) == pytest.approx(steps * 10e-6)

    def test_the_tiers_latencies_add_up(self) -> None:
        inside = float(collectives.all_gather(NOMINAL, 8, 1, 0.0))
        across = float(collectives.all_gather(NOMINAL, 16, 8, 0.0))
        assert float(collectives.all_gather(NOMINAL, 128, 1, 0.0)) == pytest.approx(inside + across)


class TestAgainstNccl:
    """Values of NCCL's own tuning model for H100 nodes (src/graph/tuning.cc of v2.30.7)."""

    @pytest.mark.parametrize(
        ("collective", "devices", "nbytes", "microseconds"),
        [
            (collectives.all_gather, 1024, 2.0**13, 1246.0),
            (collectives.all_gather, 1024, 2.0**30, 5463.0),
            (collectives.all_gather, 64, 2.0**13, 81.9),
            (collectives.all_gather, 64, 2.0**30, 3233.0),
            (collectives.all_reduce, 64, 2.0**13, 46.3),
            (collectives.all_reduce, 64, 2.0**30, 5958.0),
            (collectives.all_reduce, 8, 2.0**13, 15.1),
            (collectives.all_reduce, 8, 2.0**20, 28.0),
            (collectives.all_gather, 8, 2.0**13, 10.9),
            (collectives.all_gather, 8, 2.0**30, 2642.0),
        ],
    )
    def test_within_a_factor_of_one_point_six(
        self, collective: Collective, devices: int, nbytes: float, microseconds: float
    ) -> None:
        net = network(find_cluster("dgx-h100"), devices)
        ratio = 1e6 * float(collective(net, devices, 1, nbytes)) / microseconds
        assert 1 / 1.6 < ratio < 1.6

    def test_bus_bandwidth_of_a_long_all_reduce_on_eight_nodes(self) -> None:
        net = network(find_cluster("dgx-h100"), 64)
        seconds = float(collectives.all_reduce(net, 64, 1, 16 * GIB))
        assert 2 * 63 / 64 * 16 * GIB / seconds == pytest.approx(363.4e9, rel=0.1)

    def test_a_small_gather_over_1024_ranks_is_far_from_a_single_latency(self) -> None:
        one_step = MEASURED.tiers[-1].latency
        assert float(collectives.all_gather(MEASURED, 1024, 1, 8192.0)) > 100 * one_step


class TestPointToPoint:
    def test_the_tier_is_the_innermost_that_reaches_the_peer(self) -> None:
        inside = 5e-6 + GIB / (0.8 * 400e9)
        across = 10e-6 + GIB / (0.8 * 50e9)
        for stride, expected in ((1, inside), (7, inside), (8, across), (512, across)):
            found = float(collectives.point_to_point(NOMINAL, stride, GIB))
            assert found == pytest.approx(expected)

    def test_a_batch_of_strides_is_its_rows(self) -> None:
        strides = np.array([1, 4, 8, 100])
        together = collectives.point_to_point(NOMINAL, strides, GIB)
        alone = [float(collectives.point_to_point(NOMINAL, int(s), GIB)) for s in strides]
        np.testing.assert_allclose(together, alone, rtol=1e-12)

    def test_three_tiers(self) -> None:
        cluster = find_cluster("h100-roce-7to1")
        net = network(cluster, 24576)
        seconds = [float(collectives.point_to_point(net, s, GIB)) for s in (1, 8, 3072)]
        assert seconds[0] < seconds[1] < seconds[2]
        assert seconds[2] / seconds[1] == pytest.approx(7.0, rel=0.01)  # 7:1 oversubscribed

    def test_an_oversubscribed_pair_is_slower(self) -> None:
        shared = replace(NOMINAL, tiers=(NODE, replace(FABRIC, oversubscription=4.0)))
        latency = 10e-6
        assert float(collectives.point_to_point(shared, 8, GIB)) - latency == pytest.approx(
            4 * (float(collectives.point_to_point(NOMINAL, 8, GIB)) - latency)
        )


class TestMesh:
    """A full mesh of eight: 200 GB/s in all, 28 GB/s to each of seven peers."""

    TIER = Tier("node", 8, 196e9, 1e-6, "mesh", 28e9, efficiency=1.0)
    NET = Network((TIER,), (8,), 8)

    def test_a_pair_has_one_link(self) -> None:
        assert float(collectives.point_to_point(self.NET, 1, 28e9)) == pytest.approx(1.0, rel=1e-3)

    @pytest.mark.parametrize("ranks", [2, 4, 8])
    def test_a_group_has_the_links_to_its_other_members(self, ranks: int) -> None:
        moved = (ranks - 1) / ranks * 280e9
        expected = moved / ((ranks - 1) * 28e9)
        assert float(collectives.all_to_all(self.NET, ranks, 1, 280e9)) == pytest.approx(
            expected, rel=1e-3
        )

    def test_no_more_than_the_device_can_send(self) -> None:
        narrow = Network((replace(self.TIER, bandwidth=100e9),), (8,), 8)
        assert float(collectives.all_gather(narrow, 8, 1, 800e9)) == pytest.approx(7.0, rel=1e-3)
