"""Rows and stand-ins: one tiny model in the real clusters."""

from dataclasses import replace
from functools import cache

import pytest

from planner.errors import PlannerError
from planner.evidence.cases import Library
from planner.evidence.tables import Row
from planner.evidence.validate import validate
from planner.specs.catalog import find_cluster
from planner.specs.model import DenseFeedForward, GroupedQueryAttention, Layer, ModelSpec
from planner.specs.workload import SOFTWARE

EMPTY = Row(
    id="run",
    source="somewhere",
    model="tiny",
    accelerator="a100-sxm-80g",
    metric="iteration_s",
    value=1.0,
    sequence_parallel="",
    recompute="",
    precision="bf16",
    schedule="",
    method="",
    notes="",
    assumed=frozenset(),
    num_devices=8,
    devices_per_node=8,
    seq_len=2048,
    global_batch=16,
    micro_batch=None,
    tp=None,
    pp=None,
    vpp=None,
    cp=None,
    ep=None,
    etp=None,
    dp=None,
    zero=None,
)
"""A row that states no choice of its run."""


def tiny_model(name):
    """Eight dense layers of width 1,024; any other name is unknown."""
    if name != "tiny":
        raise PlannerError(f"unknown model {name!r}")
    layer = Layer(GroupedQueryAttention(16, 16, 64), DenseFeedForward(4096))
    return ModelSpec("tiny", 1024, 32000, (layer,) * 8)


@cache
def own_report():
    """The report over the project's own tables, made once for all tests."""
    return validate()


@pytest.fixture
def row():
    """A row that states only what is given."""
    return lambda **stated: replace(EMPTY, **stated)


@pytest.fixture
def library():
    return Library(tiny_model, find_cluster, SOFTWARE)
