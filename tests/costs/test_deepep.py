"""DeepEP: phases worked by hand, and the times and bandwidths that DeepEP publishes of H800."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.costs import deepep, kernels
from planner.costs.routing import distinct_groups
from planner.specs.catalog import find_cluster
from planner.specs.kernel_sets import LowLatencySet, NormalSet

H800 = find_cluster("h800-ib")
NVLINK, NIC = H800.tiers[0].bandwidth, H800.tiers[-1].bandwidth
DTYPE = {"dispatch": "fp8", "combine": "bf16"}
LOW = LowLatencySet(
    launch=10e-6, expert=0.01e-6, token=1e-6, local=1e12, far=5e-6, hop=2e-6, nic=1.0
)
NORMAL = NormalSet(
    launch=20e-6,
    far=5e-6,
    hop=2e-6,
    token=0.0,
    message=0.1e-6,
    sm_rate=1e12,
    far_rate=1e12,
    nvlink=0.5,
    nic=1.0,
)


def test_a_message_of_deepseek_v3() -> None:
    """7,168 bytes of fp8 with 56 scales of 4 B and 16 B of header; or bf16."""
    assert deepep.message("dispatch", 7168) == 7168 + 56 * 4 + 16
    assert deepep.message("combine", 7168) == 14336


class TestLowLatency:
    @staticmethod
    def time(nodes: float, tokens: float, kernel: LowLatencySet = LOW) -> float:
        """Eight of 256 experts at a hidden size of 1,024: copies of 1,072 B [us]."""
        shape = (nodes, tokens, 1024, 8, 256)
        return 1e6 * float(deepep.low_latency(kernel, "dispatch", *shape, 200e9, 50e9))

    def test_over_four_nodes(self) -> None:
        """Three quarters of 1,024 copies leave the node, behind 256 experts and two doublings."""
        wire = 128 * 8 * 1072 * 0.75 / 50e3
        assert self.time(4, 128) == pytest.approx(10 + 2.56 + 5 + 2 * 2 + wire)

    def test_inside_a_node(self) -> None:
        """Seven eighths go over NVLink, at 0.8 of 200 GB/s, and all through device memory."""
        near = 128 * 8 * 1072 * (7 / 8 / 160e3 + 1 / 1e6)
        assert self.time(1, 128) == pytest.approx(10 + 2.56 + near)

    def test_blocks_post_one_token_after_another(self) -> None:
        """256 experts in two rounds of 128 blocks on 132 cores: one token each."""
        busy = replace(LOW, token=1e-3)
        assert self.time(1, 128, busy) == pytest.approx(10 + 2.56 + 1000)

    def test_no_tokens_leave_the_launch_and_the_hops(self) -> None:
        assert self.time(1, 0) == pytest.approx(12.56)
        assert self.time(8, 0) == pytest.approx(12.56 + 5 + 3 * 2)

    @pytest.mark.parametrize(
        ("phase", "published"),
        [("dispatch", (118, 155, 173, 192, 194)), ("combine", (195, 273, 314, 369, 360))],
    )
    def test_published_times_from_16_to_256_ranks(
        self, phase: str, published: tuple[int, ...]
    ) -> None:
        """128 tokens of 7,168, eight of 288 experts, H800 with 400 Gb/s [us]."""
        kernel = kernels.parameters(H800.accelerator, f"{phase}_low_latency", DTYPE[phase])
        nodes = np.array([2, 4, 8, 16, 32])
        shape = (nodes, 128, 7168, 8, 288)
        found = 1e6 * deepep.low_latency(kernel, phase, *shape, NVLINK, NIC)
        np.testing.assert_allclose(found, published, rtol=0.15)
        assert np.abs(found / published - 1).mean() < 0.07


class TestNormal:
    @staticmethod
    def time(nodes: float, tokens: float = 4096, kernel: NormalSet = NORMAL) -> float:
        """One expert a token: one copy of 7,408 B to one rank of one node [us]."""
        shape = (nodes, tokens, 7168, 1, 256, 24)
        return 1e6 * float(deepep.normal(kernel, "dispatch", *shape, 200e9, 50e9))

    def test_inside_a_node(self) -> None:
        """Seven eighths of the tokens go over NVLink, at half of 200 GB/s."""
        assert self.time(1) == pytest.approx(20 + 4096 * 7408 * 7 / 8 / 100e3)

    def test_over_two_nodes(self) -> None:
        """Half of them go over the network at 50 GB/s."""
        assert self.time(2) == pytest.approx(20 + 5 + 2 + 4096 * 7408 / 2 / 50e3)

    def test_few_cores_are_slower_than_the_links(self) -> None:
        """24 cores spend 10 us on a copy and move it at 1 TB/s."""
        slow = replace(NORMAL, message=10e-6)
        assert self.time(1, kernel=slow) == pytest.approx(20 + 4096 * (10 + 7408 / 1e6) / 24)

    @pytest.mark.parametrize(
        ("nodes", "allowed", "copies"),
        [(2, 8, 1.993), (8, 8, 5.295), (8, 4, 3.629)],  # 128 of 256 experts within reach
    )
    def test_a_token_crosses_to_each_node_once(
        self, nodes: int, allowed: int, copies: float
    ) -> None:
        """Eight experts a token, but as many copies as nodes that hold one of them."""
        kernel = replace(NORMAL, message=0.0, sm_rate=1e15, far_rate=1e15, nvlink=1e3)
        shape = (nodes, 4096, 7168, 8, 256, 24, 200e9, 50e9, allowed)
        start = 20e-6 + 5e-6 + 2e-6 * np.log2(nodes)
        wire = float(deepep.normal(kernel, "combine", *shape)) - start
        assert wire / (4096 * 14336 * (1 - 1 / nodes) / 50e9) == pytest.approx(copies, abs=1e-3)

    @pytest.mark.parametrize(
        ("nodes", "dispatch", "combine"),
        [(1, 153, 158), (2, 43, 43), (4, 58, 57), (8, 51, 50)],
    )
    def test_published_bandwidths(self, nodes: int, dispatch: int, combine: int) -> None:
        """4,096 tokens of 7,168, eight of 256 experts on at most four nodes, H800 [GB/s].

        DeepEP counts a token once for every rank (one node) or node that it goes to.
        """
        for phase, published in (("dispatch", dispatch), ("combine", combine)):
            kernel = kernels.parameters(H800.accelerator, f"{phase}_normal", DTYPE[phase])
            shape = (nodes, 4096, 7168, 8, 256, 24)
            seconds = float(deepep.normal(kernel, phase, *shape, NVLINK, NIC, allowed=4))
            groups = 8 if nodes == 1 else min(nodes, 4)
            items = 256 * groups / nodes if nodes > 1 else 256
            copies = 4096 * float(distinct_groups(groups, 8, items))
            rate = copies * (deepep.message(phase, 7168) - 16 * (phase == "dispatch")) / seconds
            assert rate / 1e9 == pytest.approx(published, rel=0.12)


def test_the_notice_before_a_normal_dispatch() -> None:
    """Measured medians on two, four and eight nodes are 33, 54 and 80 us."""
    np.testing.assert_allclose(deepep.notice(np.array([2, 4, 8])), [33e-6, 54e-6, 80e-6], rtol=0.08)
    assert deepep.notice(1) == 0.0
