"""NCCL's tuning model: latencies worked by hand, golden values of the original, its limits."""

from __future__ import annotations

import numpy as np
import pytest

from planner.costs.nccl_tuning import GENERATIONS, predict

HOPPER, AMPERE = GENERATIONS["hopper"], GENERATIONS["ampere"]
SIZES = (2.0**13, 2.0**20, 2.0**24, 2.0**28, 2.0**30)
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter")


def microseconds(operation: str, size: int, nodes: int, nbytes: float, **options: object) -> float:
    """On H100 nodes: rings of 12 x 30 GB/s inside, 50 GB/s of network for each rank."""
    arguments = {"generation": HOPPER, "bus": 360e9, "nic": 50e9, **options}
    return 1e6 * float(predict(operation, size, nodes, nbytes, **arguments))


class TestByHand:
    """Latencies of the LL protocol [us]: 6.6 for a ring, 6.8 for a tree, then hops."""

    @pytest.mark.parametrize(
        ("operation", "size", "nodes", "expected"),
        [
            ("all_reduce", 8, 1, 6.6 + 14 * 0.6),
            ("all_gather", 8, 1, 6.6 + 7 * 0.6),
            ("all_gather", 16, 2, 6.6 + 14 * 1.0 + 2.7),  # host posts of 1 us bound the hops inside
            ("all_gather", 1024, 128, 6.6 + 896 * 1.0 + 127 * 2.7),
            ("all_reduce", 64, 8, 6.8 + 2 * (7 * 0.6 + 3 * 5.0)),  # a tree of depth 3
            ("all_gather", 8, 8, 6.6 + 7 * 5.0),  # one rank a node
            ("all_gather", 64, 64, 8 + 6 * 4.0 + 2.8 * 64),  # PAT: 211 us, the ring 322
        ],
    )
    def test_of_an_empty_buffer(
        self, operation: str, size: int, nodes: int, expected: float
    ) -> None:
        assert microseconds(operation, size, nodes, 0.0) == pytest.approx(expected)

    def test_on_pcie(self) -> None:
        """Hops of 1 us, and no LL128: a megabyte stays on LL at half the ring's rate or Simple."""
        assert microseconds("all_reduce", 8, 1, 0.0, link="pcie") == pytest.approx(6.6 + 14)
        rate = 20e9 * 8 / 7
        found = microseconds("all_gather", 8, 1, 2**20, link="pcie", bus=20e9)
        low, simple = 6.6 + 7 + 2**20 / rate * 2e6, 8.4 + 7 * 5.7 + 2**20 / rate * 1e6
        assert found == pytest.approx(min(low, simple))

    def test_large_buffers_meet_the_slowest_link(self) -> None:
        """Simple: 8.4 us, 56 hops of 3.4 us and 7 of 14 us, then 63/64 of a GiB at 360 GB/s."""
        found = microseconds("all_gather", 64, 8, 2.0**30)
        assert found == pytest.approx(8.4 + 56 * 3.4 + 7 * 14 + 63 / 64 * 2**30 / 360e3)

    def test_an_all_reduce_over_nodes_without_reduction_in_the_switch(self) -> None:
        """Simple rings have 1.4 times the latency from 64 B a channel and rank on."""
        latency = 1.4 * (8.4 + 112 * 3.4 + 14 * 14)
        found = microseconds("all_reduce", 64, 8, 2.0**34, generation=GENERATIONS["other"])
        assert found == pytest.approx(latency + 2 * 63 / 64 * 2**34 / 360e3, rel=1e-6)

    def test_a_slower_network_stretches_its_own_hops_alone(self) -> None:
        near, far = (microseconds("all_gather", 64, 8, 0.0, network=x) for x in (1.0, 3.0))
        assert far - near == pytest.approx(2 * 7 * 2.7)

    @pytest.mark.parametrize(
        ("generation", "bus", "rate"), [("hopper", 360e9, 476e9), ("blackwell", 720e9, 932e9)]
    )
    def test_reduction_in_the_switch_of_a_node(
        self, generation: str, bus: float, rate: float
    ) -> None:
        """8 channels x 40 GB/s x 0.85 x 7/8 x 2, and 8 x 90 x 0.74 x 7/8 x 2; 25 us to start."""
        arguments = {"generation": GENERATIONS[generation], "bus": bus}
        found = microseconds("all_reduce", 8, 1, 2.0**34, **arguments)
        assert found == pytest.approx(25 + 2 * 7 / 8 * 2**34 / rate * 1e6, rel=1e-3)


