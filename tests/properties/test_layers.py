"""What holds for every shape: a batch is its rows, more tokens cost more, nothing is negative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.costs.topology import network
from planner.costs.tree import Cost
from planner.layers.attention import attention_part
from planner.layers.feedforward import feedforward_part
from planner.layers.moe import moe_part
from planner.layers.part import Part, Setting, Sharding, factorised
from planner.specs.catalog import find_cluster
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
)
from planner.specs.workload import PRECISIONS, SOFTWARE, TrainingJob

H800 = find_cluster("h800-ib")
NET = network(H800, 256)
HIDDEN, SEQ = 2048, 4096
MIXERS = (
    GroupedQueryAttention(32, 32, 64),
    GroupedQueryAttention(32, 4, 64, window=1024, output_gate=True),
    LatentAttention(32, 512, 128, 64, 128, query_rank=768),
    LatentAttention(32, 512, 128, 64, 128),
    LinearAttention("delta net", 32, 8192, 4096, 1000, 2e6, 65536),
)
FEEDFORWARDS = (DenseFeedForward(8192), DenseFeedForward(8192, gated=False))
EXPERTS = (
    MixtureOfExperts(64, 6, 1024),
    MixtureOfExperts(128, 8, 768, shared_width=768),
    MixtureOfExperts(64, 8, 512, route_groups=(4, 8), gated=False),
)

jobs = st.builds(
    lambda software, precision, imbalance: TrainingJob(
        SEQ, 64, PRECISIONS[precision], SOFTWARE[software], imbalance
    ),
    st.sampled_from(sorted(SOFTWARE)),
    st.sampled_from(["bf16", "fp8"]),
    st.floats(1.0, 2.0),
)
situations = st.builds(
    lambda job, dispatch, kind: Setting(H800.accelerator, NET, job, HIDDEN, dispatch, kind),
    jobs,
    st.sampled_from(["all-to-all", "all-gather", "deduplicated"]),
    st.sampled_from(["ring", "ulysses"]),
)
powers = [1.0, 2.0, 4.0, 8.0, 16.0]
dense_rows = st.lists(
    st.tuples(
        st.sampled_from(powers),
        st.sampled_from(powers[:4]),
        st.sampled_from([0.0, 1.0]),
        st.sampled_from([1.0, 2.0, 3.0, 8.0]),
    ),
    min_size=2,
    max_size=7,
)
expert_rows = st.lists(
    st.tuples(
        st.sampled_from([64.0, 512.0, 4096.0, 12288.0]),
        st.sampled_from(powers[:4]),
        st.sampled_from([*powers, 32.0, 64.0]),
        st.sampled_from(powers[:3]),
    ),
    min_size=2,
    max_size=7,
)

Function = Callable[..., Part]


def dense_parts(setting: Setting, which: int) -> Function:
    """The mixer or feed-forward part at an index, as a function of the four dense axes."""
    if which < len(MIXERS):
        return lambda *axes: attention_part(setting, MIXERS[which], Sharding(*axes))
    spec = FEEDFORWARDS[which - len(MIXERS)]
    return lambda *axes: feedforward_part(setting, spec, Sharding(*axes))


DENSE = st.integers(0, len(MIXERS) + len(FEEDFORWARDS) - 1)


def values(part: Part, rows: int) -> dict[str, np.ndarray]:
    """Every number of a part, costs by their seconds, as arrays over the rows."""
    found = {}
    for item in fields(Part):
        value = getattr(part, item.name)
        plain = value.seconds if isinstance(value, Cost) else value
        found[item.name] = np.broadcast_to(np.asarray(plain, dtype=float), (rows,))
    return found


def columns(rows: list[tuple[float, ...]]) -> list[np.ndarray]:
    return [np.array(column) for column in zip(*rows, strict=True)]


def assert_batch_equals_rows(function: Function, rows: list[tuple[float, ...]]) -> None:
    together = values(function(*columns(rows)), len(rows))
    gathered = values(factorised(function, *columns(rows)), len(rows))
    for index, row in enumerate(rows):
        alone = values(function(*columns([row])), 1)
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][index], value[0], rtol=1e-12, err_msg=name)
            np.testing.assert_allclose(gathered[name][index], value[0], rtol=1e-12, err_msg=name)


def assert_adds_up(cost: Cost) -> None:
    if cost.children:
        np.testing.assert_allclose(sum(cost.exposed), cost.seconds, rtol=1e-12, atol=1e-18)
    for child in cost.children:
        assert_adds_up(child)


def assert_sound(part: Part) -> None:
    for name, value in values(part, 1).items():
        assert np.all(np.isfinite(value)), name
        assert np.all(value >= 0.0), name
    for name in ("forward", "backward", "weight"):
        assert np.all(values(part, 1)[name] > 0.0), name
        assert_adds_up(getattr(part, name))
    assert np.all(values(part, 1)["kept_selective"] <= values(part, 1)["kept"])


def assert_ordered(less: Part, more: Part) -> None:
    """Backward time is that of both halves, since collectives hide behind either."""
    a, b = values(less, 1), values(more, 1)
    for name in ("forward", "again", "kept", "kept_selective", "exchange"):
        assert a[name] <= b[name] * (1 + 1e-12), name
    assert a["backward"] + a["weight"] <= (b["backward"] + b["weight"]) * (1 + 1e-12)
    assert a["parameters"] == b["parameters"]


class TestDense:
    @settings(deadline=None, max_examples=60)
    @given(setting=situations, which=DENSE, rows=dense_rows)
    def test_a_batch_equals_its_rows(
        self, setting: Setting, which: int, rows: list[tuple[float, ...]]
    ) -> None:
        assert_batch_equals_rows(dense_parts(setting, which), rows)

    @settings(deadline=None, max_examples=100)
    @given(setting=situations, which=DENSE, row=dense_rows.map(lambda rows: rows[0]))
    def test_finite_and_never_negative(
        self, setting: Setting, which: int, row: tuple[float, ...]
    ) -> None:
        assert_sound(dense_parts(setting, which)(*columns([row])))

    @settings(deadline=None, max_examples=100)
    @given(
        setting=situations,
        which=DENSE,
        row=dense_rows.map(lambda rows: rows[0]),
        factor=st.floats(1.0, 8.0),
    )
    def test_more_tokens_never_cost_less(
        self, setting: Setting, which: int, row: tuple[float, ...], factor: float
    ) -> None:
        function = dense_parts(setting, which)
        longer = (*row[:3], row[3] * factor)
        assert_ordered(function(*columns([row])), function(*columns([longer])))


class TestExperts:
    @settings(deadline=None, max_examples=60)
    @given(setting=situations, spec=st.sampled_from(EXPERTS), rows=expert_rows)
    def test_a_batch_equals_its_rows(
        self, setting: Setting, spec: MixtureOfExperts, rows: list[tuple[float, ...]]
    ) -> None:
        assert_batch_equals_rows(lambda *axes: moe_part(setting, spec, *axes), rows)

    @settings(deadline=None, max_examples=100)
    @given(
        setting=situations,
        spec=st.sampled_from(EXPERTS),
        row=expert_rows.map(lambda rows: rows[0]),
    )
    def test_finite_and_never_negative(
        self, setting: Setting, spec: MixtureOfExperts, row: tuple[float, ...]
    ) -> None:
        assert_sound(moe_part(setting, spec, *columns([row])))

    @settings(deadline=None, max_examples=100)
    @given(
        setting=situations,
        spec=st.sampled_from(EXPERTS),
        row=expert_rows.map(lambda rows: rows[0]),
        factor=st.floats(1.0, 8.0),
    )
    def test_more_tokens_never_cost_less(
        self, setting: Setting, spec: MixtureOfExperts, row: tuple[float, ...], factor: float
    ) -> None:
        longer = (row[0] * factor, *row[1:])
        assert_ordered(
            moe_part(setting, spec, *columns([row])), moe_part(setting, spec, *columns([longer]))
        )


class TestFactorised:
    def test_it_evaluates_the_distinct_rows_only(self) -> None:
        seen = []

        def function(*axes: np.ndarray) -> Part:
            seen.append(len(axes[0]))
            setting = Setting(H800.accelerator, NET, TrainingJob(SEQ, 64), HIDDEN)
            return feedforward_part(setting, FEEDFORWARDS[0], Sharding(*axes))

        rows = [(1.0, 1.0, 0.0, 1.0), (2.0, 1.0, 0.0, 1.0), (1.0, 1.0, 0.0, 1.0)] * 5
        part = factorised(function, *columns(rows))
        assert seen == [2]
        assert values(part, 15)["forward"].shape == (15,)
        assert len(set(values(part, 15)["forward"].tolist())) == 2

    @pytest.mark.parametrize("count", [1, 3])
    def test_a_single_row_keeps_its_tree(self, count: int) -> None:
        setting = Setting(H800.accelerator, NET, TrainingJob(SEQ, 64), HIDDEN)
        rows = [(float(2**i), 1.0, 0.0, 1.0) for i in range(count)]
        part = factorised(dense_parts(setting, 0), *columns(rows))
        assert bool(part.forward.children) is (count == 1)
