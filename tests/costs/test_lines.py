"""Collectives inside one fast domain: times worked by hand, and measured bus bandwidths."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest

from planner.costs import lines
from planner.specs.catalog import find_cluster
from planner.specs.kernel_sets import CollectiveSet, OneKernelSet

LINE = CollectiveSet(
    base=5e-6,
    step=1e-6,
    low_bandwidth=10e9,
    low_step=0.2e-6,
    switch=2e-6,
    bandwidth=100e9,
    own_copy=0.5,
    fill=10e-6,
)
KERNEL = OneKernelSet(
    launch=2e-6,
    step=0.1e-6,
    low_bandwidth=10e9,
    low_step=0.05e-6,
    one_shot=100e9,
    barrier=5e-6,
    two_shot=100e9,
    limit=1e6,
    host=20e-6,
    copy=0.5,
)


def filled(wire: float) -> float:
    """Microseconds on the wire and to fill a pipeline of 10 us."""
    return wire + 10 * (1 - exp(-wire / 10))


class TestNccl:
    """Four ranks and three hops, unless said otherwise [us]."""

    @pytest.mark.parametrize(
        ("operation", "ranks", "nbytes", "expected"),
        [
            # 3 MB to the others and half of the own megabyte, at 100 GB/s
            ("all_gather", 4, 4e6, 5 + 3 + (0.6 + 2) + filled(35)),
            # of 4 kB the first 3.5 go at 10 GB/s
            ("all_gather", 4, 4e3, 5 + 3 + 0.35 + filled(0.035)),
            ("reduce_scatter", 4, 4e6, 5 + 3 + (0.6 + 2) + filled(35)),
            # twice the traffic
            ("all_reduce", 4, 4e6, 5 + 3 + (0.6 + 2) + filled(65)),
            # a tree of 7/3 log2(64) = 14 hops, not 63
            ("all_reduce", 64, 0.0, 5 + 14),
            ("all_gather", 64, 0.0, 5 + 63),
            # one message to a peer is 1 kB, all together 3.5 kB
            ("all_to_all", 4, 4e3, 5 + 3 + 0.1 + filled(0.035)),
        ],
    )
    def test_by_hand(self, operation: str, ranks: int, nbytes: float, expected: float) -> None:
        assert 1e6 * lines.nccl(LINE, operation, ranks, nbytes) == pytest.approx(expected)

    def test_the_switch_reduces_for_eight_and_more(self) -> None:
        """5 + 7 us of steps, 20 us of set-up, 2 x 7/8 x 80 MB at 200 GB/s; four use the ring."""
        switched = replace(LINE, nvls_bandwidth=200e9, nvls_switch=20e-6)
        eight, four = (1e6 * lines.nccl(switched, "all_reduce", n, 80e6) for n in (8, 4))
        assert eight == pytest.approx(5 + 7 + 20 + 700)
        assert four == pytest.approx(1e6 * lines.nccl(LINE, "all_reduce", 4, 80e6))
        gathered = lines.nccl(switched, "all_gather", 8, 80e6)
        assert gathered == lines.nccl(LINE, "all_gather", 8, 80e6)
        for nbytes in (0.0, 1e3):  # small buffers stay on the ring's small protocol
            ring = lines.nccl(LINE, "all_reduce", 8, nbytes)
            assert lines.nccl(switched, "all_reduce", 8, nbytes) == ring

    def test_one_of_seven_links_takes_seven_times_as_long(self) -> None:
        whole, pair = (lines.nccl(LINE, "all_gather", 2, 2e9, links) for links in (1.0, 1 / 7))
        wire, own = 1e9 / 100e9, 0.5 * 1e9 / 100e9
        assert pair - whole == pytest.approx(6 * wire)
        assert whole == pytest.approx(wire + own, rel=0.01)

    def test_the_line_of_one_rank_is_zero(self) -> None:
        for operation in ("all_reduce", "all_to_all"):
            assert lines.nccl(LINE, operation, 1, 1e9) == 0.0

    @pytest.mark.parametrize(
        ("name", "operation", "measured"),
        [
            ("dgx-h100", "all_reduce", (318, 350, 445)),
            ("dgx-h100", "all_gather", (258, 318, 335)),
            ("dgx-h100", "all_to_all", (280, 288, 315)),
            ("dgx-a100", "all_reduce", (193, 217, 222)),
            ("dgx-a100", "all_gather", (150, 192, 205)),
        ],
    )
    def test_bus_bandwidth_of_512_mib_as_measured(
        self, name: str, operation: str, measured: tuple[int, ...]
    ) -> None:
        """By 2, 4 and 8 ranks [GB/s]; aiconfigurator-core 0.12.0."""
        line = find_cluster(name).tiers[0].collectives[operation]
        ranks = np.array([2.0, 4.0, 8.0])
        traffic = (2.0 if operation == "all_reduce" else 1.0) * (ranks - 1) / ranks * 2**29
        found = traffic / lines.nccl(line, operation, ranks, 2.0**29) / 1e9
        np.testing.assert_allclose(found, measured, rtol=0.1)


class TestOneKernel:
    """Four ranks: a rank reads the three others' buffers [us]."""

    @pytest.mark.parametrize(
        ("nbytes", "expected"),
        [
            (1e2, 2 + 0.3 + 0.03 + 0.003),  # 300 B at 10 GB/s, then 100 GB/s
            (1e5, 2 + 0.3 + 0.15 + 3),  # one-shot: 300 kB
            (1e6, 2 + 0.3 + 0.15 + 5 + 15),  # two-shot: a barrier and 1.5 MB
        ],
    )
    def test_by_hand(self, nbytes: float, expected: float) -> None:
        assert 1e6 * lines.one_kernel(KERNEL, LINE, 4, nbytes) == pytest.approx(expected)

    def test_nccl_serves_what_is_above_the_limit(self) -> None:
        above = lines.one_kernel(KERNEL, LINE, 4, 1.01e6)
        assert above == lines.nccl(LINE, "all_reduce", 4, 1.01e6)

    def test_it_is_never_slower_than_nccl_and_zero_alone(self) -> None:
        nbytes, ranks = np.meshgrid(np.logspace(2, 8, 100), [1.0, 2.0, 4.0, 8.0])
        found = lines.one_kernel(KERNEL, LINE, ranks, nbytes)
        assert np.all(found <= lines.nccl(LINE, "all_reduce", ranks, nbytes))
        assert np.all((found > 0.0) == (ranks > 1))

    @pytest.mark.parametrize(
        ("nbytes", "expected"), [(1e5, 20.0), (1e6, 2 + 0.3 + 0.15 + 5 + 15 + 4)]
    )
    def test_without_a_graph_the_host_takes_20_us_and_the_result_is_copied(
        self, nbytes: float, expected: float
    ) -> None:
        """2 MB read and written at half of 1 TB/s take 4 us."""
        found = lines.one_kernel(KERNEL, LINE, 4, nbytes, True, 1e12)
        assert 1e6 * found == pytest.approx(expected)
