"""Memory of known models on one device, computed by hand beside the planner's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import planner
from planner.costs.memory import state_bytes
from planner.costs.topology import network
from planner.layers.moe import moe_part
from planner.layers.part import Setting
from planner.specs.catalog import find_cluster
from planner.specs.model import DenseFeedForward, GroupedQueryAttention, Layer, ModelSpec
from planner.specs.models_catalog import find_model
from planner.specs.workload import TrainingJob

H = 7168


@pytest.fixture(scope="module")
def memory() -> Any:
    """DeepSeek-V3's busiest device, by kind."""
    plan = planner.estimate_training(
        "deepseek-v3",
        "h800-ib",
        "pp=16,ep=64,tp=1,zero=1,recompute=none",
        devices=2048,
        global_batch=15360,
        seq_len=4096,
    )
    return plan.memory


class TestDeepSeekV3:
    """2048 H800 as in arXiv 2412.19437: 16 stages, 64-way expert parallelism, ZeRO-1.

    A middle stage has four layers, each with 4 of the 256 experts of three 7168 x 2048 matrices.
    """

    ONE_EXPERT = 3 * H * 2048
    EXPERTS = 4 * 4 * ONE_EXPERT
    ATTENTION = (
        H * 1536 + 1536 + 1536 * 128 * 192  # queries through a rank of 1536
        + H * (512 + 64) + 512 + 512 * 128 * 256  # keys and values through one of 512
        + 128 * 128 * H
    )  # fmt: skip
    DENSE = 4 * (ATTENTION + ONE_EXPERT + 256 * H)  # the shared expert and the router
    DATA_PARALLEL, EXPERT_DATA_PARALLEL = 2048 // 16, 2048 // 16 // 64

    def test_705_million_expert_parameters_a_device(self) -> None:
        cluster = find_cluster("h800-ib")
        setting = Setting(cluster.accelerator, network(cluster, 2048), TrainingJob(4096, 15360), H)
        spec = find_model("deepseek-v3").layers[-1].feedforward
        axes = (np.array([v]) for v in (4096.0, 1.0, 64.0, 1.0))
        a_layer = moe_part(setting, spec, *axes).expert_parameters
        assert 4 * np.sum(a_layer) == self.EXPERTS == 704_643_072

    def test_all_experts_and_their_stages_are_most_of_the_model(self) -> None:
        """58 layers on 64 ranks: 653.9 of 671 billion parameters."""
        experts = 58 * 64 * self.EXPERTS // 4
        assert experts == 58 * 256 * self.ONE_EXPERT
        assert experts / find_model("deepseek-v3").parameters().total == pytest.approx(0.975, 1e-3)

    def test_expert_states_are_shared_by_two_ranks_only(self) -> None:
        found = sum(state_bytes(float(self.EXPERT_DATA_PARALLEL), 1, 2.0, 4.0, 12.0))
        assert found == 6 + 12 / 2
        assert self.EXPERTS * found == pytest.approx(8.456e9, rel=1e-3)

    def test_states_of_a_middle_stage(self, memory: Any) -> None:
        """It keeps the most: 15 micro-batches of four layers each."""
        assert memory["weights"] == pytest.approx(2 * (self.DENSE + self.EXPERTS), rel=1e-4)
        assert memory["gradients"] == pytest.approx(4 * (self.DENSE + self.EXPERTS), rel=1e-4)
        optimizer = 12 * (
            self.DENSE / self.DATA_PARALLEL + self.EXPERTS / self.EXPERT_DATA_PARALLEL
        )
        assert memory["optimizer"] == pytest.approx(optimizer, rel=1e-4)

    def test_its_activations_are_those_of_sixty_layers(self, memory: Any) -> None:
        """Copies of tokens alone: eight of 2 h for the experts' input, as much for their output."""
        dispatched = 15 * 4 * 4096 * 8 * 2 * H
        assert 2 * dispatched < memory["activations"] < 8 * dispatched


ATTENTION = GroupedQueryAttention(32, 8, 64)


def one_device(tied: bool) -> Any:
    layer = Layer(ATTENTION, DenseFeedForward(8192))
    model = ModelSpec("small", 2048, 128256, (layer,) * 16, tied_embeddings=tied)
    options = {"devices": 1, "global_batch": 8, "seq_len": 2048}
    found = planner.estimate_training(model, "dgx-h100", "tp=1,pp=1,zero=0", **options)
    return model.parameters().total, found.memory


@pytest.mark.parametrize(
    "tied",
    [False, True],
)
def test_a_device_that_holds_all_of_a_model_has_18_bytes_a_parameter(tied: bool) -> None:
    parameters, memory = one_device(tied)
    assert memory["weights"] == pytest.approx(2 * parameters, rel=1e-4)
    assert memory["gradients"] == pytest.approx(4 * parameters, rel=1e-4)
    assert memory["optimizer"] == pytest.approx(12 * parameters, rel=1e-4)
