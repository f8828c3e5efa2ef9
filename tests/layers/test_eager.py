"""Plain PyTorch's own kernels: more than an engine's, none where there is no token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.costs.topology import network
from planner.layers.eager import unfused
from planner.layers.inference import Runtime, Step
from planner.specs.catalog import find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.models_catalog import find_model


def seconds(name: str, tokens: float, *, decode: bool = True) -> float:
    model, cluster = find_model(name), find_cluster("hgx-h200")
    run = Runtime(
        cluster.accelerator, network(cluster, 1), model.hidden, Widths(), find_engine("generic")
    )
    one, none = np.ones(1), np.zeros(1)
    empty = Step(none, one, none, none, one, one)
    step = (
        replace(empty, decodes=tokens * one)
        if decode
        else replace(empty, prefills=one, chunk=tokens * one)
    )
    parts: list[Any] = unfused(run, model.layers[0], step)
    return float(sum(np.asarray(part.seconds).item() for part in parts))


def test_no_tokens_take_no_time() -> None:
    assert seconds("llama-3.1-8b", 0.0) == 0.0


def test_small_steps_are_launches_and_large_ones_traffic() -> None:
    few, more, most = (seconds("llama-3.1-8b", n, decode=False) for n in (1.0, 8192.0, 16384.0))
    assert few < 50e-6
    assert most / more == pytest.approx(2.0, rel=0.1)


def test_experts_are_sorted_by_many_small_kernels() -> None:
    assert seconds("qwen3-30b-a3b", 1.0) > 1.3 * seconds("llama-3.1-8b", 1.0)
