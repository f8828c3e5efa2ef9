"""An iteration: it adds up, it grows with its work, and it keeps between physical bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from planner.costs.tree import Cost

MODELS = [
    "meta-llama-3.1-70b",
    "gpt-oss-120b",
    "deepseek-v3",
    "qwen3-next-80b-a3b",
    "mimo-v2-flash",
    "jamba-v0.1",
]
LAYOUTS = [
    {"tp": 8},
    {"tp": 1, "attention_dp": 8, "ep": 8},
    {"tp": 2, "attention_dp": 4, "ep": 2},
    {"tp": 4, "pp": 2},
]
DECODES = np.unique(np.round(np.geomspace(1, 1024, 50)))
TOKENS = np.unique(np.round(np.geomspace(1, 16384, 60)))


def nodes(cost: Cost) -> Iterator[Cost]:
    yield cost
    for child in cost.children:
        yield from nodes(child)


class TestTree:
    @pytest.mark.parametrize("layout", LAYOUTS, ids=str)
    @pytest.mark.parametrize("model", MODELS)
    def test_what_is_on_the_path_adds_up(self, bench: Any, model: str, layout: Any) -> None:
        step = {"prefills": [0, 1, 0.3], "chunk": [1, 512, 4000], "decodes": [64, 0, 700]}
        tree = bench.server(model, **layout).iteration(**step, cached=100, context=2000)
        for node in nodes(tree):
            assert np.all(np.asarray(node.seconds) >= 0.0), node.name
            if node.children:
                assert sum(node.exposed) == pytest.approx(node.seconds, rel=1e-12), node.name
            else:
                assert node.lane in ("compute", "memory", "link", "host"), node.name

    @pytest.mark.parametrize("model", MODELS)
    def test_every_layer_is_in_it(self, bench: Any, model: str) -> None:
        server = bench.server(model)
        layers = [node for node in nodes(server.iteration(decodes=8)) if node.name == "layers"]
        assert sum(np.sum(node.times) for node in layers) == server.model.num_layers

    def test_the_host_handles_the_iteration_and_every_sequence(self, bench: Any) -> None:
        server = bench.server(engine="sglang")
        engine, tree = server.run.engine, server.iteration(decodes=30, prefills=2, chunk=99)
        (host,) = (node.seconds.item() for node in nodes(tree) if node.lane == "host")
        layers = server.model.num_layers
        assert host == pytest.approx(engine.step * layers / 64 + 32 * engine.token)
        assert engine.token > 0.0

    @pytest.mark.parametrize("model", MODELS[:4])
    def test_a_row_of_a_batch_is_its_scalar(self, bench: Any, model: str) -> None:
        random = np.random.default_rng(3)
        tp, dp, pp = random.choice([1, 2, 4, 8], (3, 6))
        layout = {"tp": tp, "attention_dp": dp, "pp": pp, "ep": np.minimum(8, tp * dp)}
        step = {
            "prefills": random.choice([0, 0.4, 1, 3], 6),
            "chunk": random.integers(1, 4096, 6),
            "cached": random.integers(0, 8192, 6),
            "decodes": random.choice([0, 1, 20, 333], 6),
            "context": random.integers(1, 30000, 6),
            "verified": random.choice([1, 2, 4], 6),
        }
        batch = bench.server(model, devices=512, **layout).iteration(**step)
        for row in range(6):
            one = {name: value[row] for name, value in layout.items()}
            scalar = bench.server(model, devices=512, **one).iteration(
                **{name: value[row] for name, value in step.items()}
            )
            pairs = zip(nodes(batch.row(row)), nodes(scalar.row(0)), strict=True)
            for many, alone in pairs:
                assert many.seconds == pytest.approx(alone.seconds, rel=1e-12), alone.name


@pytest.mark.parametrize("layout", LAYOUTS[:2], ids=str)
@pytest.mark.parametrize("model", MODELS)
class TestMonotone:
    def test_in_prompt_tokens(self, bench: Any, model: str, layout: Any) -> None:
        server = bench.server(model, **layout)
        for others in (0, 64):
            found = server.seconds(prefills=1, chunk=TOKENS, decodes=others, context=1000)
            assert np.all(np.diff(found) >= -1e-12 * found[:-1])

    def test_in_prompts(self, bench: Any, model: str, layout: Any) -> None:
        found = bench.server(model, **layout).seconds(prefills=DECODES / 64, chunk=256)
        assert np.all(np.diff(found) > 0.0)

    def test_in_decoding_sequences(self, bench: Any, model: str, layout: Any) -> None:
        found = bench.server(model, **layout).seconds(decodes=DECODES, context=1000)
        assert np.all(np.diff(found) > 0.0)

    def test_in_drafts(self, bench: Any, model: str, layout: Any) -> None:
        found = bench.server(model, **layout).seconds(
            decodes=16, context=1000, verified=[1, 2, 3, 4, 6, 8]
        )
        assert np.all(np.diff(found) >= 0.0)

    @pytest.mark.parametrize("decodes", [1, 64])
    def test_in_context(self, bench: Any, model: str, layout: Any, decodes: int) -> None:
        """But for 1 % where a kernel begins to split sequences, from 256 tokens on."""
        found = bench.server(model, **layout).seconds(decodes=decodes, context=8 * TOKENS)
        assert np.all(found >= 0.99 * np.maximum.accumulate(found))
        assert found[-1] > found[0]

    def test_in_what_is_cached(self, bench: Any, model: str, layout: Any) -> None:
        found = bench.server(model, **layout).seconds(prefills=1, chunk=512, cached=8 * TOKENS)
        assert np.all(np.diff(found) >= -1e-12 * found[:-1])


class TestBounds:
    KERNELS = 11
    """Of a dense layer: two and one beside each norm, four products, an activation, attention and
    two all-reduces."""

    @pytest.mark.parametrize(
        ("model", "cluster", "tp"),
        [
            ("meta-llama-3.1-70b", "hgx-h200", 8),
            ("meta-llama-3.1-70b", "hgx-h200", 4),
            ("meta-llama-3.1-70b", "dgx-a100", 8),
            ("meta-llama-3.1-8b", "dgx-h100", 1),
            ("opt-66b", "dgx-a100", 4),
            ("meta-llama-3.1-405b", "dgx-b200", 8),
        ],
    )
    def test_one_sequence_reads_the_weights_and_launches(
        self, bench: Any, model: str, cluster: str, tp: int
    ) -> None:
        """At least once at the full bandwidth; at most at 70 % of it, 1 to 6 us a kernel, and the
        host."""
        server = bench.server(model, cluster, tp=tp)
        device, engine = server.run.device, server.run.engine
        weights = 2 * server.model.parameters().active_without_input_embedding / tp
        floor = weights / device.memory_bandwidth
        found = server.seconds(decodes=1, context=16).item()
        launches = self.KERNELS * server.model.num_layers
        host = engine.step * server.model.num_layers / 64 + engine.token
        assert floor + host + 1e-6 * launches < found
        assert found < floor / 0.7 + host + 6e-6 * launches
        assert found < 3.0 * floor

    @pytest.mark.parametrize(
        ("model", "cluster", "tp", "most"),
        [
            ("meta-llama-3.1-70b", "hgx-h200", 8, 2.5),
            ("meta-llama-3.1-70b", "dgx-a100", 8, 2.5),
            ("meta-llama-3.1-8b", "dgx-h100", 1, 2.0),
            ("deepseek-v3", "hgx-h200", 8, 8.0),
            ("qwen3-next-80b-a3b", "dgx-h100", 4, 9.5),
            ("gpt-oss-120b", "dgx-b200", 1, 8.0),
        ],
    )
    def test_a_prompt_of_8192_tokens_is_bound_by_its_products(
        self, bench: Any, model: str, cluster: str, tp: int, most: float
    ) -> None:
        """Two FLOPs for each token and active parameter of the layers; narrow products of experts
        and recurrent mixers are bound by other things as well."""
        server = bench.server(model, cluster, tp=tp)
        hidden = server.model.hidden
        active = sum(layer.active_parameters(hidden) for layer in server.model.layers)
        floor = 2.0 * active * 8192 / tp / server.run.device.peak["bf16"]
        found = server.seconds(prefills=1, chunk=8192).item()
        assert floor < found < most * floor

    @pytest.mark.parametrize("model", ["gpt-oss-120b", "mistral-7b-instruct-v0.2"])
    def test_a_window_bounds_the_context(self, bench: Any, model: str) -> None:
        """The first has a window in every second layer, the second in all."""
        server = bench.server(model, tp=1)
        short, long = server.seconds(decodes=32, context=[8192, 65536])
        full = server.cache(65536) - server.cache(8192)
        assert long - short >= 32 * full / server.run.device.memory_bandwidth
        assert long - short <= 32 * full / 0.6 / server.run.device.memory_bandwidth + 1e-9

    def test_recurrent_layers_do_not_see_the_context(self, bench: Any) -> None:
        server = bench.server("minimax-m1")
        trees = [server.iteration(decodes=32, context=n) for n in (1000, 100_000)]
        scans, cores = (
            [
                sum(node.seconds.item() for node in nodes(tree) if word in node.name)
                for tree in trees
            ]
            for word in ("scan", "attention of decoding")
        )
        assert scans[0] == scans[1] > 0.0
        assert cores[1] > 10.0 * cores[0]

    def test_stages_pass_on_activations(self, bench: Any) -> None:
        """A batch passes all stages one after the other: the same work and one hop."""
        one, two = (bench.server(pp=pp, devices=16).iteration(decodes=64) for pp in (1, 2))
        (hop,) = (node for node in nodes(two) if node.name.startswith("stage to stage"))
        assert hop.seconds.item() > 64 * 8192 * 2 / 50e9
        assert two.seconds - hop.seconds == pytest.approx(one.seconds, rel=1e-12)

    @pytest.mark.parametrize("ep", [1, 2, 4, 8])
    def test_attention_ranks_exchange_tokens_however_experts_are_cut(
        self, bench: Any, ep: int
    ) -> None:
        server = bench.server("deepseek-v3", tp=1, attention_dp=8, ep=ep)
        tree = server.iteration(decodes=64, context=1000)
        for name in ("dispatch tokens", "combine tokens"):
            (leaf,) = {node.seconds.item() for node in nodes(tree) if node.name == name}
            sent = 64 * 7168 * 7 / 8  # one byte of every token that another device needs
            assert leaf > sent / 450e9

    def test_the_busiest_rank_of_experts_sets_the_pace(self, bench: Any) -> None:
        even, skewed = (
            bench.server("deepseek-v3", tp=1, attention_dp=8, ep=8, imbalance=i).seconds(
                prefills=1, chunk=8192
            )
            for i in (1.0, 1.5)
        )
        assert 1.1 * even < skewed < 1.5 * even


class TestPublished:
    def test_operators_of_nanoflow(self, bench: Any) -> None:
        """Table 2 of arXiv 2408.12757: Llama-2-70B, 2048 tokens on eight A100, 462 GB of cache."""
        context = 462.2e9 / 8 / (80 * 2 * 128 * 2) / 1024
        server = bench.server("llama-2-70b", "dgx-a100")
        tree = server.iteration(prefills=2, chunk=512, decodes=1024, context=context)
        measured = {
            "QKV projection": 16.08,
            "output projection": 16.01,
            "up projection": 69.92,
            "down projection": 34.96,
            "attention of decoding": 35.60,
            "attention of prompts": 4.56,
            "all-reduce (TP)": 47.92,
        }
        found = {
            name: 80e3 * sum(node.seconds.item() for node in nodes(tree) if node.name == name)
            for name in measured
        }
        for name, milliseconds in measured.items():
            if milliseconds > 10.0:
                assert found[name] == pytest.approx(milliseconds, rel=0.3), name
        assert sum(found.values()) == pytest.approx(sum(measured.values()), rel=0.15)

    @pytest.mark.parametrize(
        ("model", "tp", "coefficients"),
        [
            ("opt-13b", 1, (19.9347, 0.00062694, 0.038507)),
            ("opt-13b", 2, (13.2948, 0.00034109, 0.062964)),
            ("opt-13b", 4, (10.2562, 0.00018787, 0.032693)),
            ("opt-66b", 4, (30.7603, 0.00045195, 0.063284)),
        ],
    )
    def test_decode_steps_of_distserve(
        self, bench: Any, model: str, tp: int, coefficients: tuple[float, float, float]
    ) -> None:
        """a + b tokens + c sequences [ms] on A100, profiled by LLMServe/DistServe, whose own engine
        is up to a half slower than the generic one, most for small models on many devices."""
        base, token, sequence = coefficients
        server = bench.server(model, "dgx-a100", tp=tp, engine="generic")
        sequences, context = np.array([[1, 8, 32, 64], [512, 512, 512, 1024]])
        measured = base + token * sequences * context + sequence * sequences
        found = 1e3 * server.seconds(decodes=sequences, context=context)
        assert np.all((2 / 3 * measured < found) & (found < measured))

    def test_chunks_of_sarathi(self, bench: Any) -> None:
        """Section 5.4.1 of arXiv 2403.02310: a 34B model on two A100 loses a quarter in chunks of
        512 tokens and about nothing in those of 2048; section 4.3: the 257th token takes a tile."""
        server = bench.server("qwen2.5-32b", "dgx-a100", tp=2)

        def prefill(chunk: int) -> float:
            cached = np.arange(0, 8192, chunk)
            return float(server.seconds(prefills=1, chunk=chunk, cached=cached).sum())

        assert 1.1 < prefill(512) / prefill(8192) < 1.3
        assert 1.0 < prefill(2048) / prefill(8192) < 1.1
        full, over = server.seconds(prefills=1, chunk=[256, 257])
        assert 1.15 < over / full < 1.35
