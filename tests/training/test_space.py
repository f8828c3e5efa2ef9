"""The space of configurations: all that the rules allow and that change something, nothing else.

Axes without effect, which add no candidates: a dispatch other than all-to-all without expert
parallelism, deduplicated dispatch inside one scale-up domain, and Ulysses without context
parallelism.  The rules themselves forbid sequence parallelism without tp and ZeRO without a second
rank.  Vocabulary layers leave the ends only when asked for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest

from planner.costs import topology
from planner.costs.pipeline import SCHEDULES
from planner.errors import PlannerError
from planner.search.pareto import Front
from planner.search.space import divisors
from planner.specs.catalog import find_cluster
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    Layer,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.models_catalog import find_model
from planner.specs.parallelism import TRAINING_AXES, Configuration, check, training_rules
from planner.specs.workload import TrainingJob
from planner.training import search as searching
from planner.training.search import Found, search
from planner.training.space import training_space
from planner.training.stages import devices as stage_devices
from planner.training.sweep import KEY

CLUSTER = find_cluster("dgx-h100")
JOB = TrainingJob(512, 16)
ATTENTION = GroupedQueryAttention(12, 4, 64)
DENSE = ModelSpec("dense", 768, 1024, (Layer(ATTENTION, DenseFeedForward(2048)),) * 8)
EXPERTS = MixtureOfExperts(8, 2, 512, shared_width=512)
MOE = ModelSpec(
    "moe",
    768,
    1024,
    (Layer(ATTENTION, DenseFeedForward(2048)), *(Layer(ATTENTION, EXPERTS),) * 7),
    mtp_layers=(Layer(ATTENTION, EXPERTS),),
)
BOUNDLESS = -1e9
"""A memory reserve that makes everything fit."""

NUMBERS = tuple(name for name, axis in TRAINING_AXES.items() if not axis.values)
NAMES = tuple(name for name, axis in TRAINING_AXES.items() if axis.values)


@dataclass(frozen=True)
class Enumerated:
    """What a search found and every candidate that it evaluated."""

    found: Found
    configurations: list[Configuration]


@pytest.fixture
def enumerate_all(monkeypatch):
    """Search with boundless memory and keep every evaluated candidate."""
    kept: list[np.ndarray] = []

    class Everything(Front):
        def useful(self, x, y):
            return np.arange(len(x))

        def offer(self, x, y, keys):
            kept.append(keys)

    monkeypatch.setattr(searching, "Front", Everything)

    def run(model, devices, job=JOB, fixed=None, cluster=CLUSTER) -> Enumerated:
        kept.clear()
        options = {"fixed": fixed or {}, "memory_reserve": BOUNDLESS, "memory_front": True}
        found = search(model, cluster, job, devices=(devices,), top=1, **options)
        keys = np.concatenate([np.empty((0, len(KEY)), dtype=np.int64), *kept])
        return Enumerated(found, [_configuration(key) for key in keys.tolist()])

    return run


def _configuration(key: list[int]) -> Configuration:
    values = dict(zip(KEY, key, strict=True))
    devices = values.pop("devices")
    named = {
        name: TRAINING_AXES[name].values[values[name]]
        for name in NAMES
        if name != "sequence_parallel"
    }
    dp = devices // (values["tp"] * values["cp"] * values["pp"])
    return Configuration(**{**values, **named, "dp": dp})


def brute_force(model, devices, job=JOB, fixed=None, domain=8) -> set[Configuration]:
    """Filter every combination of axis values by the rules, one array a combination of names."""
    rules, fixed = training_rules(model, job, devices), fixed or {}
    layers = range(1, model.num_layers + 3)
    ways = divisors(devices)
    natural = {"tp": ways, "cp": ways, "pp": ways, "vpp": layers, "dp": ways, "ep": ways}
    natural |= {"etp": ways, "micro_batch": range(1, job.global_batch + 1), "zero": range(4)}
    axes = {name: list(fixed.get(name, values)) for name, values in natural.items()}
    meshes = [
        mesh
        for mesh in product(*(axes[name] for name in ("tp", "cp", "pp", "dp")))
        if np.prod(mesh) == devices
    ]
    rest = ("vpp", "ep", "etp", "micro_batch", "zero")
    others = list(product(*(axes[name] for name in rest)))
    rows = np.array([(*mesh, *other) for mesh in meshes for other in others])
    columns = dict(zip(("tp", "cp", "pp", "dp", *rest), rows.T, strict=True))
    splits = fixed.get("sequence_parallel", (0, 1))
    free = {name: TRAINING_AXES[name].values for name in NAMES} | {"vocabulary": ("ends",)}
    named = {name: fixed.get(name, free[name]) for name in NAMES if name != "sequence_parallel"}
    found: set[Configuration] = set()
    for split in splits:
        for names in product(*named.values()):
            same = {"sequence_parallel": np.full(len(rows), split)}
            values = {**columns, **same, **dict(zip(named, names, strict=True))}
            legal = np.ones(len(rows), dtype=bool)
            for rule in rules:
                legal &= np.broadcast_to(rule.allows(values), len(rows))
            for row in rows[legal].tolist():
                one = Configuration(
                    **dict(zip(columns, row, strict=True)),
                    **dict(zip(named, names, strict=True)),
                    sequence_parallel=split,
                )
                if has_effect(one, fixed, domain) and has_layers(model, job, one):
                    found.add(one)
    return found


def has_effect(one: Configuration, fixed, domain: int) -> bool:
    """Whether the choices differ from the ones that stand for them (see the module)."""
    dispatches = fixed.get("dispatch", TRAINING_AXES["dispatch"].values)
    kinds = fixed.get("context_parallel", TRAINING_AXES["context_parallel"].values)
    if one.dispatch == "all-gather" and "all-to-all" in dispatches and one.ep == 1:
        return False
    if one.dispatch == "deduplicated" and one.ep * one.etp <= domain:
        return False
    return not (one.context_parallel == "ulysses" and "ring" in kinds and one.cp == 1)


def has_layers(model, job, one: Configuration) -> bool:
    """Whether every stage between the ends has a layer."""
    schedule = SCHEDULES[one.schedule]
    return bool(stage_devices(model, schedule, one.pp, one.vpp, job.mtp, one.vocabulary))


def assert_same(found: Enumerated, expected: set[Configuration]) -> None:
    counts = Counter(found.configurations)
    assert set(counts) == expected
    assert set(counts.values()) == {1}
    assert found.found.candidates == found.found.evaluated == len(expected)
    assert sum(found.found.removed.values()) == found.found.pruned_by_memory == 0


class TestTheSearchEnumeratesExactlyWhatTheRulesAllow:
    def test_dense(self, enumerate_all) -> None:
        expected = brute_force(DENSE, 8)
        assert len(expected) > 5_000
        assert_same(enumerate_all(DENSE, 8), expected)

    def test_mixture_of_experts_with_multi_token_prediction(self, enumerate_all) -> None:
        fixed = {"recompute": ("none", "full"), "micro_batch": (1, 2, 3, 8), "cp": (1, 2, 4)}
        expected = brute_force(MOE, 8, fixed=fixed)
        assert len(expected) > 10_000
        assert_same(enumerate_all(MOE, 8, fixed=fixed), expected)

    def test_two_nodes_where_deduplicated_dispatch_has_an_effect(self, enumerate_all) -> None:
        fixed = {
            "cp": (1,),
            "micro_batch": (1,),
            "recompute": ("selective",),
            "schedule": ("1f1b", "dualpipe"),
        }
        expected = brute_force(MOE, 16, fixed=fixed)
        assert {one.dispatch for one in expected} == set(TRAINING_AXES["dispatch"].values)
        assert_same(enumerate_all(MOE, 16, fixed=fixed), expected)

    def test_numbers_of_devices_and_heads_that_are_no_powers_of_two(self, enumerate_all) -> None:
        job = TrainingJob(480, 12)
        fixed = {"recompute": ("none",), "schedule": ("1f1b", "interleaved-1f1b", "zb-v")}
        expected = brute_force(DENSE, 12, job, fixed)
        assert {one.tp for one in expected} == {1, 2, 3, 4, 6, 12}
        assert_same(enumerate_all(DENSE, 12, job, fixed), expected)

    def test_vocabulary_off_the_ends_when_asked_for(self, enumerate_all) -> None:
        fixed = {"vocabulary": TRAINING_AXES["vocabulary"].values, "micro_batch": (1, 2)}
        fixed |= {"recompute": ("none",), "cp": (1,), "pp": (1, 2, 4)}
        expected = brute_force(DENSE, 8, fixed=fixed)
        assert {one.vocabulary for one in expected} == set(fixed["vocabulary"])
        assert_same(enumerate_all(DENSE, 8, fixed=fixed), expected)


class TestTheCheckOfOneConfigurationAgrees:
    @pytest.mark.parametrize("model", [DENSE, MOE], ids=lambda model: model.name)
    def test_on_random_legal_and_illegal_configurations(self, model) -> None:
        random, rules = np.random.default_rng(1), training_rules(model, JOB, 8)
        legal = brute_force(model, 8, fixed={"recompute": ("none",)})
        for one in random.choice(sorted(legal, key=repr), 300):
            check(one, rules)
        refused = 0
        for one in random.choice(sorted(legal, key=repr), 600):
            axis = str(random.choice(NUMBERS))
            changed = replace(one, **{axis: int(random.integers(1, 5))})
            try:
                check(changed, rules)
            except PlannerError:
                refused += 1
                assert changed not in legal
            else:
                effective = has_effect(changed, {}, 8) and has_layers(model, JOB, changed)
                assert (changed in legal) == effective
        assert refused > 50


class TestWhatTheUserFixesFilters:
    @pytest.mark.parametrize(
        "fixed",
        [
            {"tp": (2,)},
            {"pp": (2, 4)},
            {"dp": (4,)},
            {"zero": (1, 3)},
            {"sequence_parallel": (0,)},
            {"recompute": ("full",)},
            {"schedule": ("interleaved-1f1b",), "vpp": (2,)},
            {"context_parallel": ("ring",)},
            {"micro_batch": (4,), "cp": (2,)},
        ],
        ids=str,
    )
    def test_the_candidates_are_those_with_the_values(self, enumerate_all, fixed) -> None:
        job = TrainingJob(512, 8)
        everything = enumerate_all(DENSE, 8, job).configurations
        kept = {
            one
            for one in everything
            if all(one.as_dict()[axis] in values for axis, values in fixed.items())
        }
        assert kept
        assert_same(enumerate_all(DENSE, 8, job, fixed), kept)

    def test_a_value_that_stands_for_nothing_else_is_kept_when_it_is_all_there_is(
        self, enumerate_all
    ) -> None:
        found = enumerate_all(DENSE, 8, fixed={"context_parallel": ("ulysses",), "cp": (1,)})
        assert found.configurations
        found = enumerate_all(DENSE, 8, fixed={"dispatch": ("all-gather",)})
        assert found.configurations

    def test_an_illegal_value_leaves_nothing(self, enumerate_all) -> None:
        assert enumerate_all(DENSE, 8, fixed={"tp": (5,)}).found.candidates == 0


class TestDegrees:
    def test_tp_3_is_legal_with_48_devices_and_12_heads(self, enumerate_all) -> None:
        found = enumerate_all(DENSE, 48, TrainingJob(480, 48), {"pp": (4,), "cp": (1,)})
        assert {one.tp for one in found.configurations} == {1, 2, 3, 4, 6, 12}

    def test_tp_may_exceed_the_key_value_heads(self, enumerate_all) -> None:
        found = enumerate_all(DENSE, 12, TrainingJob(480, 12), {"tp": (12,)})
        assert found.configurations

    def test_deepseek_v3_runs_61_layers_on_16_stages(self) -> None:
        found = search(
            find_model("deepseek-v3"),
            find_cluster("h800-ib"),
            TrainingJob(4096, 15360),
            devices=(2048,),
            fixed={"tp": (1,), "pp": (16,), "ep": (64,), "etp": (1,), "micro_batch": (1,)},
            top=1,
        )
        assert found.configurations[0].pp == 16

    def test_every_axis_has_values_and_names_keep_their_order(self) -> None:
        net = topology.network(CLUSTER, 16)
        space = training_space(MOE, JOB, net, {"schedule": ("dualpipe", "1f1b")})
        assert set(space.numbers) | set(space.names) == set(TRAINING_AXES)
        assert space.names["schedule"] == ("1f1b", "dualpipe")
        assert space.scale_up == 8

    def test_free_pp_reaches_two_stages_more_than_layers(self, enumerate_all) -> None:
        """The first and the last stage may hold the vocabulary alone, as 126 layers on 128 do."""
        six = replace(DENSE, layers=DENSE.layers[:6])
        found = enumerate_all(six, 8, fixed={"recompute": ("none",)})
        assert 8 in {one.pp for one in found.configurations}


class TestAxesWithoutEffectAddNone:
    @pytest.fixture
    def axis(self, enumerate_all):
        def values(name, model=MOE, devices=8, **fixed) -> set[int | str]:
            job = TrainingJob(512, 16)
            found = enumerate_all(model, devices, job, {k: (v,) for k, v in fixed.items()})
            assert found.configurations
            return {one.as_dict()[name] for one in found.configurations}

        return values

    def test_dispatch_without_expert_parallelism(self, axis) -> None:
        assert axis("dispatch", ep=1) == {"all-to-all"}
        assert axis("dispatch", DENSE) == {"all-to-all"}
        assert axis("dispatch", ep=2, tp=1) == {"all-to-all", "all-gather"}

    def test_deduplication_inside_a_node(self, axis) -> None:
        assert "deduplicated" not in axis("dispatch", devices=16, ep=8, etp=1, micro_batch=1)
        assert "deduplicated" in axis("dispatch", devices=16, ep=8, etp=2, micro_batch=1)

    def test_sequence_parallelism_without_tp(self, axis) -> None:
        assert axis("sequence_parallel", DENSE, tp=1) == {0}
        assert axis("sequence_parallel", DENSE, tp=2) == {0, 1}

    def test_experts_under_tp_need_sequence_parallelism(self, axis) -> None:
        assert axis("sequence_parallel", tp=2) == {1}

    def test_zero_without_a_second_rank(self, axis) -> None:
        assert axis("zero", DENSE, tp=4, pp=2) == {0}
        assert axis("zero", DENSE, tp=4, pp=1, cp=2) == {0, 1, 2, 3}
        assert axis("zero", tp=4, pp=2, ep=4, etp=1) == {0}
        assert axis("zero", tp=4, pp=2, ep=2, etp=1) == {0, 1, 3}

    def test_the_kind_of_context_parallelism_without_any(self, axis) -> None:
        assert axis("context_parallel", DENSE, cp=1) == {"ring"}
        assert axis("context_parallel", DENSE, cp=2) == {"ring", "ulysses"}

    def test_a_single_device_has_one_shape(self, enumerate_all) -> None:
        found = enumerate_all(MOE, 1, TrainingJob(512, 1)).configurations
        assert {one.recompute for one in found} == {"none", "selective", "full"}
        assert len(found) == 3
