"""Step-3 (arXiv 2507.19427): its tables 2 to 8 from our counts of its models."""

from __future__ import annotations

import numpy as np
import pytest

from planner.costs.ping_pong import layer_period
from planner.costs.topology import network
from planner.layers.inference import Runtime, Split, Step
from planner.layers.pools import attention_half
from planner.serving.attention_ffn import Unit, evaluate
from planner.serving.fleet import Fleet
from planner.serving.transfer import unit_link
from planner.specs.catalog import find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.model import (
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.models_catalog import find_model

SHORT, LONG = 8192, 32768

PER_TOKEN = {
    "deepseek-v3": ((2.88e8, 1.47e11, 2.28e10, 4.84e10), (1.15e9, 5.89e11)),
    "kimi-k2-instruct": ((2.88e8, 7.37e10, 1.23e10, 4.84e10), (1.15e9, 2.95e11)),
    "qwen3-235b-a22b": ((7.89e8, 2.52e10, 1.34e10, 2.84e10), (3.15e9, 1.01e11)),
    "qwen3-32b": ((1.07e9, 1.72e10, 1.21e10, 5.03e10), (4.29e9, 6.87e10)),
    "ernie-4.5-300b-a47b": ((9.06e8, 1.45e10, 1.63e10, 7.61e10), (3.62e9, 5.80e10)),
    "pangu-pro-moe": ((8.05e8, 8.05e9, 6.04e9, 2.38e10), (3.22e9, 3.22e10)),
    "step-3": ((2.56e8, 3.27e10, 2.07e10, 5.33e10), (1.02e9, 1.31e11)),
}
"""Bytes of cache in 8 bits, and FLOPs of the attention core, of projections and of feed-forward
parts for a token at 8K; the first two at 32K (tables 2 and 3)."""


def counted(model: ModelSpec, context: int) -> tuple[float, float, float, float]:
    """The four columns of the tables for one decoded token."""
    cache = core = linear = feedforward = 0.0
    for layer in model.layers:
        spec, part = layer.attention, layer.feedforward
        linear += 2.0 * spec.parameters(model.hidden)
        if isinstance(spec, LatentAttention):  # absorbed: keys and values are the latent
            width = spec.kv_rank + spec.rope_dim
            cache, core = cache + context * width, core + 4.0 * context * spec.heads * width
        elif isinstance(spec, GroupedQueryAttention):
            seen = min(context, spec.window or context)
            cache += 2.0 * seen * spec.kv_heads * spec.head_dim
            core += 4.0 * seen * spec.heads * spec.head_dim
        elif isinstance(spec, LinearAttention):
            cache, core = cache + spec.state_elements, core + spec.recurrence_flops
        if isinstance(part, MixtureOfExperts):
            active = part.top_k * part.expert_parameters(model.hidden)
            feedforward += 2.0 * (active + part.always_active_parameters(model.hidden))
        elif part is not None:
            feedforward += 2.0 * part.parameters(model.hidden)
    return cache, core, linear, feedforward


@pytest.mark.parametrize("name", PER_TOKEN)
def test_flops_and_bytes_of_a_token(name: str) -> None:
    short, long = PER_TOKEN[name]
    assert counted(find_model(name), SHORT) == pytest.approx(short, rel=0.008)
    assert counted(find_model(name), LONG)[:2] == pytest.approx(long, rel=0.008)


@pytest.mark.parametrize(
    ("name", "published", "ratios"),
    [
        ("llama-4-maverick-17b-128e-instruct", (1.01e9, 8.05e9, 6.04e9, 2.42e10), (0.80, 1.0)),
        ("minimax-m1", (9.23e8, 3.42e9, 3.75e10, 5.44e10), (0.26, 0.89)),
    ],
)
def test_where_its_caches_are_larger_than_ours(
    name: str, published: tuple[float, ...], ratios: tuple[float, float]
) -> None:
    """The paper keeps more of Llama 4's chunked layers, and MiniMax's linear states in 32 bits and
    with more work; projections and feed-forward parts agree."""
    cache, core, linear, feedforward = counted(find_model(name), SHORT)
    assert (cache / published[0], core / published[1]) == pytest.approx(ratios, abs=0.01)
    assert (linear, feedforward) == pytest.approx(published[2:], rel=0.005)


DEVICES = {
    "H800": (2.0, 1.98e15, 3.35e12),
    "H20": (0.8, 2.96e14, 4.0e12),
    "A800": (0.75, 3.12e14, 2.0e12),
    "910B": (0.67, 2.80e14, 1.6e12),
}
"""US dollars an hour, FLOP/s and B/s (table 4)."""

UNIT_COSTS = {
    "H800": (2.80e-19, 1.66e-16),
    "H20": (7.51e-19, 5.56e-17),
    "A800": (6.68e-19, 1.04e-16),
    "910B": (6.65e-19, 1.16e-16),
}
"""US dollars a FLOP and a byte (table 5)."""

COSTS = {
    "deepseek-v3": ((0.054, 0.128, 0.114, 0.113), (0.014, 0.036, 0.032, 0.032)),
    "kimi-k2-instruct": ((0.051, 0.065, 0.057, 0.057), (0.014, 0.036, 0.032, 0.032)),
    "qwen3-235b-a22b": ((0.135, 0.054, 0.091, 0.101), (0.008, 0.021, 0.019, 0.019)),
    "qwen3-32b": ((0.181, 0.069, 0.120, 0.133), (0.014, 0.038, 0.034, 0.033)),
    "ernie-4.5-300b-a47b": ((0.155, 0.063, 0.105, 0.116), (0.021, 0.057, 0.051, 0.051)),
    "pangu-pro-moe": ((0.135, 0.049, 0.088, 0.098), (0.007, 0.018, 0.016, 0.016)),
    "step-3": ((0.048, 0.040, 0.040, 0.043), (0.015, 0.040, 0.036, 0.035)),
}
"""US dollars for a million tokens at 8K of attention and of feed-forward parts (table 6)."""

LONG_COSTS = {
    "deepseek-v3": (0.197, 0.46, 0.409, 0.407),
    "kimi-k2-instruct": (0.194, 0.231, 0.205, 0.204),
    "qwen3-235b-a22b": (0.527, 0.185, 0.338, 0.376),
    "qwen3-32b": (0.716, 0.248, 0.455, 0.508),
    "ernie-4.5-300b-a47b": (0.606, 0.214, 0.388, 0.432),
    "pangu-pro-moe": (0.536, 0.183, 0.34, 0.379),
    "step-3": (0.176, 0.114, 0.12, 0.133),
}
"""The same of attention at 32K."""


def unit_costs(device: str) -> tuple[float, float]:
    price, flops, bandwidth = DEVICES[device]
    return price / 3600.0 / flops, price / 3600.0 / bandwidth


def costs(name: str, device: str, context: int) -> tuple[float, float]:
    """US dollars for a million tokens: the slower of core and cache, and the projections."""
    cache, core, linear, feedforward = counted(find_model(name), context)
    flop, byte = unit_costs(device)
    return 1e6 * (max(core * flop, cache * byte) + linear * flop), 1e6 * feedforward * flop


@pytest.mark.parametrize("device", DEVICES)
def test_unit_costs(device: str) -> None:
    assert unit_costs(device) == pytest.approx(UNIT_COSTS[device], rel=0.01)


@pytest.mark.parametrize("name", COSTS)
def test_decoding_costs(name: str) -> None:
    attention, feedforward = COSTS[name]
    for device, one, other in zip(DEVICES, attention, feedforward, strict=True):
        assert costs(name, device, SHORT) == pytest.approx((one, other), abs=0.0013)
    for device, one in zip(DEVICES, LONG_COSTS[name], strict=True):
        assert costs(name, device, LONG)[0] == pytest.approx(one, abs=0.0013)


def test_deepseek_v3_is_served_on_one_kind_of_device() -> None:
    """0.068 dollars for a million tokens at 8K, both halves on H800."""
    assert sum(costs("deepseek-v3", "H800", SHORT)) == pytest.approx(0.068, abs=0.001)


@pytest.mark.parametrize(
    ("name", "context", "published"),
    [
        ("step-3", SHORT, 0.055),
        ("qwen3-235b-a22b", SHORT, 0.062),
        ("step-3", LONG, 0.129),
        ("qwen3-235b-a22b", LONG, 0.193),
        ("deepseek-v3", LONG, 0.211),
    ],
)
def test_the_cheapest_device_for_each_half(name: str, context: int, published: float) -> None:
    halves = [costs(name, device, context) for device in DEVICES]
    assert min(h[0] for h in halves) + min(h[1] for h in halves) == pytest.approx(
        published, abs=0.002
    )


@pytest.mark.parametrize(
    ("device", "network", "published"),
    [("H800", 4e11, 0.058), ("H20", 4e11, 0.007), ("A800", 2e11, 0.031), ("910B", 2e11, 0.034)],
)
def test_the_fewest_active_experts_that_a_network_carries(
    device: str, network: float, published: float
) -> None:
    """Table 7: the batch that keeps 8-bit experts busy must cross the network within a stage."""
    model = find_model("step-3")
    _, flops, bandwidth = DEVICES[device]
    stage = 0.050 / 3.0 / model.num_layers
    batch = network * stage / (3.0 * model.hidden)  # 1 byte there, 2 back
    assert flops / (2.0 * bandwidth * batch) == pytest.approx(published, abs=0.0006)


@pytest.mark.parametrize(
    ("devices", "batch", "published", "within"),
    [(32, 6144, 4039, 0.055), (40, 6048, 3321, 0.10), (56, 9216, 3291, 1e-3)],
)
def test_tokens_per_second_of_a_device_at_fifty_milliseconds(
    devices: int, batch: int, published: float, within: float
) -> None:
    """Table 8: three full stages; real steps took 45 to 48 ms, so two rows are above the rule."""
    layers = find_model("step-3").num_layers
    stage = 0.050 / 3.0 / layers
    step = layers * float(layer_period(3, stage, 0.5 * stage, stage, 0.5 * stage))
    assert step == pytest.approx(0.050)
    assert batch / devices / step == pytest.approx(published, rel=within)


def fleet(cluster: str, model: ModelSpec) -> Fleet:
    """Plenty of devices, in 8 bits where they have units for them."""
    found, engine = find_cluster(cluster), find_engine("generic")
    widths = Widths("fp8", "fp8", "fp8") if "fp8" in found.accelerator.peak else Widths()
    run = Runtime(found.accelerator, network(found, 256), model.hidden, widths, engine)
    return Fleet("any", found, 256, run)


ROWS = [
    (2, 4096.0, 6144.0, 4039, 2919),
    (4, 8192.0, 6144.0, 2643, 2113),
    (16, 32768.0, 6144.0, 898, 666),
]
"""Attention instances of eight H800, context, batch, and tokens per second of a device beside two
instances of experts: published (the last by the paper's rule) and ours when this was written."""


def served(instances: int, context: float, batch: float) -> float:
    """Tokens per second of a device: attention alone on each device, experts over sixteen."""
    model = find_model("step-3")
    pools, one = (fleet("h800-ib", model),) * 2, np.ones(1)
    unit = Unit(one, 8.0 * instances * one, 16 * one, one, 3 * one)
    state = evaluate(pools, unit_link(pools), model, unit, batch * one, context)
    assert state.idle_attention[0] < 0.15  # attention sets the pace, as there
    return float((batch / state.tpot / (unit.attention + unit.ffn)).item())


@pytest.mark.parametrize(("instances", "context", "batch", "published", "ours"), ROWS)
def test_what_we_predict_for_its_deployments(
    instances: int, context: float, batch: float, published: int, ours: int
) -> None:
    """Ours take 61 to 66 ms where its engine takes 45 to 50: the gaps between kernels and the host
    time of a general engine are in our steps."""
    found = served(instances, context, batch)
    assert found == pytest.approx(ours, rel=0.1)
    assert 0.65 < found / published < 0.9


def test_twice_the_context_takes_twice_the_attention_devices() -> None:
    """The paper's rule: 4039 x 4 / 6 = 2693, measured 2643; ours falls as much within a tenth."""
    assert pytest.approx(2693, rel=1e-3) == 4039 * 4 / 6
    few, many = (served(*row[:3]) for row in ROWS[:2])
    assert many / few == pytest.approx(2643 / 4039, rel=0.12)


ATTENTION = [
    ("step-3", SHORT, "h800-ib", 281, 266),
    ("step-3", SHORT, "h20", 438, 558),
    ("step-3", SHORT, "dgx-a100", 531, 862),
    ("step-3", LONG, "h800-ib", 791, 705),
    ("step-3", LONG, "h20", 1452, 1735),
    ("step-3", LONG, "dgx-a100", 1484, 2365),
    ("deepseek-v3", SHORT, "h800-ib", 372, 312),
    ("deepseek-v3", SHORT, "h20", 1252, 1166),
    ("deepseek-v3", LONG, "h800-ib", 1125, 887),
    ("deepseek-v3", LONG, "h20", 4817, 4152),
]
"""Microseconds of an attention layer with its projections, 256 sequences on four devices (table 9,
the A800 in 16 bits): published, and ours when this was written."""


def attention(name: str, context: int, cluster: str) -> float:
    """Each device with a quarter of the sequences [us]."""
    model, one = find_model(name), np.ones(1)
    step = Step(0 * one, one, 0 * one, 64 * one, context * one, one)
    half = attention_half(
        fleet(cluster, model).run, model.layers[-2], Split(one, one, one, one), step
    )
    return 1e6 * float(np.asarray(half.children[0].seconds).item())


@pytest.mark.parametrize(("name", "context", "cluster", "published", "ours"), ATTENTION)
def test_an_attention_layer(
    name: str, context: int, cluster: str, published: int, ours: int
) -> None:
    """Within 27 % on H800 and H20; A800's kernels for heads of 256 are 60 % faster than ours."""
    found = attention(name, context, cluster)
    assert found == pytest.approx(ours, rel=0.1)
    if cluster != "dgx-a100":
        assert found == pytest.approx(published, rel=0.30)


def test_its_attention_is_faster_than_latent_attention_where_bandwidth_is_all() -> None:
    """Table 9: on H20, with little arithmetic, 2.9 and 3.3 times; on H800 1.3 and 1.4."""
    for cluster, least in (("h20", 2.0), ("h800-ib", 1.15)):
        for context in (SHORT, LONG):
            own, latent = (attention(name, context, cluster) for name in ("step-3", "deepseek-v3"))
            assert latent > least * own
