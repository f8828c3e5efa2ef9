"""DeepSeek's overview of its inference system (open-infra-index, day 6): arithmetic and rates.

https://github.com/deepseek-ai/open-infra-index, February 2025; figures quoted.
"""

from __future__ import annotations

import pytest

import planner
from planner.specs.model import MixtureOfExperts
from planner.specs.models_catalog import find_model

NODES, PRICE, DAY = 226.75, 2.0, 24 * 3600.0
INPUT, CACHED, OUTPUT = 608e9, 342e9, 168e9


def test_the_day_adds_up() -> None:
    assert pytest.approx(87_072) == NODES * 8 * PRICE * 24
    assert pytest.approx(0.563, abs=1e-3) == CACHED / INPUT
    revenue = (CACHED * 0.14 + (INPUT - CACHED) * 0.55 + OUTPUT * 2.19) / 1e6
    assert revenue == pytest.approx(562_027, rel=0.01)
    assert revenue / 87_072 - 1.0 == pytest.approx(5.45, abs=0.06)


def test_its_rates_say_how_many_nodes_each_phase_had() -> None:
    """73.7k tokens/s into a prefill node, hits included, and 14.8k out of a decode node."""
    prefill, decode = INPUT / DAY / 73_700, OUTPUT / DAY / 14_800
    assert prefill + decode == pytest.approx(NODES, rel=0.01)


def test_a_plan_on_its_machines_is_of_that_size() -> None:
    """H800, 4,989 tokens of context, half of every prompt cached, 20 tokens/s for a user.

    Our decode devices give about 0.75 of the 1,850 tokens/s: the real ones overlap two batches with
    the exchange of experts' tokens, which we leave out.
    """
    found = planner.plan_serving(
        "deepseek-v3",
        "h800-ib",
        devices=1808,
        isl=4500,
        osl=1000,
        prefix_hit=0.563,
        tpot=0.05,
        ttft=5.0,
        architecture="disaggregated",
    ).plan(1)
    decoding = found["output_tokens_per_s"] / (
        found["replicas"] * found["tp"] * found["attention_dp"] * found["pp"]
    )
    assert decoding / (14_800 / 8) == pytest.approx(0.75, abs=0.15)


def test_its_experts_and_their_copies_fill_the_ranks() -> None:
    """Prefill: 9 routed experts on each of 32 devices; decoding: 2 on each of 144; 32 redundant."""
    spec = find_model("deepseek-v3").layers[-1].feedforward
    assert isinstance(spec, MixtureOfExperts)
    assert (spec.experts + 32) / 32 == 9
    assert (spec.experts + 32) / 144 == 2
