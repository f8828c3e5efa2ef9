"""What one layer of an inference engine reads, on a device where only reading takes time.

There a time is a number of bytes, so that the tests need no tolerance for kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from planner.costs.imbalance import POPULARITY, distinct_experts
from planner.costs.topology import network
from planner.costs.tree import Cost
from planner.layers.inference import Runtime, Split, Step, head_cost, layer_cost
from planner.specs.catalog import find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.hardware import Accelerator
from planner.specs.model import (
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.models_catalog import find_model

FREE = 1e12
FRICTIONLESS = {
    "memory": 1.0, "cache": FREE, "stream": FREE, "slots": FREE, "crowd": FREE,
    "cached": 0.0, "quantise": 0.0, "moved": 0.0, "passed": 0.0,
}  # fmt: skip
"""Fields of a kernel set beside its times, which are 0: memory at full rate, all else free."""


def frictionless(kernel: Any) -> Any:
    changed: dict[str, Any] = {}
    for field in fields(kernel):
        value = getattr(kernel, field.name)
        if field.metadata.get("kind") == "time":
            changed[field.name] = 0.0
        elif "set" in field.metadata and is_dataclass(value):
            changed[field.name] = frictionless(value)
        elif field.name in FRICTIONLESS:
            changed[field.name] = FRICTIONLESS[field.name]
    return replace(kernel, **changed)


def only_memory(device: Accelerator) -> Accelerator:
    """The device with kernels that cost nothing but their traffic to memory."""
    kernels = {
        family: {
            library: {dtype: frictionless(kernel) for dtype, kernel in sets.items()}
            for library, sets in libraries.items()
        }
        for family, libraries in device.kernels.items()
    }
    peak = {dtype: FREE * rate for dtype, rate in device.peak.items()}
    return replace(device, kernels=kernels, peak=peak, l2_cache=None)


CLUSTER = find_cluster("hgx-h200")
DEVICE = only_memory(CLUSTER.accelerator)
PLAIN = Widths()


def column(value: float) -> np.ndarray:
    return np.array([value], dtype=float)


def decoding(sequences: float, context: float = 1.0, verified: float = 1.0) -> Step:
    parts = (0.0, 1.0, 0.0, sequences, context, verified)
    return Step(*map(column, parts))


def prompt(tokens: float, cached: float = 0.0) -> Step:
    return Step(*map(column, (1.0, tokens, cached, 0.0, 1.0, 1.0)))


def leaves(cost: Cost) -> Iterator[Cost]:
    if not cost.children:
        yield cost
    for child in cost.children:
        yield from leaves(child)


def traffic(
    model: ModelSpec,
    step: Step,
    *,
    tp: int = 1,
    attention_dp: int = 1,
    ep: int = 1,
    widths: Widths = PLAIN,
    engine: str = "vllm",
) -> Counter[str]:
    """Bytes that one device moves in all layers and for the logits, by the name of the leaf."""
    net = network(CLUSTER, tp * attention_dp)
    run = Runtime(DEVICE, net, model.hidden, widths, find_engine(engine))
    split = Split(*map(column, (tp, attention_dp, ep, tp * attention_dp / ep)))
    found: Counter[str] = Counter()
    costs = [
        (layer_cost(run, layer, split, step), count)
        for layer, count in Counter(model.layers).items()
    ]
    for cost, count in [*costs, (head_cost(run, model.vocab, split, step.rows), 1)]:
        for leaf in leaves(cost):
            if leaf.lane != "link":
                nbytes = count * float(np.sum(leaf.seconds)) * DEVICE.memory_bandwidth
                found[leaf.name] += nbytes  # type: ignore[assignment]
    return found


def cache(model: ModelSpec, context: float, **options: Any) -> float:
    """Bytes of cache that a token reads beside what it reads of a cache of one token."""
    long, short = (
        traffic(model, decoding(1, tokens), **options)["attention of decoding"]
        for tokens in (context, 1)
    )
    return long - short


LLAMA = find_model("meta-llama-3.1-70b")
DEEPSEEK = find_model("deepseek-v3")
GPT_OSS = find_model("gpt-oss-120b")


class TestWeights:
    """What one token reads is what it uses: every active parameter once."""

    @pytest.mark.parametrize(
        "name",
        [
            "meta-llama-3.1-8b",
            "meta-llama-3.1-70b",
            "falcon-180b",
            "opt-66b",
            "mixtral-8x7b-v0.1",
            "qwen3-235b-a22b",
            "gpt-oss-120b",
            "snowflake-arctic",
            "deepseek-v3",
            "qwen3-next-80b-a3b",
            "minimax-m1",
            "nvidia-nemotron-3-nano-30b-a3b-bf16",
            *(
                pytest.param(name, marks=pytest.mark.xfail(reason=f"limit of the layers: {why}"))
                for name, why in (
                    ("step-3", "queries of low rank have full projections, +11 %"),
                    ("deepseek-v4-pro", "queries and outputs of low rank, merged keys, +79 %"),
                    ("kimi-k3", "projections to the latent of the experts, output gates, -7 %"),
                )
            ),
        ],
    )
    def test_one_token_reads_the_active_parameters(self, name: str) -> None:
        model = find_model(name)
        found = traffic(model, decoding(1))
        read = sum(found.values()) - sum(v for k, v in found.items() if k.endswith("scan"))
        active = model.parameters().active_without_input_embedding
        assert read == pytest.approx(2 * active, rel=0.003)

    @pytest.mark.parametrize("tp", [2, 4, 8])
    @pytest.mark.parametrize("name", ["meta-llama-3.1-70b", "gpt-oss-120b"])
    def test_tensor_parallelism_divides_them(self, name: str, tp: int) -> None:
        whole, part = (traffic(find_model(name), decoding(1), tp=n) for n in (1, tp))
        for leaf in whole:
            if "projection" in leaf or leaf == "experts":
                assert part[leaf] == pytest.approx(whole[leaf] / tp, rel=0.01), leaf

    def test_down_projections_to_a_latent_are_not_divided(self) -> None:
        whole, part = (traffic(DEEPSEEK, decoding(1), tp=n) for n in (1, 8))
        assert part["latent down-projection"] == whole["latent down-projection"]
        assert part["query up-projection"] == pytest.approx(
            whole["query up-projection"] / 8, rel=0.01
        )

    def test_key_value_heads_are_copied_beyond_their_number(self) -> None:
        """At tp = 16 a device holds 4 of 64 query heads and one of 8 key-value heads."""
        found = traffic(LLAMA, decoding(1), tp=16)["QKV projection"]
        assert found == pytest.approx(80 * 2 * 8192 * (4 + 2) * 128, rel=0.01)

    @pytest.mark.parametrize(
        ("weights", "share"), [("fp8", 1 / 2), ("int4", 1 / 4), ("fp8_block", 1 / 2)]
    )
    @pytest.mark.parametrize("model", [LLAMA, GPT_OSS], ids=lambda model: model.name)
    def test_narrow_weights_read_their_share(
        self, model: ModelSpec, weights: str, share: float
    ) -> None:
        """Scales are 3 % of int4 and of fp8 in blocks; logits stay in 16 bits."""
        wide, narrow = (
            traffic(model, decoding(1), widths=Widths(weights=kind)) for kind in ("bf16", weights)
        )
        assert narrow["vocabulary projection"] == wide["vocabulary projection"]
        for leaf in wide:
            if leaf in ("QKV projection", "down projection", "experts"):
                assert share <= narrow[leaf] / wide[leaf] < 1.04 * share, leaf

    @pytest.mark.parametrize("leaf", ["QKV projection", "up projection", "vocabulary projection"])
    def test_a_batch_reads_them_once(self, leaf: str) -> None:
        one, many = (traffic(LLAMA, decoding(n))[leaf] for n in (1, 64))
        assert one < many < 1.1 * one


class TestCache:
    @pytest.mark.parametrize(
        ("name", "per_token"),
        [
            ("meta-llama-3.1-70b", 80 * 2 * 8 * 128 * 2),
            ("deepseek-v3", 61 * (512 + 64) * 2),
            ("opt-66b", 64 * 2 * 9216 * 2),
            ("qwen3-next-80b-a3b", 12 * 2 * 2 * 256 * 2),
            ("hunyuan-large", 64 * 2 * 8 * 80 * 2),  # a borrowed cache is read all the same
        ],
    )
    def test_a_token_reads_the_keys_and_values_before_it(self, name: str, per_token: int) -> None:
        assert cache(find_model(name), 8193) == pytest.approx(8192 * per_token)

    @pytest.mark.parametrize("model", [LLAMA, DEEPSEEK], ids=lambda model: model.name)
    def test_eight_bits_halve_it(self, model: ModelSpec) -> None:
        wide, narrow = (cache(model, 8192, widths=Widths(kv=kind)) for kind in ("bf16", "fp8"))
        assert narrow == pytest.approx(wide / 2)

    def test_tensor_parallelism_divides_heads_but_no_latent(self) -> None:
        assert cache(LLAMA, 8192, tp=8) == pytest.approx(cache(LLAMA, 8192) / 8)
        assert cache(LLAMA, 8192, tp=16) == pytest.approx(cache(LLAMA, 8192) / 8)
        assert cache(DEEPSEEK, 8192, tp=8) == pytest.approx(cache(DEEPSEEK, 8192))

    @pytest.mark.parametrize("sequences", [1, 7, 256])
    def test_every_sequence_reads_its_own(self, sequences: int) -> None:
        long, short = (
            traffic(LLAMA, decoding(sequences, n))["attention of decoding"] for n in (4097, 1)
        )
        assert long - short == pytest.approx(sequences * 4096 * 327_680)

    def test_drafts_share_one_read(self) -> None:
        one, three = (
            traffic(LLAMA, decoding(8, 8192, verified))["attention of decoding"]
            for verified in (1, 3)
        )
        assert one < three < 1.01 * one

    @pytest.mark.parametrize("leaf", ["up projection", "sampling", "norm and rotary"])
    def test_drafts_are_tokens_to_all_but_attention(self, leaf: str) -> None:
        drafts, sequences = (
            traffic(LLAMA, decoding(count, 100, verified))[leaf]
            for count, verified in ((8, 3), (24, 1))
        )
        assert drafts == pytest.approx(sequences, rel=1e-12)

    @pytest.mark.parametrize("name", ["gpt-oss-120b", "mistral-7b-instruct-v0.2", "mimo-v2-flash"])
    def test_a_window_bounds_it(self, name: str) -> None:
        """A window may begin inside a tile of 128 tokens, which is read whole."""
        model = find_model(name)
        full = windows = 0.0
        for layer in model.layers:
            spec = layer.attention
            assert isinstance(spec, GroupedQueryAttention)
            token = 2.0 * spec.kv_heads * (spec.head_dim + (spec.value_dim or spec.head_dim))
            full += 0.0 if spec.window else token
            windows += token * (spec.window or 0.0)
        found = cache(model, 100_001)
        assert 100_000 * full + 0.95 * windows < found < 100_000 * full + 2 * windows
        assert cache(model, 200_001) - found == pytest.approx(100_000 * full)

    @pytest.mark.parametrize("name", ["qwen3-next-80b-a3b", "minimax-m1", "kimi-k3", "jamba-v0.1"])
    def test_a_recurrent_state_does_not_grow(self, name: str) -> None:
        """Read and written once in 32 bits, however long the sequence is."""
        model = find_model(name)
        state = sum(
            8 * layer.attention.state_elements
            for layer in model.layers
            if isinstance(layer.attention, LinearAttention)
        )
        short, long = (
            sum(v for k, v in traffic(model, decoding(1, n)).items() if k.endswith("scan"))
            for n in (1, 100_000)
        )
        assert short == long
        assert state <= long < 1.05 * state

    def test_a_sparse_indexer_bounds_it(self) -> None:
        model = find_model("deepseek-v3.2")
        spec = model.layers[0].attention
        assert isinstance(spec, LatentAttention) and spec.indexer is not None
        top = spec.indexer.top_k
        assert cache(model, top + 1) == pytest.approx(cache(model, 50 * top), rel=0.001)

    @pytest.mark.parametrize("model", [LLAMA, DEEPSEEK], ids=lambda model: model.name)
    def test_a_chunk_reads_what_was_cached_before_it(self, model: ModelSpec) -> None:
        """Sarathi-Serve, arXiv 2403.02310: every chunk reads the cache of those before it."""
        first, later = (
            traffic(model, prompt(512, cached))["attention of prompts"] for cached in (0, 8192)
        )
        assert later - first >= 8192 * cache(model, 2)


class TestExperts:
    @pytest.mark.parametrize("name", ["mixtral-8x7b-v0.1", "gpt-oss-120b", "deepseek-v3"])
    def test_one_token_reads_its_own_and_many_read_all(self, name: str) -> None:
        model = find_model(name)
        mixtures = [
            layer.feedforward
            for layer in model.layers
            if isinstance(layer.feedforward, MixtureOfExperts)
        ]
        spec = mixtures[0]
        matrices = 3 if spec.gated else 2
        one = 2.0 * len(mixtures) * matrices * model.hidden * spec.width
        read = traffic(model, decoding(1))["experts"]
        assert read == pytest.approx(spec.top_k * one, rel=0.01)
        few, many = (traffic(model, decoding(n))["experts"] for n in (1024, 2048))
        rows = many - few  # activations alone, as all experts are read already
        assert few - rows == pytest.approx(spec.experts * one, rel=0.03)

    @pytest.mark.parametrize("tokens", [1, 4, 16])
    @pytest.mark.parametrize(("attention_dp", "ep"), [(1, 8), (8, 8), (8, 1), (4, 2)])
    def test_devices_share_them(self, attention_dp: int, ep: int, tokens: int) -> None:
        """All attention ranks' tokens meet the experts, whichever way these are cut."""
        tp = 8 // attention_dp
        alone = traffic(DEEPSEEK, decoding(tokens * attention_dp))["experts"]
        layout = {"tp": tp, "attention_dp": attention_dp, "ep": ep}
        shared = traffic(DEEPSEEK, decoding(tokens), **layout)["experts"]
        whole, busiest = (
            distinct_experts(256, 8, tokens * attention_dp, ranks=ranks) for ranks in (1, ep)
        )
        expected = alone / 8 * busiest * ep / whole
        assert shared == pytest.approx(expected, rel=0.03)  # rows are not cut by moe_tp

    def test_weights_of_experts_never_exceed_those_on_the_device(self) -> None:
        few, many = (
            traffic(DEEPSEEK, decoding(n), attention_dp=8, ep=8)["experts"] for n in (2048, 4096)
        )
        held = 58 * 32 * 3 * 7168 * 2048 * 2
        assert 2 * few - many == pytest.approx(held, rel=0.01)


