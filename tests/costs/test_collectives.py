"""Collectives: the measured line inside a domain, NCCL's model beyond, which tier carries what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from planner.costs import collectives, lines
from planner.costs.topology import Network, network
from planner.specs.catalog import find_cluster, list_clusters
from planner.specs.hardware import Cluster, Tier

NODE = Tier("node", 8, 400e9, 5e-6, "switch", 400e9, efficiency=0.8)
FABRIC = Tier("fabric", 4096, 50e9, 8e-6, "fat-tree", 50e9, efficiency=0.8)
NOMINAL = Network((NODE, FABRIC), (8, 1024), 1024)
"""Datasheet figures alone, of a vendor whose library NCCL's model stands for."""
MEASURED = network(find_cluster("dgx-h100"), 1024)
GIB = 2.0**30

GROUPS = (
    collectives.all_reduce,
    collectives.all_gather,
    collectives.reduce_scatter,
    collectives.all_to_all,
    collectives.broadcast,
)
LINES = GROUPS[:-1]
"""Those with a measured line."""
Collective = Callable[..., float]


def name(function: Collective) -> str:
    return function.__name__


@lru_cache
def machine(cluster: str) -> Cluster:
    return find_cluster(cluster)


def job(cluster: str, devices: int) -> Network:
    return network(machine(cluster), devices)


@pytest.mark.parametrize("net", [NOMINAL, MEASURED], ids=["nominal", "measured"])
@pytest.mark.parametrize("collective", GROUPS, ids=name)
class TestEveryCollective:
    SHAPES = ((2, 1), (8, 1), (64, 1), (16, 8), (8, 4))

    def test_a_single_rank_costs_nothing(self, collective: Collective, net: Network) -> None:
        for stride in (1, 8, 64):
            assert float(collective(net, 1, stride, GIB)) == 0.0
        together = collective(net, 1, 1, np.array([0.0, 1.0, GIB]))
        np.testing.assert_array_equal(together, np.zeros(3), strict=True)

    def test_it_takes_longer_for_more_bytes(self, collective: Collective, net: Network) -> None:
        nbytes = np.logspace(0, 11, 400)
        for size, stride in self.SHAPES:
            seconds = collective(net, size, stride, nbytes)
            assert np.all(np.diff(seconds) >= 0.0)
            assert seconds[-1] > 100.0 * seconds[0]

    def test_latency_grows_with_the_group(self, collective: Collective, net: Network) -> None:
        empty = [float(collective(net, size, 1, 0.0)) for size in (1, 2, 4, 8, 16, 64, 256, 1024)]
        assert np.all(np.diff(empty) > 0.0)

    def test_slowdown_stretches_the_transfer_only(
        self, collective: Collective, net: Network
    ) -> None:
        """As if there were so many more bytes, and none stay none."""
        slow = replace(net, slowdown=1.3)
        for size, stride in self.SHAPES:
            for nbytes in (0.0, 1e5, 1e9):
                found = float(collective(slow, size, stride, nbytes))
                assert found == pytest.approx(float(collective(net, size, stride, 1.3 * nbytes)))

    def test_an_oversubscribed_fabric_is_slower_across_nodes_alone(
        self, collective: Collective, net: Network
    ) -> None:
        inner, outer = net.tiers
        shared = replace(net, tiers=(inner, replace(outer, oversubscription=7.0)))
        for size, stride, least, most in ((8, 1, 1.0, 1.0), (16, 8, 6.5, 7.5), (64, 1, 1.5, 7.5)):
            clear = float(collective(net, size, stride, 64 * GIB))
            slower = float(collective(shared, size, stride, 64 * GIB)) / clear
            assert least <= slower <= most


@pytest.mark.parametrize("cluster", list_clusters())
def test_a_batch_is_its_rows(cluster: str) -> None:
    devices = 16 * machine(cluster).devices_per_node
    net = job(cluster, devices)
    whole = [n for n in range(1, devices + 1) if devices % n == 0]
    groups = [
        (size, stride) for size in whole for stride in whole if devices % (size * stride) == 0
    ]
    sizes, strides = np.array(groups).T
    for collective in GROUPS:
        for nbytes in (3e2, 1e5, 1.5e6, 1e9):
            together = collective(net, sizes, strides, np.full(len(groups), nbytes))
            alone = [float(collective(net, *group, nbytes)) for group in groups]
            np.testing.assert_allclose(together, alone, rtol=1e-12, err_msg=name(collective))


