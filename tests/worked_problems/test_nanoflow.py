"""NanoFlow (arXiv 2408.12757): its optima and its table of operations."""

from __future__ import annotations

import pytest

from planner.specs.model import DenseFeedForward, GroupedQueryAttention
from planner.specs.models_catalog import find_model

OPTIMA = {
    "meta-llama-3.1-70b": 1857,
    "meta-llama-3.1-8b": 16236,
}
"""Tokens per second of a device, all of its time computing (equation 5); 260 TFLOP/s, not the 280
of the text, give every one of them."""


@pytest.mark.parametrize("name", OPTIMA)
def test_the_optimum_is_arithmetic_over_twice_the_parameters(name: str) -> None:
    parameters = find_model(name).parameters().total
    assert 260e12 / (2.0 * parameters) == pytest.approx(OPTIMA[name], rel=0.02)


BATCH, DEVICES = 2048.0, 8
GFLOP = {"QKV": 27487.8, "output": 21990.2, "up and gate": 153931.6, "down": 76965.8}


def test_the_products_of_an_iteration() -> None:
    """Table 2: Llama-2-70B, 2,048 tokens."""
    model = find_model("meta-llama-3.1-70b")
    (layer,) = set(model.layers)
    spec, part = layer.attention, layer.feedforward
    assert isinstance(spec, GroupedQueryAttention) and isinstance(part, DenseFeedForward)
    each = 2.0 * BATCH * model.hidden * model.num_layers / 1e9
    columns = (spec.heads + 2 * spec.kv_heads) * spec.head_dim
    assert each * columns == pytest.approx(GFLOP["QKV"], rel=1e-5)
    assert each * spec.heads * spec.head_dim == pytest.approx(GFLOP["output"], rel=1e-5)
    assert each * 2 * part.width == pytest.approx(GFLOP["up and gate"], rel=1e-5)
    assert each * part.width == pytest.approx(GFLOP["down"], rel=1e-5)


def test_the_traffic_of_an_iteration() -> None:
    """75.2 GB: two sums a layer, in a ring over eight devices."""
    model = find_model("meta-llama-3.1-70b")
    traffic = 4.0 * (DEVICES - 1) * BATCH * model.hidden * 2.0 * model.num_layers
    assert traffic / 1e9 == pytest.approx(75.2, rel=1e-3)
    assert traffic / (DEVICES * 300e9) == pytest.approx(31.33e-3, rel=1e-3)


def test_real_operations_take_twice_the_bound_of_arithmetic() -> None:
    """Its engine is bound by arithmetic, and one after the other all operations take 225 ms."""
    bound = sum(GFLOP.values()) * 1e9 / (DEVICES * 312e12)
    assert bound == pytest.approx(0.1123, rel=2e-3)  # 114.17 ms with attention
    assert bound / 0.225 == pytest.approx(0.5, abs=0.02)