class TestMeasured:
    """Times of one layer beside the public tables' [s]: aiconfigurator-core 0.12.0, Apache-2.0."""

    def parts(self, model: str, step: Step, cluster: str, **widths: str) -> Counter[str]:
        machines, spec = find_cluster(cluster), find_model(model)
        run = Runtime(
            machines.accelerator,
            network(machines, 8),
            spec.hidden,
            Widths(**widths),
            find_engine("sglang"),
        )
        cost = layer_cost(run, spec.layers[-2], Split(*map(column, (8, 1, 1, 8))), step)
        found: Counter[str] = Counter()
        for leaf in leaves(cost):
            found[leaf.name] += float(np.sum(leaf.seconds))
        return found

    OUTSIDE = ("norm and rotary", "all-reduce (TP)")

    @pytest.mark.parametrize(
        ("step", "measured"),
        [
            (decoding(4, 8192), 86e-6),
            (decoding(16, 8192), 104e-6),
            (decoding(64, 4096), 139e-6),
            (prompt(4096), 2627e-6),
            (prompt(8192), 5163e-6),
        ],
    )
    def test_sparse_attention_of_glm_5(self, step: Step, measured: float) -> None:
        """dsa modules of H200 at tp 8, 16-bit cache."""
        widths = {"weights": "fp8_block", "activations": "fp8_block"}
        found = self.parts("glm-5", step, "hgx-h200", **widths)
        experts = ("norm", "router", "top-k", "experts", "activation", "dispatch tokens")
        kept = [n for n in found if n not in (*self.OUTSIDE, *experts) and "shared" not in n]
        assert sum(found[name] for name in kept) == pytest.approx(measured, rel=0.35)

    @pytest.mark.parametrize(
        ("tokens", "measured"), [(1024, 66e-6), (4096, 168e-6), (8192, 324e-6)]
    )
    def test_a_scan_of_the_gated_delta_net(self, tokens: int, measured: float) -> None:
        """B200, 8 heads a device, chunks one after the other."""
        (found,) = (
            value
            for name, value in self.parts("qwen3.5-397b-a17b", prompt(tokens), "dgx-b200").items()
            if name.endswith("scan")
        )
        assert found == pytest.approx(measured, rel=0.35)

    @pytest.mark.parametrize(("tokens", "measured"), [(4, 25e-6), (64, 60e-6), (1024, 135e-6)])
    def test_experts_in_mxfp4(self, tokens: int, measured: float) -> None:
        """gpt-oss-120b on B200 at tp 8: rows in mxfp8, which 16-bit kernels are far from."""
        found = self.parts("gpt-oss-120b", decoding(tokens), "dgx-b200", weights="mxfp4")["experts"]
        assert found == pytest.approx(measured, rel=0.35)


