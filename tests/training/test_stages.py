"""Layers over stages and stages over devices: the rule, the sums, and every device represented."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.pipeline import SCHEDULES
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    Layer,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.models_catalog import find_model
from planner.specs.parallelism import TRAINING_AXES, chunks
from planner.training.stages import Device, devices, distinct_layers, redistribute, split

ATTENTION = GroupedQueryAttention(8, 8, 64)
WINDOWED = replace(ATTENTION, window=128)
DENSE, EXPERTS = DenseFeedForward(2048), MixtureOfExperts(8, 2, 512)
UNIFORM = ModelSpec("uniform", 512, 4096, (Layer(ATTENTION, DENSE),) * 13)
MIXED = ModelSpec(
    "mixed",
    512,
    4096,
    (
        *(Layer(ATTENTION, DENSE),) * 3,
        *(Layer(ATTENTION, EXPERTS), Layer(WINDOWED, EXPERTS)) * 9,
    ),
    mtp_layers=(Layer(ATTENTION, EXPERTS),),
)
SHARED = ("vocab-1", "vocab-2", "interlaced")


class TestTheSplitRule:
    def test_61_layers_on_16_stages_have_fewest_at_the_ends(self) -> None:
        assert split(61, 16) == [3, *[4] * 13, 3, 3]

    def test_with_multi_token_prediction_the_last_stage_gives_its_place(self) -> None:
        assert split(61, 16, 1) == [3, *[4] * 14, 2]

    def test_126_layers_on_128_stages_leave_the_ends_to_the_vocabulary(self) -> None:
        assert split(126, 128) == [0, *[1] * 126, 0]

    def test_one_and_two_stages(self) -> None:
        assert split(7, 1) == [7]
        assert split(7, 1, 2) == [7]
        assert split(7, 2) == [4, 3]

    def test_the_first_stage_gets_one_before_the_last(self) -> None:
        assert split(9, 5) == [2, 2, 2, 2, 1]

    @given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 3))
    def test_counts_sum_to_the_layers_and_differ_by_at_most_one(self, layers, stages, mtp) -> None:
        counts = split(layers, stages, mtp)
        assert len(counts) == stages
        assert sum(counts) == layers
        work = [*counts[:-1], counts[-1] + mtp]
        assert max(work) - min(work) <= 1

    @given(st.integers(1, 200), st.integers(3, 200), st.integers(0, 3))
    def test_no_stage_between_has_fewer_than_the_ends_unless_none_is_left_over(
        self, layers, stages, mtp
    ) -> None:
        counts = split(layers, stages, mtp)
        ends = counts[0], counts[-1] + mtp
        extra = (layers + mtp) % stages
        if extra < stages - 2:
            assert min(counts[1:-1]) >= max(ends)
        else:
            assert set(counts[1:-1]) == {max(counts[1:-1])}
        assert ends[0] >= ends[1]

    def test_mtp_counts_as_a_layer_of_the_last_stage(self) -> None:
        assert split(11, 4, 1) == [3, 3, 3, 2]


class TestRedistribution:
    @given(st.integers(2, 24))
    def test_layers_stay_complete(self, stages) -> None:
        assert sum(redistribute(UNIFORM, stages)) == UNIFORM.num_layers

    @given(st.integers(2, 16), st.lists(st.integers(1, 2_000_000), min_size=2, max_size=6))
    def test_a_larger_vocabulary_never_gives_the_last_stage_more_layers(
        self, stages, sizes
    ) -> None:
        model = replace(UNIFORM, layers=UNIFORM.layers * 3)
        last = [redistribute(replace(model, vocab=v), stages)[-1] for v in sorted(sizes)]
        assert last == sorted(last, reverse=True)

    def test_a_vanishing_vocabulary_leaves_the_even_split(self) -> None:
        model = replace(UNIFORM, layers=UNIFORM.layers[:1] * 12, vocab=1)
        assert redistribute(model, 4) == [3, 3, 3, 3]

    def test_a_vast_vocabulary_takes_the_last_stage_alone(self) -> None:
        assert redistribute(replace(UNIFORM, vocab=10**8), 4)[-1] == 0

    def test_the_longest_stage_is_the_least_over_all_choices(self) -> None:
        model = replace(UNIFORM, layers=UNIFORM.layers[:1] * 32, vocab=60_000)
        head = model.embedding_parameters / model.layers[0].active_parameters(model.hidden)
        counts = redistribute(model, 8)

        def longest(counts: list[int]) -> float:
            return max(*counts[:-1], counts[-1] + head)

        assert longest(counts) == min(longest([*split(32 - n, 7), n]) for n in range(5))

    def test_no_stage_between_the_ends_is_left_empty(self) -> None:
        model = replace(UNIFORM, layers=UNIFORM.layers[:1] * 6)
        found = devices(model, SCHEDULES["1f1b"], 8, 1, False, "redistributed")
        assert all(sum(device.layers) + device.embeddings + device.heads for device in found)


def brute_force(model, name, p, vpp, mtp, vocabulary) -> list[tuple] | None:
    """What each of the ``p`` devices holds, walking stage by stage; None when a stage is empty."""
    layout, stages = SCHEDULES[name].layout, p * chunks(name, vpp)
    predicted = len(model.mtp_layers) if mtp else 0
    if vocabulary == "redistributed":
        counts = redistribute(model, stages)
    else:
        counts = split(model.num_layers, stages, predicted)
    inner = counts if vocabulary in SHARED else counts[1:-1]
    if any(count < 1 for count in inner) or any(count < 0 for count in counts):
        return None
    owner = {
        "line": lambda stage: [stage % p],
        "vee": lambda stage: [min(stage, 2 * p - 1 - stage)],
        "mirror": lambda stage: [stage, p - 1 - stage],
    }[layout]
    held = [{"layers": Counter(), "embedding": 0.0, "head": 0.0, "mtp": 0} for _ in range(p)]
    upcoming = iter(model.layers)
    for stage, count in enumerate(counts):
        own = [next(upcoming) for _ in range(count)]
        for device in owner(stage):
            held[device]["layers"].update(own)
            held[device]["embedding"] += stage == 0
            held[device]["head"] += stage == stages - 1
            held[device]["mtp"] += predicted * (stage == stages - 1)
    if vocabulary in SHARED:
        for device in held:
            device["embedding"] = device["head"] = 1.0 / p
    kinds = distinct_layers(model.layers)
    return [
        (tuple(d["layers"][k] for k in kinds), d["embedding"], d["head"], d["mtp"]) for d in held
    ]


def shapes():
    for name, p, vpp, mtp, vocabulary in product(
        SCHEDULES,
        (1, 2, 3, 4, 5, 6, 7, 8),
        (1, 2, 3),
        (False, True),
        TRAINING_AXES["vocabulary"].values,
    ):
        if (vpp > 1) != (name == "interleaved-1f1b") or (p == 1 and name != "1f1b"):
            continue
        if name == "dualpipe" and p % 2:
            continue
        if vocabulary != "ends" and (p == 1 or name not in ("1f1b", "v-half")):
            continue
        yield name, p, vpp, mtp, vocabulary


def grouped(model, name, p, vpp, mtp, vocabulary) -> tuple[Device, ...]:
    return devices(model, SCHEDULES[name], p, vpp, mtp, vocabulary)


@pytest.mark.parametrize("model", [UNIFORM, MIXED], ids=lambda model: model.name)
class TestDevicesOfAPipeline:
    def test_every_device_of_the_whole_layout_is_represented(self, model) -> None:
        compared = 0
        for shape in shapes():
            every, found = brute_force(model, *shape), grouped(model, *shape)
            if every is None:
                assert not found
                continue
            compared += 1
            counts = Counter(every)
            assert {device.holds: device.count for device in found} == counts, shape
            for device in found:
                assert device.position == every.index(device.holds), shape
        assert compared > 60

    def test_counts_sum_to_the_devices_and_layers_to_the_model(self, model) -> None:
        for shape in shapes():
            name, p, _, mtp, _ = shape
            found = grouped(model, *shape)
            if not found:
                continue
            copies = 2 if name == "dualpipe" else 1
            predicted = len(model.mtp_layers) if mtp else 0
            assert sum(device.count for device in found) == p
            layers = sum(device.count * sum(device.layers) for device in found)
            assert layers == copies * model.num_layers
            assert sum(device.count * device.mtp for device in found) == copies * predicted
            for vocabulary in ("embeddings", "heads"):
                total = sum(device.count * getattr(device, vocabulary) for device in found)
                assert total == pytest.approx(copies)
            assert {device.share for device in found} == {1.0 / copies}

    def test_shared_vocabulary_lies_evenly_on_all_devices(self, model) -> None:
        for vocabulary, p in product(SHARED, (2, 4, 5)):
            found = grouped(model, "1f1b", p, 1, False, vocabulary)
            assert {device.embeddings for device in found} == {1.0 / p}
            assert {device.heads for device in found} == {1.0 / p}


class TestLayouts:
    def test_a_line_holds_the_vocabulary_on_its_two_ends(self) -> None:
        found = devices(UNIFORM, SCHEDULES["1f1b"], 4, 1, False)
        assert [(d.position, d.count, d.layers, d.embeddings, d.heads) for d in found] == [
            (0, 1, (3,), 1.0, 0.0),
            (1, 1, (4,), 0.0, 0.0),
            (2, 1, (3,), 0.0, 0.0),
            (3, 1, (3,), 0.0, 1.0),
        ]

    def test_a_vee_brings_both_ends_to_the_first_device(self) -> None:
        first, *others = devices(UNIFORM, SCHEDULES["zb-v"], 4, 1, False)
        assert (first.embeddings, first.heads) == (1.0, 1.0)
        assert all((d.embeddings, d.heads) == (0.0, 0.0) for d in others)

    def test_a_mirror_brings_both_ends_to_the_two_outer_devices(self) -> None:
        first, *others = devices(UNIFORM, SCHEDULES["dualpipe"], 4, 1, False)
        assert (first.embeddings, first.heads, first.count) == (1.0, 1.0, 2)
        assert all((d.embeddings, d.heads) == (0.0, 0.0) for d in others)

    def test_a_single_device_holds_everything(self) -> None:
        (only,) = devices(MIXED, SCHEDULES["1f1b"], 1, 1, True)
        assert (sum(only.layers), only.embeddings, only.heads, only.mtp) == (21, 1.0, 1.0, 1)

    def test_an_empty_stage_between_the_ends_is_refused(self) -> None:
        assert not devices(UNIFORM, SCHEDULES["1f1b"], 16, 1, False)

    def test_the_ends_may_be_empty(self) -> None:
        found = devices(UNIFORM, SCHEDULES["1f1b"], 15, 1, False)
        assert sum(device.count for device in found if not sum(device.layers)) == 2


class TestPublishedModels:
    def test_deepseek_v3_on_16_stages_has_few_distinct_devices(self) -> None:
        found = devices(find_model("deepseek-v3"), SCHEDULES["1f1b"], 16, 1, True)
        assert sum(device.count for device in found) == 16
        assert sum(device.count * sum(device.layers) for device in found) == 61
        assert len(found) <= 4

    def test_distinct_layers_keep_the_order_of_first_appearance(self) -> None:
        dense, experts = distinct_layers(find_model("deepseek-v3").layers)
        assert isinstance(dense.feedforward, DenseFeedForward)
        assert isinstance(experts.feedforward, MixtureOfExperts)
