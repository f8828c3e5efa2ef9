"""Which ranks of a group share a domain, and how a job is laid out over the domains."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from planner.costs.topology import members, network
from planner.specs.catalog import find_cluster
from planner.specs.hardware import Cluster

H100 = find_cluster("dgx-h100")
RACKS = find_cluster("gb200-nvl72")


class TestNetwork:
    @pytest.mark.parametrize(
        ("devices", "domains"),
        [
            (1, (1, 1)),
            (5, (5, 5)),
            (8, (8, 8)),
            (64, (8, 64)),
            (12, (6, 12)),  # two nodes of six, not eight and four
            (20, (5, 20)),
            (13, (1, 13)),  # a prime above eight: nothing but one in every node is even
        ],
    )
    def test_a_job_uses_the_same_number_in_every_node(
        self, devices: int, domains: tuple[int, int]
    ) -> None:
        assert network(H100, devices).domains == domains

    def test_256_devices_take_64_of_each_rack_of_72(self) -> None:
        assert network(RACKS, 256).domains == (4, 64, 256)

    def test_360_devices_fill_five_racks(self) -> None:
        assert network(RACKS, 360).domains == (4, 72, 360)

    @pytest.mark.parametrize("devices", [1, 6, 36, 72, 100, 144, 1000])
    def test_domains_nest_and_divide_the_job(self, devices: int) -> None:
        domains = network(RACKS, devices).domains
        assert domains[-1] == devices
        for inner, outer in pairwise(domains):
            assert outer % inner == 0
        for domain, tier in zip(domains[:-1], RACKS.tiers, strict=False):
            assert domain <= tier.devices

    @pytest.mark.parametrize(
        ("cluster", "devices", "outermost", "nodes"),
        [
            (H100, 64, "node", 8),
            (H100, 4, "node", 1),
            (RACKS, 144, "rack", 36),
            (find_cluster("h100-roce-7to1"), 6144, "node", 768),
        ],
    )
    def test_the_fast_domain_ends_where_the_fabric_begins(
        self, cluster: Cluster, devices: int, outermost: str, nodes: int
    ) -> None:
        net = network(cluster, devices)
        assert net.tiers[net.scale_up].name == outermost
        assert net.nodes == nodes
        assert net.generation == cluster.accelerator.generation


class TestMembers:
    @pytest.mark.parametrize(
        ("size", "stride", "expected"),
        [
            (1, 1, (1, 1)),
            (8, 1, (8, 8)),
            (4, 2, (4, 4)),
            (16, 1, (8, 16)),
            (8, 8, (1, 8)),  # one of each node
            (16, 4, (2, 16)),
            (8, 2, (4, 8)),
            (2, 64, (1, 2)),
            (6, 1, (2, 6)),  # 6 ranks start anywhere in a node of 8: only pairs never part
            (24, 1, (8, 24)),
        ],
    )
    def test_on_nodes_of_eight(self, size: int, stride: int, expected: tuple[int, int]) -> None:
        assert tuple(int(m) for m in members(network(H100, 768), size, stride)) == expected

    def test_three_tiers(self) -> None:
        net = network(RACKS, 256)
        assert [int(m) for m in members(net, 128, 1)] == [4, 64, 128]
        assert [int(m) for m in members(net, 32, 4)] == [1, 16, 32]
        assert [int(m) for m in members(net, 4, 64)] == [1, 1, 4]

    @pytest.mark.parametrize(
        ("size", "stride"),
        [
            (size, stride)
            for size in (1, 2, 3, 4, 6, 8, 12, 16, 48)
            for stride in (1, 2, 3, 4, 16)
            if 768 % (size * stride) == 0
        ],
    )
    def test_odd_sizes_count_at_most_the_even_share(self, size: int, stride: int) -> None:
        """No group of the mesh has more ranks in a node than its share when spread evenly."""
        inside, whole = (int(m) for m in members(network(H100, 768), size, stride))
        spans = [
            len({(first + i * stride) // 8 for i in range(size)})
            for first in range(0, 768, size * stride)
        ]
        assert whole == size
        assert 1 <= inside <= -(-size // min(spans))

    @pytest.mark.parametrize(("size", "stride"), [(4, 1), (16, 1), (8, 2), (32, 4), (4, 8)])
    def test_the_count_is_exact_for_powers_of_two(self, size: int, stride: int) -> None:
        ranks = [i * stride for i in range(size)]
        in_first_node = sum(rank < 8 for rank in ranks)
        assert int(members(network(H100, 768), size, stride)[0]) == in_first_node

    def test_arrays_are_their_rows(self) -> None:
        net = network(H100, 768)
        sizes, strides = np.array([1, 8, 16, 6]), np.array([4, 8, 1, 1])
        together = members(net, sizes, strides)
        for i in range(4):
            alone = members(net, int(sizes[i]), int(strides[i]))
            assert [int(m[i]) for m in together] == [int(m) for m in alone]