class TestNothing:
    def test_without_prompts_or_sequences_no_attention_of_theirs(self) -> None:
        for model in (LLAMA, DEEPSEEK):
            assert traffic(model, prompt(512))["attention of decoding"] == 0.0
            assert traffic(model, decoding(8))["attention of prompts"] == 0.0

    def test_one_device_has_no_link(self) -> None:
        net = network(CLUSTER, 1)
        run = Runtime(CLUSTER.accelerator, net, DEEPSEEK.hidden, Widths(), find_engine("vllm"))
        split = Split(*map(column, (1, 1, 1, 1)))
        cost = layer_cost(run, DEEPSEEK.layers[-1], split, decoding(64, 1000))
        assert sum(np.sum(leaf.seconds) for leaf in leaves(cost) if leaf.lane == "link") == 0.0


SHAPES = [(8, 2), (64, 6), (128, 8), (160, 6), (256, 8), (384, 8)]
TOKENS = np.unique(np.round(np.geomspace(1, 1e5, 60)))


class TestDistinctExperts:
    @pytest.mark.parametrize(("experts", "top_k"), SHAPES)
    def test_uniform_routing_in_closed_form(self, experts: int, top_k: int) -> None:
        found = distinct_experts(experts, top_k, TOKENS, 0.0)
        assert found == pytest.approx(experts * (1 - (1 - top_k / experts) ** TOKENS), rel=1e-9)

    @pytest.mark.parametrize("popularity", [0.0, POPULARITY, 2.0])
    @pytest.mark.parametrize(("experts", "top_k"), SHAPES)
    def test_grows_with_the_tokens_up_to_all(
        self, experts: int, top_k: int, popularity: float
    ) -> None:
        found = distinct_experts(experts, top_k, TOKENS, popularity)
        assert np.all(np.diff(found) >= 0.0)
        assert np.all(found <= np.minimum(experts, top_k * TOKENS) * (1 + 1e-12))
        assert found[-1] == pytest.approx(experts, rel=0.01)

    @pytest.mark.parametrize(
        ("experts", "top_k", "popularity"),
        [
            *((*shape, popularity) for shape in SHAPES for popularity in (0.0, POPULARITY)),
            *((4, 4, POPULARITY), (8, 2, 2.0), (256, 8, 2.0)),
        ],
    )
    def test_one_token_uses_its_own(self, experts: int, top_k: int, popularity: float) -> None:
        assert distinct_experts(experts, top_k, 1.0, popularity) == pytest.approx(top_k, rel=1e-9)

    def test_fewer_where_some_are_popular(self) -> None:
        inside = TOKENS[(TOKENS > 1) & (TOKENS < 1000)]
        rows = [distinct_experts(256, 8, inside, popularity) for popularity in (0, 0.7, 1.5, 2)]
        assert np.all(np.diff(rows, axis=0) < 0.0)

    @pytest.mark.parametrize("popularity", [0.0, 0.7])
    @pytest.mark.parametrize("tokens", [4, 16, 64])
    @pytest.mark.parametrize(("experts", "top_k", "devices"), [(64, 6, 8), (128, 8, 16)])
    def test_draws_and_the_bound_of_the_busiest_device(
        self, experts: int, top_k: int, devices: int, tokens: int, popularity: float
    ) -> None:
        """Janus, arXiv 2512.13525, equation 5: a_max <= min(C, a + sqrt(2 a ln n_e)) + 1."""
        random = np.random.default_rng(7)
        weight = popularity * ndtri((np.arange(experts) + 0.5) / experts)
        scores = weight + random.gumbel(size=(400, tokens, experts))  # top-k without replacement
        chosen = np.argpartition(-scores, top_k, axis=-1)[..., :top_k]
        used = np.zeros((400, experts), dtype=bool)
        np.put_along_axis(used, chosen.reshape(400, -1), True, axis=1)
        expected = float(distinct_experts(experts, top_k, tokens, popularity))
        assert used.sum(axis=1).mean() == pytest.approx(expected, rel=0.02)

        held = experts // devices
        each = random.permuted(used, axis=1).reshape(400, devices, held).sum(axis=2)
        mean = expected / devices
        bound = min(held, mean + np.sqrt(2 * mean * np.log(devices))) + 1
        drawn = each.max(axis=1).mean()
        assert mean < drawn <= bound
        busiest = float(distinct_experts(experts, top_k, tokens, popularity, devices))
        assert busiest == pytest.approx(drawn, rel=0.1)

    @pytest.mark.parametrize(
        ("devices", "tokens", "published"),
        [
            (6, 16, 8.46), (6, 64, 15.66), (6, 256, 19.98), (6, 512, 20.47),
            (12, 16, 5.84), (12, 64, 10.82), (16, 256, 10.78), (16, 512, 10.95),
        ],
    )  # fmt: skip
    def test_busiest_devices_of_deepseek_v2(
        self, devices: int, tokens: int, published: float
    ) -> None:
        """Appendix A of Janus draws them from traces, whose gates look like a deviation of 2."""
        mean = float(distinct_experts(160, 6, tokens, 2.0)) / devices
        assert mean < published <= min(27, mean + np.sqrt(2 * mean * np.log(devices))) + 1
        busiest = float(distinct_experts(160, 6, tokens, 2.0, devices))
        assert busiest == pytest.approx(published, rel=0.25)