class TestInsideADomain:
    @pytest.mark.parametrize("collective", LINES, ids=name)
    @pytest.mark.parametrize("cluster", ["dgx-h100", "dgx-a100", "dgx-b200"])
    def test_the_measured_line_itself(self, cluster: str, collective: Collective) -> None:
        net = job(cluster, 64)
        line = net.tiers[0].collectives[name(collective)]
        nbytes = np.logspace(2, 10, 50)
        for size, stride in ((2, 1), (4, 2), (8, 1)):
            expected = lines.nccl(line, name(collective), size, nbytes)
            np.testing.assert_array_equal(collective(net, size, stride, nbytes), expected)

    def test_a_rack_with_one_fast_network_is_a_domain(self) -> None:
        net = job("gb200-nvl72", 144)
        line = net.tiers[1].collectives["all_gather"]
        found = float(collectives.all_gather(net, 72, 1, GIB))
        assert found == float(lines.nccl(line, "all_gather", 72, GIB))

    def test_without_a_line_rings_at_the_nominal_rate(self) -> None:
        """Simple: 8.4 us, 7 hops of 3.4 us, then 7/8 of the buffer at 320 GB/s."""
        found = float(collectives.all_gather(NOMINAL, 8, 1, 64 * GIB))
        assert found == pytest.approx(8.4e-6 + 7 * 3.4e-6 + 7 / 8 * 64 * GIB / 320e9)

    def test_all_to_all_without_a_line(self) -> None:
        """Three doublings of 5 us, then 7/8 of the buffer at 320 GB/s."""
        found = float(collectives.all_to_all(NOMINAL, 8, 1, GIB))
        assert found == pytest.approx(3 * 5e-6 + 7 / 8 * GIB / 320e9)


