"""One configuration with its tree: sums, stages, published step times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.costs import kernels, topology
from planner.costs.pipeline import SCHEDULES
from planner.costs.tree import Cost
from planner.errors import PlannerError
from planner.layers.moe import EXCHANGE
from planner.layers.part import Setting
from planner.specs.catalog import find_cluster
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    Layer,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.models_catalog import find_model
from planner.specs.parallelism import Configuration
from planner.specs.workload import PRECISIONS, SOFTWARE, TrainingJob
from planner.training import fitted
from planner.training.columns import Rows, build
from planner.training.estimate import estimate, rows_of
from planner.training.memory import worst_memory
from planner.training.pipeline import contents, held, pipeline
from planner.training.spread import spread
from planner.training.stages import devices
from planner.training.step import step_time

H100 = find_cluster("dgx-h100")
ATTENTION = GroupedQueryAttention(32, 8, 128)
DENSE = ModelSpec("dense", 4096, 128_000, (Layer(ATTENTION, DenseFeedForward(14336)),) * 14)
EXPERTS = MixtureOfExperts(32, 4, 1536, shared_width=1536)
MOE = ModelSpec("moe", 4096, 128_000, (Layer(ATTENTION, EXPERTS),) * 14)
JOB = TrainingJob(4096, 64, imbalance=1.2)
SHAPES = [
    {},
    {"tp": 8, "sequence_parallel": 1, "dp": 2, "zero": 1},
    {"pp": 4, "dp": 4, "recompute": "full"},
    {"pp": 2, "vpp": 4, "schedule": "interleaved-1f1b", "recompute": "selective", "dp": 8},
    {"pp": 4, "schedule": "zb-v", "cp": 2, "dp": 2},
    {"pp": 4, "schedule": "dualpipe", "dp": 4, "ep": 4, "recompute": "full"},
    {"pp": 4, "vocabulary": "interlaced", "dp": 2},
    {"pp": 4, "vocabulary": "vocab-1", "dp": 2, "cp": 4, "context_parallel": "ulysses"},
    {"dp": 16, "ep": 16, "zero": 3, "dispatch": "deduplicated"},
    {"dp": 16, "ep": 8, "etp": 2, "zero": 2, "dispatch": "all-gather"},
]


def leaves(cost: Cost, times: float = 1.0) -> list[tuple[str, float]]:
    """(name, seconds on the critical path) of every leaf."""
    if not cost.children:
        return [(cost.name, times * float(cost.seconds))]
    found = []
    for child, shown in zip(cost.children, cost.exposed, strict=True):
        share = float(shown) / float(child.seconds) if child.seconds else 0.0
        found += leaves(child, times * share)
    return found


def setting_of(model: ModelSpec, one: Configuration, job: TrainingJob = JOB) -> Setting:
    net = topology.network(H100, one.devices, fitted.LINK_SLOWDOWN)
    device = kernels.sustained(H100.accelerator)
    return Setting(device, net, job, model.hidden, one.dispatch, one.context_parallel)


@pytest.mark.parametrize("software", SOFTWARE)
@pytest.mark.parametrize("axes", SHAPES, ids=str)
class TestTheTree:
    def test_its_leaves_sum_to_the_step(self, axes, software) -> None:
        model = MOE if "ep" in axes else DENSE
        found = estimate(
            model, H100, replace(JOB, software=SOFTWARE[software]), Configuration(**axes)
        )
        assert found.tree.seconds == pytest.approx(found.seconds, rel=1e-12)
        assert sum(s for _, s in leaves(found.tree)) == pytest.approx(found.seconds, rel=1e-9)
        assert min(s for _, s in leaves(found.tree)) >= -1e-9 * found.seconds

    def test_the_peak_is_the_largest_of_the_stages_and_the_sum_of_its_kinds(
        self, axes, software
    ) -> None:
        model = MOE if "ep" in axes else DENSE
        found = estimate(
            model, H100, replace(JOB, software=SOFTWARE[software]), Configuration(**axes)
        )
        peaks = [need for _, need in found.memory_by_stage]
        assert found.peak_memory == pytest.approx(max(peaks), rel=1e-12)
        assert found.memory_by_stage[0][0] == 0
        assert min(found.memory.values()) >= 0.0


class TestHiddenExchange:
    def test_dualpipe_shows_less_exchange_than_1f1b(self) -> None:
        def shown(schedule: str) -> float:
            one = Configuration(pp=4, dp=16, ep=16, schedule=schedule)
            tree = estimate(MOE, H100, replace(JOB, global_batch=256), one).tree
            return sum(seconds for name, seconds in leaves(tree) if name in EXCHANGE)

        assert 0.0 <= shown("dualpipe") < shown("1f1b")

    def test_without_expert_parallelism_there_is_none(self) -> None:
        tree = estimate(MOE, H100, JOB, Configuration(dp=8)).tree
        assert sum(seconds for name, seconds in leaves(tree) if name in EXCHANGE) == 0.0


class TestABatchOfOneIsABatch:
    @pytest.mark.parametrize("model", [DENSE, MOE], ids=lambda model: model.name)
    def test_every_row_of_a_batch_equals_its_estimate(self, model) -> None:
        """Rows in any company: the same step and memory as alone, to rounding."""
        random = np.random.default_rng(3)
        configurations = [
            Configuration(
                tp=int(tp),
                dp=int(32 // (2 * tp * cp)),
                cp=int(cp),
                pp=2,
                ep=int(random.choice([1, 2, 4])) if model is MOE else 1,
                sequence_parallel=int(tp > 1),
                micro_batch=int(random.choice([1, 2, 4])),
                recompute=str(random.choice(["none", "selective", "full"])),
                zero=1,
            )
            for tp, cp in random.choice([1, 2, 4], (60, 2))
        ]
        rows = Rows(*np.concatenate([list(vars(rows_of(c)).values()) for c in configurations], 1))
        setting, schedule = setting_of(model, configurations[0]), SCHEDULES["1f1b"]
        columns, _ = build(setting, model, rows)
        where = spread(setting, columns, 2)
        stages = [
            held(contents(columns, *d.holds), schedule, where, d, 1, "ends", False)
            for d in devices(model, schedule, 2, 1, True)
        ]
        seconds = step_time(setting, where, schedule, 1, 1, pipeline(stages)).seconds
        needs = worst_memory(setting, where, 1, stages)
        for index, one in enumerate(configurations):
            alone = estimate(model, H100, JOB, one)
            assert alone.seconds == pytest.approx(seconds[index], rel=1e-12)
            assert alone.peak_memory == pytest.approx(needs[index], rel=1e-12)

    def test_an_estimate_is_the_same_every_time(self) -> None:
        one = Configuration(tp=2, pp=2, dp=4, sequence_parallel=1)
        assert estimate(DENSE, H100, JOB, one) == estimate(DENSE, H100, JOB, one)


def test_a_stage_without_a_layer_is_named_with_its_rule() -> None:
    with pytest.raises(PlannerError, match="layers over stages"):
        estimate(DENSE, H100, JOB, Configuration(pp=32))


KORTHIKANTI = [
    ("megatron-22b", {"tp": 8, "micro_batch": 4}, 4, 1.42, 1.10),
    (
        "gpt3-175b",
        {"tp": 8, "pp": 8, "vpp": 3, "schedule": "interleaved-1f1b"},
        64,
        18.13,
        13.75,
    ),
    (
        "mt-nlg-530b",
        {"tp": 8, "pp": 35, "vpp": 3, "schedule": "interleaved-1f1b"},
        280,
        49.05,
        37.83,
    ),
    ("megatron-1t", {"tp": 8, "pp": 64}, 512, 94.42, 71.49),
]
"""Model, axes, sequences, seconds a step with full and with selective recomputation."""


@pytest.mark.parametrize(("name", "axes", "batch", "full", "selective"), KORTHIKANTI)
class TestKorthikanti:
    """arXiv 2205.05198, table 5: A100 with the Megatron-LM of 2022, sequences of 2,048."""

    def estimate(self, name: str, axes: dict, batch: int, **more):
        software = SOFTWARE["megatron-2022"]
        job = TrainingJob(2048, batch, PRECISIONS["fp16"], software)
        one = Configuration(**axes, **more)
        return estimate(find_model(name), find_cluster("dgx-a100"), job, one)

    def test_iteration_times_within_ten_percent(self, name, axes, batch, full, selective) -> None:
        slow = self.estimate(name, axes, batch, recompute="full")
        fast = self.estimate(name, axes, batch, recompute="selective", sequence_parallel=1)
        assert slow.seconds == pytest.approx(full, rel=0.10)
        assert fast.seconds == pytest.approx(selective, rel=0.10)

    def test_the_gain_of_selective_recomputation(self, name, axes, batch, full, selective) -> None:
        """Table 5: 29 to 32 % more throughput."""
        slow = self.estimate(name, axes, batch, recompute="full")
        fast = self.estimate(name, axes, batch, recompute="selective", sequence_parallel=1)
        assert slow.seconds / fast.seconds == pytest.approx(full / selective, rel=0.05)

    def test_both_fit_in_80_gb_and_no_recomputation_needs_more(
        self, name, axes, batch, full, selective
    ) -> None:
        fits = find_cluster("dgx-a100").accelerator.memory
        fast = self.estimate(name, axes, batch, recompute="selective", sequence_parallel=1)
        none = self.estimate(name, axes, batch, sequence_parallel=1)
        assert fast.peak_memory < fits
        assert none.peak_memory > 1.3 * fast.peak_memory
