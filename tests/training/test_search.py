"""The search: every candidate as if evaluated alone, safe pruning, stable ranks, all objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from planner.costs import kernels, memory, topology
from planner.costs.pipeline import SCHEDULES, VOCABULARY
from planner.costs.tree import Cost
from planner.layers.part import Setting
from planner.search.pareto import Front
from planner.specs.catalog import find_cluster
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    Layer,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.models_catalog import find_model
from planner.specs.parallelism import TRAINING_AXES, Configuration, chunks
from planner.specs.workload import PRECISIONS, SOFTWARE, TrainingJob
from planner.training import fitted
from planner.training import search as searching
from planner.training import space as spaces
from planner.training.columns import LayerColumns, build
from planner.training.estimate import Estimate, estimate, rows_of
from planner.training.memory_floor import MemoryFloor
from planner.training.search import search
from planner.training.stages import devices, distinct_layers, redistribute, split
from planner.training.sweep import KEY

EXACT = 1e-12
OUTSIDE = ("fill", "transfers", "gradients", "weights", "optimizer", "stragglers")
"""Parts of a step besides the slowest device's micro-batches."""
BOUNDLESS = -1e9
"""A memory reserve that makes everything fit."""


@dataclass(frozen=True)
class Case:
    """A search small enough to keep every candidate."""

    model: str
    cluster: str
    devices: int
    job: TrainingJob
    fixed: Mapping[str, tuple[int | str, ...]]

    def estimate(self, configuration: Configuration, job: TrainingJob | None = None) -> Estimate:
        model, cluster = find_model(self.model), find_cluster(self.cluster)
        return estimate(model, cluster, job or self.job, configuration)


EVERYWHERE = TRAINING_AXES["vocabulary"].values

CASES = {
    "DeepSeek-V3 in fp8 on 2,048 H800": Case(
        "deepseek-v3",
        "h800-ib",
        2048,
        TrainingJob(4096, 15360, PRECISIONS["fp8"], imbalance=1.3),
        {
            "tp": (1, 2),
            "cp": (1, 2),
            "pp": (8, 16),
            "ep": (8, 32, 64),
            "etp": (1, 2),
            "micro_batch": (1, 2),
        },
    ),
    "Llama 3.1 70B on 320 H100, vocabulary anywhere": Case(
        "llama-3.1-70b",
        "dgx-h100",
        320,
        TrainingJob(8192, 640),
        {"tp": (2, 4, 8), "vocabulary": EVERYWHERE, "micro_batch": (1, 2)},
    ),
    "Mixtral 8x22B in mxfp8 on two racks of GB200": Case(
        "mixtral-8x22b",
        "gb200-nvl72",
        144,
        TrainingJob(4096, 288, PRECISIONS["mxfp8"], SOFTWARE["megatron-bridge"], imbalance=1.2),
        {"tp": (1, 2, 3, 4), "micro_batch": (1, 2), "etp": (1, 2)},
    ),
    "Qwen3-Next with linear mixers under FSDP": Case(
        "qwen3-next-80b-a3b",
        "hgx-h200",
        96,
        TrainingJob(4096, 192, software=SOFTWARE["fsdp"]),
        {"etp": (1,), "micro_batch": (1, 2)},
    ),
    "GPT-3 175B in fp16 on A100 with the software of 2022": Case(
        "gpt3-175b",
        "dgx-a100",
        192,
        TrainingJob(2048, 384, PRECISIONS["fp16"], SOFTWARE["megatron-2022"]),
        {"cp": (1,)},
    ),
}