class TestAcrossNodes:
    """NCCL's own tuning model, no faster than one node's measured time."""

    def test_golden_all_reduce_over_two_h100_nodes(self) -> None:
        """At 0.85 of 50 GB/s a card; the two large sizes are bound by what one node measures."""
        sizes = np.array([2.0**13, 2.0**20, 2.0**24, 2.0**28, 2.0**30])
        found = 1e6 * np.asarray(collectives.all_reduce(job("dgx-h100", 16), 16, 1, sizes))
        np.testing.assert_allclose(found, [25.8, 59.3, 134.9, 1163, 4437], rtol=2e-3)

    @pytest.mark.parametrize(
        ("collective", "devices", "nbytes", "microseconds"),
        [
            (collectives.all_reduce, 16, 2.0**30, 4428),
            (collectives.all_reduce, 64, 2.0**13, 46.3),
            (collectives.all_reduce, 64, 2.0**28, 1602),
            (collectives.all_reduce, 64, 2.0**30, 5958),
            (collectives.all_gather, 64, 2.0**13, 81.9),
            (collectives.all_gather, 64, 2.0**20, 132.1),
            (collectives.all_gather, 64, 2.0**30, 3233),
            (collectives.all_gather, 1024, 2.0**13, 1246),
            (collectives.all_gather, 1024, 2.0**24, 2067),
            (collectives.all_gather, 1024, 2.0**30, 5463),
        ],
    )
    def test_golden_values_with_a_network_at_line_rate(
        self, collective: Collective, devices: int, nbytes: float, microseconds: float
    ) -> None:
        net = job("dgx-h100", devices)
        inner, outer = net.tiers
        full = replace(net, tiers=(inner, replace(outer, efficiency=1.0)))
        found = 1e6 * float(collective(full, devices, 1, nbytes))
        assert found == pytest.approx(microseconds, rel=3e-3)

    @pytest.mark.parametrize(
        ("cluster", "devices", "nbytes", "measured"),
        [("dgx-h100", 16, 16 * GIB, 481e9), ("dgx-a100-40g", 8, 10 * GIB, 233.5e9)],
    )
    def test_measured_bus_bandwidth_of_a_long_all_reduce(
        self, cluster: str, devices: int, nbytes: float, measured: float
    ) -> None:
        """nccl-tests on two H100 nodes with 32 channels, and on one A100 node of Oracle's."""
        seconds = float(collectives.all_reduce(job(cluster, devices), devices, 1, nbytes))
        found = 2 * (devices - 1) / devices * nbytes / seconds
        assert found == pytest.approx(measured, rel=0.05)

    @pytest.mark.parametrize("collective", LINES[:-1], ids=name)
    def test_no_faster_than_one_node_with_the_same_traffic(self, collective: Collective) -> None:
        for nbytes in np.logspace(2, 10, 20):
            inside = float(collective(MEASURED, 8, 1, nbytes * (63 / 64) / (7 / 8)))
            assert float(collective(MEASURED, 64, 1, nbytes)) >= inside * (1.0 - 1e-12)

    @pytest.mark.parametrize(
        ("latency", "expected"),
        [(8e-6, 6.6 + 7 * 5.0), (16e-6, 8 + 3 * 8.0 + 2.8 * 8)],  # ring; PAT on a slow fabric
    )
    def test_one_rank_a_node_hops_over_the_network(self, latency: float, expected: float) -> None:
        net = replace(NOMINAL, tiers=(NODE, replace(FABRIC, latency=latency)))
        assert 1e6 * float(collectives.all_gather(net, 8, 8, 0.0)) == pytest.approx(expected)

    def test_eight_rails_carry_eight_times_what_one_does(self) -> None:
        """Eight rings share the cards of a node of eight; a strided group has one card a rank."""
        for collective in (collectives.all_reduce, collectives.all_gather):
            tiered = float(collective(NOMINAL, 64, 1, 64 * GIB))
            strided = float(collective(NOMINAL, 8, 8, 64 * GIB))
            assert strided / tiered == pytest.approx(8 * (7 / 8) / (63 / 64), rel=0.01)
        assert strided == pytest.approx(7 / 8 * 64 * GIB / 40e9, rel=0.01)

    def test_rails_that_no_rank_drives_carry_nothing(self) -> None:
        """Two, four and eight ranks of each of eight nodes: as many cards, 7/8 to 63/64 sent."""
        whole = 64 * GIB / 40e9
        for local, size in ((2, 16), (4, 32), (8, 64)):
            found = float(collectives.all_gather(NOMINAL, size, 8 // local, 64 * GIB))
            assert found == pytest.approx((size - 1) / size * whole / local, rel=0.01)

    def test_a_slow_inner_tier_limits_the_rings(self) -> None:
        slow = replace(NOMINAL, tiers=(replace(NODE, bandwidth=40e9), FABRIC))
        expected = 63 / 64 * 64 * GIB / (0.8 * 40e9)
        found = float(collectives.all_gather(slow, 64, 1, 64 * GIB))
        assert found == pytest.approx(expected, rel=0.01)

    def test_an_oversubscribed_pod_counts_as_far_as_the_rings_fill_it(self) -> None:
        """7 to 1 between pods of 3,072, which two pods' rings cross on every rail of the pod."""
        net = job("h100-roce-7to1", 6144)
        inside, across = (
            float(collectives.all_gather(net, *shape, 64 * GIB)) for shape in ((8, 8), (2, 3072))
        )
        assert inside == pytest.approx(7 / 8 * 64 * GIB / 42.5e9, rel=0.01)
        assert across == pytest.approx(1 / 2 * 64 * GIB / (42.5e9 / 7), rel=0.01)


class TestAllToAll:
    def test_what_leaves_the_node_goes_over_the_fabric(self) -> None:
        """56 of 64 parts at 40 GB/s; one latency and a post for each peer."""
        found = float(collectives.all_to_all(NOMINAL, 64, 1, 64 * GIB))
        assert found == pytest.approx(8e-6 + 56e-6 + 56 / 64 * 64 * GIB / 40e9)

    def test_small_messages_cost_a_post_to_every_peer(self) -> None:
        """Of the 1,016 outside the node, beside the 12.3 us of the measured line."""
        alone = float(collectives.all_to_all(MEASURED, 8, 1, 0.0))
        found = float(collectives.all_to_all(MEASURED, 1024, 1, 0.0))
        assert found == pytest.approx(8e-6 + 1016e-6 + alone)

    def test_routing_that_stays_near_is_bound_by_the_node(self) -> None:
        slow = replace(NOMINAL, tiers=(replace(NODE, bandwidth=10e9), FABRIC))
        nbytes = 64 * GIB
        found = float(collectives.all_to_all(slow, 16, 1, nbytes))
        assert found == pytest.approx(7 / 8 * nbytes * 8 / 16 / 8e9, rel=1e-3)


def test_broadcast_moves_the_buffer_once() -> None:
    """Three doublings inside, seven over 128 nodes; the slower tier carries the buffer."""
    assert float(collectives.broadcast(NOMINAL, 1024, 1, 0.0)) == pytest.approx(15e-6 + 7 * 8e-6)
    found = float(collectives.broadcast(NOMINAL, 8, 8, 64 * GIB))
    assert found == pytest.approx(3 * 8e-6 + 64 * GIB / 40e9)


class TestPointToPoint:
    @pytest.mark.parametrize(("stride", "tier"), [(1, NODE), (7, NODE), (8, FABRIC), (512, FABRIC)])
    def test_the_tier_is_the_innermost_that_reaches_the_peer(self, stride: int, tier: Tier) -> None:
        expected = tier.latency + GIB / (0.8 * tier.bandwidth)
        assert float(collectives.point_to_point(NOMINAL, stride, GIB)) == pytest.approx(expected)
        slow = replace(NOMINAL, slowdown=2.0)
        expected = tier.latency + 2 * GIB / (0.8 * tier.bandwidth)
        assert float(collectives.point_to_point(slow, stride, GIB)) == pytest.approx(expected)

    def test_a_batch_of_strides_is_its_rows(self) -> None:
        strides = np.array([1, 4, 8, 100])
        together = collectives.point_to_point(NOMINAL, strides, GIB)
        alone = [float(collectives.point_to_point(NOMINAL, int(s), GIB)) for s in strides]
        np.testing.assert_allclose(together, alone, rtol=1e-12)

    def test_three_tiers_of_which_the_last_is_oversubscribed_7_to_1(self) -> None:
        net = job("h100-roce-7to1", 24576)
        node, pod, fabric = (float(collectives.point_to_point(net, s, GIB)) for s in (1, 8, 3072))
        assert node < pod < fabric
        assert (fabric - 8e-6) / (pod - 8e-6) == pytest.approx(7.0)


class TestMesh:
    """A full mesh of eight: 196 GB/s in all, 28 GB/s to each of seven peers."""

    TIER = Tier("node", 8, 196e9, 1e-6, "mesh", 28e9, efficiency=1.0)
    NET = Network((TIER,), (8,), 8)

    @pytest.mark.parametrize("ranks", [2, 4, 8])
    def test_a_group_has_the_links_to_its_other_members(self, ranks: int) -> None:
        moved = (ranks - 1) / ranks * 280e9
        expected = moved / ((ranks - 1) * 28e9)
        for collective in (collectives.all_to_all, collectives.all_gather):
            assert float(collective(self.NET, ranks, 1, 280e9)) == pytest.approx(expected, rel=1e-3)

    def test_no_more_than_the_device_can_send(self) -> None:
        narrow = Network((replace(self.TIER, bandwidth=100e9),), (8,), 8)
        assert float(collectives.all_gather(narrow, 8, 1, 800e9)) == pytest.approx(7.0, rel=1e-3)

    @pytest.mark.parametrize(
        ("cluster", "link"),
        [("mi300x-ib", 48e9), ("atlas-800t-a2-910b1", 21e9), ("gh200-ib", 120e9)],
    )
    @pytest.mark.parametrize("collective", LINES, ids=name)
    def test_a_borrowed_line_is_bound_by_the_links(
        self, collective: Collective, cluster: str, link: float
    ) -> None:
        """Usable bytes/s of one link: a pair has it, a whole node one to every peer."""
        net = job(cluster, machine(cluster).devices_per_node)
        passes = 2 if collective is collectives.all_reduce else 1
        for ranks in (2, net.devices):
            seconds = float(collective(net, ranks, 1, 16 * GIB))
            bus = passes * (ranks - 1) / ranks * 16 * GIB / seconds
            assert 0.8 * link * (ranks - 1) < bus < link * (ranks - 1)
        pair = float(collectives.point_to_point(net, 1, 16 * GIB))
        assert pair == pytest.approx(16 * GIB / link, rel=1e-3)

    def test_all_to_all_of_an_mi355x_node_as_published(self) -> None:
        """361 GB/s of bus bandwidth at 16 GiB (ROCm documentation, alltoall_perf)."""
        seconds = float(collectives.all_to_all(job("mi355x-ib", 8), 8, 1, 16 * GIB))
        assert 7 / 8 * 16 * GIB / seconds == pytest.approx(361e9, rel=0.03)
