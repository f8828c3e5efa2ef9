"""Prefill and decode on shares of one device: limits, and what Little's law says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.serving import shared_device
from planner.serving.shared_device import Alone, divided, slowdown

ONE = np.ones(1)


def state(share: float, running: float, *, decode: float = 0.02, prompt: float = 0.2) -> Any:
    found = Alone(decode * ONE, prompt * ONE, 0.02 * ONE)
    return divided(found, share * ONE, running * ONE, 500.0 * ONE)


def test_reading_memory_slows_only_below_saturation() -> None:
    assert slowdown(np.array([1.0, shared_device.SATURATION])) == pytest.approx(1.0)
    assert slowdown(np.array([shared_device.SATURATION / 2.0])) == pytest.approx(2.0)


def test_without_prompts_a_step_takes_what_it_takes_alone() -> None:
    found = state(0.5, 32.0, prompt=1e-9)
    assert found.tpot == pytest.approx(0.02, rel=1e-6)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("running", [1.0, 64.0, 512.0])
def test_littles_law_holds(share: float, running: float) -> None:
    found = state(share, running)
    assert found.rate * 500.0 * found.tpot == pytest.approx(running)
    beside = slowdown(ONE - share) - 1.0 + 0.02 / found.prompt
    assert found.tpot == pytest.approx(0.02 * (1.0 + found.busy * beside))


def test_a_larger_share_takes_prompts_faster_and_tokens_slower() -> None:
    small, large = state(0.3, 64.0), state(0.8, 64.0)
    assert large.prompt < small.prompt
    assert large.tpot > small.tpot


def test_a_closed_loop_keeps_its_requests(bench: Any) -> None:
    server = bench.server()
    load = server.load(isl=2000, osl=300, concurrency=[1.0, 16.0, 64.0])
    found = shared_device.steady(server.run, server.model, server.replica(3), np.full(3, 0.5), load)
    first = server.run.engine.first
    alive = found.throughput / 300 * (300 * found.tpot + found.ttft - first)
    assert alive == pytest.approx([1.0, 16.0, 64.0], rel=0.02)


def test_one_request_waits_for_nobody(bench: Any) -> None:
    server = bench.server()
    load = server.load(isl=2000, osl=300, concurrency=1.0)
    found = shared_device.steady(server.run, server.model, server.replica(), 0.5 * ONE, load)
    whole = shared_device.alone(server.run, server.model, server.replica(), ONE, load)
    outside = server.run.engine.first + server.run.engine.waits * found.tpot
    assert found.ttft == pytest.approx(outside + whole.prompt / 0.5, rel=0.05)