@dataclass(frozen=True)
class Evaluated:
    """What the batches computed for every candidate."""

    memory: np.ndarray
    seconds: np.ndarray
    keys: np.ndarray

    def configuration(self, index: int) -> Configuration:
        values = dict(zip(KEY, self.keys[index].tolist(), strict=True))
        devices = values.pop("devices")
        for name in ("recompute", "schedule", "vocabulary", "dispatch", "context_parallel"):
            values[name] = TRAINING_AXES[name].values[values[name]]
        return Configuration(**values, dp=devices // (values["tp"] * values["cp"] * values["pp"]))


def evaluate(case: Case, **options) -> Evaluated:
    """Run a search with a front that keeps everything that the search evaluates."""
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    class Everything(Front):
        def useful(self, x, y):
            return np.arange(len(x))

        def offer(self, x, y, keys):
            kept.append((x, y, keys))

    model, cluster = find_model(case.model), find_cluster(case.cluster)
    chosen = {"memory_reserve": BOUNDLESS, "top": 1, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "Front", Everything)
        found = search(
            model,
            cluster,
            case.job,
            devices=(case.devices,),
            fixed=case.fixed,
            memory_front=True,
            **chosen,
        )
    result = Evaluated(*(np.concatenate(column) for column in zip(*kept, strict=True)))
    assert len(result.seconds) == found.evaluated
    return result


@cache
def everything(name: str) -> Evaluated:
    return evaluate(CASES[name])


def draw(found: Evaluated, count: int, seed: int = 0) -> np.ndarray:
    """Candidates at random, every schedule and vocabulary placement among them."""
    random = np.random.default_rng(seed)
    columns = [KEY.index("schedule"), KEY.index("vocabulary"), KEY.index("dispatch")]
    kinds = np.unique(found.keys[:, columns], axis=0, return_inverse=True)[1].ravel()
    several = [random.choice(np.flatnonzero(kinds == kind)) for kind in range(kinds.max() + 1)]
    rest = random.choice(len(kinds), count - len(several), replace=False)
    return np.concatenate([several, rest])


def assert_adds_up(cost: Cost) -> None:
    """The seconds that children put on the path sum to their parent, all the way down."""
    if cost.children:
        assert math.isclose(sum(cost.exposed), cost.seconds, rel_tol=1e-9, abs_tol=1e-12)
        assert min(cost.exposed) >= -1e-9 * cost.seconds
    for child in cost.children:
        assert_adds_up(child)


class TestACandidateOfABatchIsTheSameAlone:
    """A thousand candidates and more, drawn from five searches."""

    @pytest.mark.parametrize("name", CASES)
    def test_time_and_memory_of_drawn_candidates(self, name) -> None:
        found, case = everything(name), CASES[name]
        for index in draw(found, 220):
            alone = case.estimate(found.configuration(index))
            assert alone.seconds == pytest.approx(found.seconds[index], rel=EXACT)
            assert alone.peak_memory == pytest.approx(found.memory[index], rel=EXACT)
            assert alone.tree.seconds == pytest.approx(alone.seconds, rel=EXACT)
            assert_adds_up(alone.tree)

    def test_the_winner_of_a_search_is_the_least_of_what_it_evaluated(self) -> None:
        for name, case in CASES.items():
            found = everything(name)
            winner = search(
                find_model(case.model),
                find_cluster(case.cluster),
                case.job,
                devices=(case.devices,),
                fixed=case.fixed,
                top=1,
                memory_reserve=BOUNDLESS,
            ).configurations[0]
            assert case.estimate(winner).seconds == pytest.approx(found.seconds.min(), rel=1e-9)

    def test_the_parts_of_a_step_sum_to_its_time(self) -> None:
        for name, case in CASES.items():
            found = everything(name)
            for index in draw(found, 40, seed=2):
                alone = case.estimate(found.configuration(index))
                parts = alone.step
                work = parts["num_microbatches"] * parts["slowest"]
                assert work + sum(parts[name] for name in OUTSIDE) == pytest.approx(
                    alone.seconds, rel=EXACT
                )


def setting_of(case: Case, configuration: Configuration) -> Setting:
    cluster, model = find_cluster(case.cluster), find_model(case.model)
    return Setting(
        kernels.sustained(cluster.accelerator),
        topology.network(cluster, configuration.devices, fitted.LINK_SLOWDOWN),
        case.job,
        model.hidden,
        configuration.dispatch,
        configuration.context_parallel,
    )


def memory_of_every_device(case: Case, one: Configuration) -> list[float]:
    """Peak bytes of each device of the pipeline, one by one, each with its own position."""
    model, software = find_model(case.model), case.job.software
    columns, _ = build(setting_of(case, one), model, rows_of(one))
    schedule, per_device = SCHEDULES[one.schedule], chunks(one.schedule, one.vpp)
    stages = one.pp * per_device
    of_kind = dict(zip(distinct_layers(model.layers), columns.layers, strict=True))
    of_layer = [of_kind[layer] for layer in model.layers]
    mtp = len(model.mtp_layers) if case.job.mtp else 0
    redistributed = one.vocabulary == "redistributed"
    counts = redistribute(model, stages) if redistributed else split(model.num_layers, stages, mtp)
    microbatches = case.job.global_batch / (one.dp * one.micro_batch)
    shards, expert_shards = one.dp * one.cp, one.devices // (one.pp * one.ep * one.etp)

    def state_bytes(ranks: int) -> float:
        weight, gradient = software.weight_bytes, software.gradient_bytes
        return (
            weight / (ranks if one.zero == 3 else 1)
            + gradient / (ranks if one.zero >= 2 else 1)
            + software.optimizer_bytes / (ranks if one.zero >= 1 else 1)
        )

    needs = []
    for d in range(one.pp):
        if schedule.layout == "line":
            held = [d + j * one.pp for j in range(per_device)]
        else:
            held = [d, (2 * one.pp if schedule.layout == "vee" else one.pp) - 1 - d]
        layers: list[LayerColumns] = []
        vocabulary: list[tuple[float, LayerColumns, bool]] = []
        for stage in held:
            start = sum(counts[:stage])
            layers += of_layer[start : start + counts[stage]]
            layers += [columns.mtp] * (mtp if stage == stages - 1 else 0)
            vocabulary += [(1.0, columns.embedding, True)] * (stage == 0)
            vocabulary += [(1.0, columns.head, False)] * (stage == stages - 1)
        if one.vocabulary not in ("ends", "redistributed"):
            share = 1.0 / one.pp
            vocabulary = [(share, columns.embedding, True), (share, columns.head, False)]
        transformer = sum(counts[stage] for stage in held)
        dense = sum(float(layer.parameters[0]) for layer in layers)
        dense += sum(share * float(part.parameters[0]) for share, part, _ in vocabulary)
        if model.tied_embeddings:  # a device with both uses keeps one table
            both = [sum(n for n, _, flows in vocabulary if flows is use) for use in (True, False)]
            dense -= min(both) * model.embedding_parameters / one.tp
        experts = sum(float(layer.expert_parameters[0]) for layer in layers)
        kept = sum(float(layer.kept[0]) for layer in layers)
        kept += sum(share * float(part.kept[0]) for share, part, flows in vocabulary if flows)
        once = sum(share * float(part.kept[0]) for share, part, flows in vocabulary if not flows)
        flight = float(schedule.in_flight(microbatches, one.pp, d, per_device))
        if one.vocabulary != "ends":
            moved = VOCABULARY[one.vocabulary]
            flight = min(microbatches, flight * moved.factor + moved.extra)
        workspace = max([float(layer.workspace[0]) for layer in layers], default=0.0)
        if one.zero == 3:
            gathered = 2.0 * (2.0 + software.gradient_bytes) * (dense + experts)
            workspace += gathered / max(1, transformer)
        states = dense * state_bytes(shards) + experts * state_bytes(expert_shards)
        needs.append(states + flight * kept + once + workspace + memory.FRAMEWORK_BYTES)
    return needs


class TestMemoryIsThatOfTheWorstDeviceOfAll:
    @pytest.mark.parametrize("name", CASES)
    def test_distinct_devices_against_every_stage_one_by_one(self, name) -> None:
        found, case = everything(name), CASES[name]
        for index in draw(found, 40, seed=3):
            one = found.configuration(index)
            every = memory_of_every_device(case, one)
            assert max(every) == pytest.approx(found.memory[index], rel=1e-9)
            for position, need in case.estimate(one).memory_by_stage:
                assert every[position] == pytest.approx(need, rel=1e-9)


class TestPruningByMemoryIsSafe:
    """A candidate is left out before timing only when a lower bound of its memory does not fit."""

    @staticmethod
    def least(model: ModelSpec, case: Case, one: Configuration) -> float:
        cluster = find_cluster(case.cluster)
        net = topology.network(cluster, one.devices, fitted.LINK_SLOWDOWN)
        device = kernels.sustained(cluster.accelerator)
        kinds = (one.dispatch, one.context_parallel)
        setting = Setting(device, net, case.job, model.hidden, *kinds)
        rows = rows_of(one)
        columns, _ = build(setting, model, rows)
        floor = MemoryFloor.of(setting, model, columns)
        return float(floor.least(rows, np.array([one.dp]), one.pp, one.devices)[0])

    @pytest.mark.parametrize("name", CASES)
    def test_the_bound_never_exceeds_the_memory_of_a_drawn_candidate(self, name) -> None:
        found, case = everything(name), CASES[name]
        model = find_model(case.model)
        # The leanest candidates, where a wrong bound would show, and others at random.
        leanest = np.argsort(found.memory)[:100]
        for index in [*leanest, *draw(found, 150, seed=4)]:
            one = found.configuration(index)
            assert self.least(model, case, one) <= found.memory[index]

    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
    @given(st.data())
    def test_the_bound_never_exceeds_the_memory_of_any_shape_of_model(self, data) -> None:
        one_of = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
        attention = GroupedQueryAttention(16, 4, 64)
        narrow = replace(attention, heads=8, kv_heads=1, window=256)
        dense = Layer(one_of(attention, narrow), DenseFeedForward(one_of(64, 8192)))
        experts = Layer(attention, MixtureOfExperts(8, 2, one_of(64, 2048)))
        layers = data.draw(st.lists(st.sampled_from([dense, experts]), min_size=1, max_size=18))
        mtp = (experts,) * one_of(0, 1)
        model = ModelSpec("any", 1024, one_of(100, 50_000), tuple(layers), mtp)
        name = one_of(*SCHEDULES)
        pp = one_of(2, 4, 8, 16) if name != "1f1b" else one_of(1, 2, 3, 8)
        vpp = one_of(2, 3) if name == "interleaved-1f1b" else 1
        dp = one_of(1, 2, 8)
        tp = one_of(1, 2)
        movable = pp > 1 and name in ("1f1b", "v-half")
        one = Configuration(
            tp=tp,
            pp=pp,
            vpp=vpp,
            dp=dp,
            ep=one_of(1, dp),
            zero=one_of(0, 1, 3) if dp > 1 else 0,
            sequence_parallel=int(tp > 1),
            recompute=one_of("none", "selective", "full"),
            schedule=name,
            vocabulary=one_of(*EVERYWHERE) if movable else "ends",
        )
        whole = name in ("interleaved-1f1b", "dualpipe")
        microbatches = one_of(2, 4) * pp if whole else one_of(1, 40)
        software = SOFTWARE[one_of("megatron", "fsdp", "megatron-2022")]
        job = TrainingJob(512, microbatches * dp, software=software)
        case = Case("any", "dgx-h100", one.devices, job, {})
        assume(devices(model, SCHEDULES[name], pp, vpp, job.mtp, one.vocabulary))
        alone = estimate(model, H100, job, one)
        assert self.least(model, case, one) <= alone.peak_memory

    def test_a_limit_removes_exactly_the_candidates_above_it(self) -> None:
        for name, case in CASES.items():
            found = everything(name)
            limit = float(np.median(found.memory))
            total = find_cluster(case.cluster).accelerator.memory
            kept = evaluate(case, memory_reserve=1.0 - limit / total)
            below = int(np.count_nonzero(found.memory <= total * (1.0 - (1.0 - limit / total))))
            assert len(kept.seconds) == below
            assert kept.seconds.min() == found.seconds[found.memory <= limit].min()


ATTENTION = GroupedQueryAttention(16, 8, 128)
SMALL = ModelSpec("small", 2048, 32_000, (Layer(ATTENTION, DenseFeedForward(5632)),) * 12)
SMALL_JOB = TrainingJob(2048, 32)
H100 = find_cluster("dgx-h100")


def small(model: ModelSpec = SMALL, devices=(16,), job: TrainingJob = SMALL_JOB, **options):
    chosen = {"fixed": {}, "top": 20, **options}
    return search(model, H100, job, devices=devices, **chosen)


def estimates(found) -> list[Estimate]:
    return [estimate(SMALL, H100, SMALL_JOB, one) for one in found.configurations]


class TestRanking:
    @pytest.mark.parametrize("objective", ["throughput", "memory", "price"])
    def test_it_does_not_depend_on_the_size_of_a_block(self, objective, monkeypatch) -> None:
        answers = []
        for size in (7, 64, 32768):
            monkeypatch.setattr(spaces, "BLOCK", size)
            found = small(objective=objective, top=50, memory_front=True)
            statistics = (found.candidates, found.evaluated, found.pruned_by_memory)
            answers.append((found.configurations, found.front, statistics))
        assert answers[0] == answers[1] == answers[2]

    def test_it_does_not_depend_on_how_many_are_asked_for(self) -> None:
        longest = small(top=200).configurations
        assert len(set(longest)) == 200
        for top in (1, 2, 37):
            assert small(top=top).configurations == longest[:top]

    def test_equal_candidates_stand_in_the_order_of_the_axes(self) -> None:
        found = estimates(small(top=300, objective="memory"))
        order = TRAINING_AXES["recompute"].values.index
        numbers = KEY[1 : KEY.index("recompute")]

        def key(one: Configuration) -> tuple[int, ...]:
            return (*(one.as_dict()[name] for name in numbers), order(one.recompute))

        ties = 0
        for one, other in pairwise(found):
            if abs(other.peak_memory / one.peak_memory - 1.0) < 1e-11:
                ties += 1
                assert key(one.configuration) <= key(other.configuration)
        assert ties

    def test_the_same_search_gives_the_same_answer(self) -> None:
        assert small().configurations == small().configurations

    def test_top_larger_than_what_exists_gives_all(self) -> None:
        found = small(fixed={"tp": (8,), "pp": (1,), "cp": (1,)}, top=10**6)
        assert len(found.configurations) == found.evaluated


class TestObjectives:
    def test_throughput_ranks_by_time(self) -> None:
        seconds = [one.seconds for one in estimates(small())]
        assert seconds == pytest.approx(sorted(seconds), rel=1e-9)

    def test_memory_ranks_by_peak_memory(self) -> None:
        peaks = [one.peak_memory for one in estimates(small(objective="memory"))]
        assert peaks == pytest.approx(sorted(peaks), rel=1e-9)
        fastest = estimates(small(top=1))[0]
        assert peaks[0] < fastest.peak_memory

    def test_price_ranks_by_device_seconds_over_numbers_of_devices(self) -> None:
        found = estimates(small(devices=(1, 2, 4, 8, 16, 32), objective="price"))
        cost = [one.seconds * one.configuration.devices for one in found]
        assert cost == pytest.approx(sorted(cost), rel=1e-9)
        assert found[0].configuration.devices < 32

    def test_throughput_over_numbers_of_devices_takes_the_most(self) -> None:
        assert small(devices=(8, 16, 32)).configurations[0].devices == 32

    def test_devices_takes_the_fewest_that_meet_the_limit(self) -> None:
        numbers = (1, 2, 4, 8, 16, 32)
        fastest = {n: estimates(small(devices=(n,), top=1))[0].seconds for n in numbers}
        limit = (fastest[4] + fastest[8]) / 2.0
        found = small(devices=numbers, objective="devices", max_step_time=limit, top=5)
        assert {one.devices for one in found.configurations} == {8}
        seconds = [one.seconds for one in estimates(found)]
        assert seconds == pytest.approx(sorted(seconds), rel=1e-9)
        assert max(seconds) <= limit

    def test_devices_goes_on_to_more_devices_until_there_are_enough(self) -> None:
        numbers = (8, 16)
        few = small(devices=(8,), fixed={"tp": (8,)}, top=10**6).configurations
        found = small(
            devices=numbers, fixed={"tp": (8,)}, objective="devices", top=len(few) + 3
        ).configurations
        assert found[: len(few)] == few
        assert {one.devices for one in found[len(few) :]} == {16}


class TestLimits:
    def test_a_longest_step_removes_what_is_slower(self) -> None:
        fastest = estimates(small(top=1))[0].seconds
        limit = 1.5 * fastest
        found = small(top=10**6, max_step_time=limit)
        assert all(one.seconds <= limit for one in estimates(found)[:200])
        assert found.removed["max-step-time"] > 0
        assert len(found.configurations) == found.evaluated - found.removed["max-step-time"]
        assert found.configurations[0] == small(top=1).configurations[0]

    def test_a_memory_reserve_leaves_that_share_free(self) -> None:
        for reserve in (0.0, 0.5, 0.9):
            limit = (1.0 - reserve) * H100.accelerator.memory
            found = estimates(small(memory_reserve=reserve, top=100))
            assert found
            assert max(one.peak_memory for one in found) <= limit

    def test_a_larger_reserve_only_removes_candidates(self) -> None:
        counts = [small(memory_reserve=r).evaluated for r in (0.0, 0.3, 0.6, 0.9)]
        assert counts == sorted(counts, reverse=True)
        assert len({small(memory_reserve=r).candidates for r in (0.0, 0.9)}) == 1

    def test_statistics_add_up(self) -> None:
        found = small(memory_reserve=0.9)
        assert found.candidates == found.evaluated + found.pruned_by_memory + found.pruned_by_bound
        assert found.removed["memory"] == found.pruned_by_memory > 0
        assert found.seconds > 0.0

    def test_progress_only_rises(self) -> None:
        seen: list[tuple[int, int]] = []
        small(devices=(8, 16), progress=lambda done, whole: seen.append((done, whole)))
        assert seen == sorted(seen)
        assert all(0 <= done <= whole for done, whole in seen)


class TestNothingFits:
    LARGE = ModelSpec(
        "large",
        8192,
        128_000,
        (Layer(GroupedQueryAttention(64, 8, 128), DenseFeedForward(28672)),) * 80,
    )

    def test_the_nearest_miss_is_the_candidate_that_needs_least(self) -> None:
        found = small(self.LARGE, (8,))
        assert found.configurations == ()
        assert found.evaluated == 0
        assert found.removed["memory"] == found.candidates > 0
        assert found.nearest_miss is not None
        need = estimate(self.LARGE, H100, SMALL_JOB, found.nearest_miss).peak_memory
        assert need > 0.9 * H100.accelerator.memory
        every = small(self.LARGE, (8,), objective="memory", memory_reserve=BOUNDLESS)
        assert every.configurations[0] == found.nearest_miss

    def test_the_nearest_miss_obeys_what_is_fixed(self) -> None:
        found = small(self.LARGE, (8,), fixed={"tp": (2,), "recompute": ("none",)})
        assert found.nearest_miss is not None
        assert (found.nearest_miss.tp, found.nearest_miss.recompute) == (2, "none")

    def test_a_limit_on_time_alone_says_so(self) -> None:
        found = small(max_step_time=1e-6)
        assert found.configurations == ()
        assert found.removed["max-step-time"] == found.evaluated > 0

    def test_rules_without_a_candidate_have_no_nearest_miss(self) -> None:
        found = small(fixed={"tp": (5,)})
        assert (found.candidates, found.nearest_miss) == (0, None)

    def test_where_something_fits_there_is_no_nearest_miss(self) -> None:
        assert small().nearest_miss is None


class TestTheFrontOfTimeAgainstMemory:
    def test_it_is_that_of_comparing_every_candidate(self) -> None:
        name = "DeepSeek-V3 in fp8 on 2,048 H800"
        case, every = CASES[name], everything(name)
        order = np.lexsort((every.memory, every.seconds))
        memory_by_time = every.memory[order]
        before = np.minimum.accumulate(np.concatenate([[np.inf], memory_by_time[:-1]]))
        expected = every.seconds[order][memory_by_time < before * (1.0 - 1e-9)]
        found = search(
            find_model(case.model),
            find_cluster(case.cluster),
            case.job,
            devices=(case.devices,),
            fixed=case.fixed,
            memory_reserve=BOUNDLESS,
            memory_front=True,
        )
        seconds = [case.estimate(one).seconds for one in found.front]
        assert seconds == pytest.approx(expected.tolist(), rel=1e-8)
