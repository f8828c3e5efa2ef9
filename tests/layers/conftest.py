"""One place that builds a setting and a sharding, and reads link time and FLOPs off a part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from planner.costs import kernels
from planner.costs.topology import network
from planner.costs.tree import Cost
from planner.layers.part import Part, Setting, Sharding
from planner.specs.catalog import find_cluster
from planner.specs.workload import PRECISIONS, SOFTWARE, TrainingJob


def column(value: float) -> np.ndarray:
    return np.array([value], dtype=float)


def leaves(cost: Cost) -> Iterator[Cost]:
    if not cost.children:
        yield cost
    for child in cost.children:
        yield from leaves(child)


@dataclass(frozen=True)
class Bench:
    """What the layer tests need, as functions."""

    def setting(
        self,
        hidden: int = 4096,
        *,
        seq_len: int = 4096,
        software: str = "megatron",
        cluster: str = "dgx-h100",
        devices: int = 64,
        dispatch: str = "all-to-all",
        context_parallel: str = "ring",
        imbalance: float = 1.0,
        precision: str = "bf16",
    ) -> Setting:
        machines = find_cluster(cluster)
        job = TrainingJob(seq_len, 64, PRECISIONS[precision], SOFTWARE[software], imbalance)
        net = network(machines, devices)
        device = kernels.sustained(machines.accelerator)
        return Setting(device, net, job, hidden, dispatch, context_parallel)

    def sharding(
        self, tp: int = 1, cp: int = 1, sequence_parallel: int = 0, micro_batch: int = 1
    ) -> Sharding:
        return Sharding(*(column(v) for v in (tp, cp, sequence_parallel, micro_batch)))

    def link(self, *costs: Cost) -> float:
        """Seconds of every transfer in the trees, hidden or not."""
        found = [leaf.seconds for cost in costs for leaf in leaves(cost) if leaf.lane == "link"]
        assert found, "the tree names no transfer"
        return float(sum(np.sum(value) for value in found))

    def all_link(self, part: Part) -> float:
        return self.link(part.forward, part.backward)

    def named(self, cost: Cost, words: str) -> float:
        """Seconds of the leaves whose name holds ``words``."""
        found = [leaf.seconds for leaf in leaves(cost) if words in leaf.name]
        assert found, f"no leaf is called {words}"
        return float(sum(np.sum(value) for value in found))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.fixture
def spied_flops(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], float]:
    """Run a function and return the FLOPs of every product and scan that it asks the time of."""
    counted: list[float] = []
    gemm, grouped, roofline = kernels.gemm, kernels.experts, kernels.roofline

    def count_gemm(device: Any, dtype: str, m: Any, n: Any, k: Any) -> Any:
        counted.append(float(np.sum(2.0 * m * n * k)))
        return gemm(device, dtype, m, n, k)

    def count_experts(
        device: Any, dtype: str, rows: Any, active: Any, local: Any, hidden: Any, width: Any,
        matrices: Any, **options: Any,
    ) -> Any:  # fmt: skip
        counted.append(float(np.sum(2.0 * matrices * rows * hidden * width)))
        return grouped(device, dtype, rows, active, local, hidden, width, matrices, **options)

    def count_roofline(device: Any, kernel: Any, dtype: str, flops: Any, nbytes: Any) -> Any:
        counted.append(float(np.sum(flops)))
        return roofline(device, kernel, dtype, flops, nbytes)

    monkeypatch.setattr(kernels, "gemm", count_gemm)
    monkeypatch.setattr(kernels, "experts", count_experts)
    monkeypatch.setattr(kernels, "roofline", count_roofline)

    def run(function: Callable[[], object]) -> float:
        counted.clear()
        function()
        return sum(counted)

    return run