GOLDEN = {
    ("all_reduce", 8, 1): (15.1, 28.0, 86.7, 1011.9, 3972.6),
    ("all_gather", 8, 1): (10.9, 17.3, 71.6, 684.6, 2642),
    ("all_reduce", 16, 2): (25.8, 59.8, 134.9, 1157, 4428),
    ("all_reduce", 64, 8): (46.3, 93.8, 202.6, 1602, 5958),
    ("all_gather", 64, 8): (81.9, 132.1, 198.3, 946.2, 3233),
    ("all_gather", 1024, 128): (1246, 1297, 2067, 3034, 5463),
}
"""Of src/graph/tuning.cc of v2.30.7 for H100 nodes [us], from 8 KiB to 1 GiB."""
BY_TREE = {59.8, 93.8, 202.6}
"""Where LL128 trees win, whose table of losses we replace by a dip."""


class TestAgainstTheOriginal:
    @pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case[0]}-{case[1]}")
    def test_golden_values(self, case: tuple[str, int, int]) -> None:
        for nbytes, expected in zip(SIZES, GOLDEN[case], strict=True):
            found = microseconds(*case, nbytes)
            relative = 0.015 if expected in BY_TREE else 5e-4
            assert found == pytest.approx(expected, rel=relative, abs=0.06)

    @pytest.mark.parametrize(
        ("case", "expected"),
        [
            (("all_reduce", 8, 1), 475.8),
            (("all_gather", 8, 1), 359.7),
            (("all_reduce", 16, 2), 461.2),
            (("all_reduce", 64, 8), 363.4),
            (("all_gather", 64, 8), 357.7),
            (("all_gather", 1024, 128), 326.9),
        ],
    )
    def test_bus_bandwidth_of_16_gib(self, case: tuple[str, int, int], expected: float) -> None:
        operation, size, _ = case
        traffic = (2 if operation == "all_reduce" else 1) * (size - 1) / size * 2**34
        assert traffic / microseconds(*case, 2.0**34) / 1e3 == pytest.approx(expected, rel=2e-4)

    def test_all_reduce_in_an_a100_node(self) -> None:
        """12 channels of 20 GB/s and no reduction in the switch."""
        for nbytes, expected in zip(SIZES, (15.2, 35.9, 173.6, 2013, 7885), strict=True):
            found = microseconds("all_reduce", 8, 1, nbytes, generation=AMPERE, bus=240e9)
            assert found == pytest.approx(expected, rel=5e-4, abs=0.06)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("link", ["nvlink", "pcie"])
@pytest.mark.parametrize("operation", OPERATIONS)
class TestLimits:
    GROUPS = ((1, 1), (2, 1), (8, 1), (2, 2), (16, 2), (16, 16), (64, 8), (1024, 128))

    def test_one_rank_is_free_and_bytes_cost(
        self, operation: str, link: str, generation: str
    ) -> None:
        nbytes = np.concatenate([[0.0], np.logspace(0, 11, 300)])
        kind = GENERATIONS[generation]
        for size, nodes in self.GROUPS:
            seconds = predict(operation, size, nodes, nbytes, kind, 360e9, 50e9, link)
            assert np.all(np.diff(seconds) >= 0.0)
            assert (seconds[0] == 0.0) == (size == 1)

    def test_rows_are_as_if_alone(self, operation: str, link: str, generation: str) -> None:
        sizes, nodes = np.array(self.GROUPS).T
        nbytes, kind = np.logspace(2, 9, len(sizes)), GENERATIONS[generation]
        together = predict(operation, sizes, nodes, nbytes, kind, 360e9, 50e9, link)
        alone = [
            float(predict(operation, int(n), int(m), float(b), kind, 360e9, 50e9, link))
            for n, m, b in zip(sizes, nodes, nbytes, strict=True)
        ]
        np.testing.assert_allclose(together, alone, rtol=1e-12)
