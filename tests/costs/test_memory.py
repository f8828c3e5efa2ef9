"""Bytes of state a parameter: 18 in all, divided as ZeRO's stages say."""

from __future__ import annotations

import numpy as np
import pytest

from planner.costs.memory import state_bytes
from planner.specs.workload import SOFTWARE

MEGATRON = SOFTWARE["megatron"]
SIZES = (MEGATRON.weight_bytes, MEGATRON.gradient_bytes, MEGATRON.optimizer_bytes)


def total(shards: float, zero: int) -> float:
    return sum(state_bytes(shards, zero, *SIZES))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_eighteen_bytes_on_a_single_shard(zero: int) -> None:
    """bf16 weight 2, fp32 gradient 4, fp32 weight, mean and variance 12."""
    assert total(1, zero) == 18.0


@pytest.mark.parametrize("d", [2, 8, 64, 1000])
class TestStages:
    def test_0_shards_nothing(self, d: int) -> None:
        assert total(d, 0) == 18.0

    def test_1_shards_the_optimizer(self, d: int) -> None:
        assert total(d, 1) == pytest.approx(6 + 12 / d)

    def test_2_shards_gradients_too(self, d: int) -> None:
        assert total(d, 2) == pytest.approx(2 + 16 / d)

    def test_3_shards_everything(self, d: int) -> None:
        assert total(d, 3) == pytest.approx(18 / d)

    def test_kinds_come_as_weight_gradient_optimizer(self, d: int) -> None:
        assert state_bytes(d, 2, 2.0, 4.0, 12.0) == (2.0, 4.0 / d, 12.0 / d)


def test_the_papers_example_of_7_5_billion_parameters_on_64_devices() -> None:
    """ZeRO figure 1: 120, 31.4, 16.6 and 1.9 GB with 2 + 2 + 12 bytes."""
    found = [7.5 * sum(state_bytes(64.0, zero, 2.0, 2.0, 12.0)) for zero in range(4)]
    assert found == pytest.approx([120.0, 31.4, 16.6, 1.9], abs=0.05)


def test_a_batch_is_its_rows() -> None:
    shards = np.array([1.0, 4.0, 32.0])
    together = sum(np.broadcast_to(kind, 3) for kind in state_bytes(shards, 1, *SIZES))
    assert together.tolist() == [total(d, 1) for d in shards]
