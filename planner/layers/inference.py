"""What one layer costs in one iteration of an inference engine: any mix of prefill and decode.

An iteration holds ``prefills`` chunks of prompts and one step of ``decodes`` sequences.
Projections and experts see all their tokens together, the attention core each kind apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from planner.costs import collectives, deepep, kernels, lines
from planner.costs.imbalance import distinct_experts
from planner.costs.kernels import OPERAND_BYTES, Decode
from planner.costs.topology import Network
from planner.costs.tree import Cost, Seconds, leaf, seq
from planner.specs.engine import Engine, Widths
from planner.specs.hardware import Accelerator
from planner.specs.kernel_sets import ExpertSet, LowLatencySet, NormalSet, OneKernelSet
from planner.specs.model import (
    Attention,
    DenseFeedForward,
    FeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    MixtureOfExperts,
    SparseIndexer,
)
from planner.specs.skew import RankSkew, over_mean

Array = NDArray[np.float64]

PEAKS = {"mxfp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
"""Matrix units of a datatype where the name is another."""

FUSED_QUANTISATION = ("fp8", "int8", "nvfp4")
"""Datatypes whose activations an engine quantises in the kernel before, where the measured tables
time a kernel of its own.  Engines have such kernels for the plain layers of Llama and DeepSeek;
where queries and keys are normalised, each product is quantised for itself."""


SPARSE_HEADS = 64.0
"""Query heads that a sparse latent kernel multiplies at least, those it lacks filled up
(deepseek-ai/FlashMLA, sparse prefill)."""

EXCHANGE_CORES = 24.0
"""Multiprocessors of DeepEP's normal kernels (their default)."""

SCAN_CHUNK = 64.0
"""Tokens of a sequence that a recurrent mixer's kernels take at a time, one after the other."""

SCAN_STEP = 1.7e-6
"""Time of one such chunk, however many heads run beside it [s] ..."""

SCAN_PASSES = 10.0
"""... and its passes over the state in 32 bits.  Both from the gated delta net of Qwen3.5 on H200
and B200 with 4 to 64 heads (aiconfigurator-core 0.12.0, sglang 0.5.14, Apache-2.0)."""


@dataclass(frozen=True)
class Step:
    """One iteration on one attention rank; arrays of shape ``(n,)``."""

    prefills: Array
    """Sequences with prompt tokens in this iteration."""
    chunk: Array
    """Prompt tokens of each."""
    cached: Array
    """Tokens of each in the cache before them."""
    decodes: Array
    """Sequences that generate."""
    context: Array
    """Tokens of each in the cache."""
    verified: Array
    """Tokens of each that the step checks: 1, or 1 and the drafts."""

    @property
    def tokens(self) -> Array:
        """Tokens of the iteration."""
        return self.prefills * self.chunk + self.decodes * self.verified

    @property
    def rows(self) -> Array:
        """Tokens whose logits are needed."""
        return self.prefills + self.decodes * self.verified


@dataclass(frozen=True)
class Split:
    """How a stage's devices share a layer: tp x attention_dp = ep x moe_tp; arrays ``(n,)``."""

    tp: Array
    attention_dp: Array
    ep: Array
    moe_tp: Array


@dataclass(frozen=True)
class Runtime:
    """All that the layers of one search share."""

    device: Accelerator
    net: Network
    hidden: int
    widths: Widths
    engine: Engine
    imbalance: float = 1.0
    """Rows of the busiest expert-parallel rank over the mean; multiplies ``skew``."""
    skew: RankSkew | None = None
    """The same by the number of ranks, where loads are known."""
    fused: bool = True
    """Whether the kernel before a product quantises its operand."""

    @property
    def matrix(self) -> tuple[str, float]:
        """Datatype of the matrix products, and bytes of an element of the weights.

        A device without units for the activations' datatype multiplies in 16 bits.
        """
        dtype = self.widths.activations
        known = PEAKS.get(dtype, dtype) in self.device.peak
        return dtype if known else "bf16", OPERAND_BYTES[self.widths.weights]

    def gemm(self, name: str, m: Seconds, n: Seconds, k: Seconds, *, plain: bool = False) -> Cost:
        """Y[m,n] = X[m,k] W[k,n]; ``plain`` products stay in 16 bits."""
        dtype, stored = ("bf16", 2.0) if plain else self.matrix
        kernel = kernels.parameters(self.device, "gemm", dtype, _library(self, "gemm", dtype))
        if self.fused and dtype in FUSED_QUANTISATION:
            bare = kernels.parameters(self.device, "gemm", "bf16", _library(self, "gemm", "bf16"))
            kernel = replace(kernel, launch=min(kernel.launch, bare.launch), quantise=0.0)
        seconds = kernels.gemm_time(kernel, self.device, dtype, m, n, k, stored)
        return leaf(name, np.where(np.asarray(m) > 0, seconds, 0.0), "compute")

    def moved(self, name: str, nbytes: Seconds, launches: float = 1.0) -> Cost:
        """Elementwise kernels that move ``nbytes`` [B]."""
        seconds = kernels.elementwise(self.device, nbytes, launches)
        return leaf(name, np.where(np.asarray(nbytes) > 0, seconds, 0.0), "memory")

    def all_reduce(self, name: str, size: Array, nbytes: Seconds) -> Cost:
        """Sum over ``size`` neighbours: the engine's own kernel inside a fast domain."""
        seconds = collectives.all_reduce(self.net, size, 1, nbytes)
        tier, sets = self.net.tiers[0], self.device.kernels.get("all_reduce", {})
        if sets and "all_reduce" in tier.collectives and tier.topology == "switch":
            library = sets.get(self.engine.library or "", next(iter(sets.values())))
            kernel = cast(OneKernelSet, next(iter(library.values())))
            own = lines.one_kernel(kernel, tier.collectives["all_reduce"], size, nbytes)
            seconds = np.where(size <= tier.devices, np.minimum(own, seconds), seconds)
        return leaf(name, seconds, "link")


def _library(run: Runtime, family: str, dtype: str) -> str | None:
    """The engine's library if the device has its kernels in this datatype, else any."""
    sets = run.device.kernels.get(family, {}).get(run.engine.library or "", {})
    return run.engine.library if dtype in sets else None


def _family(run: Runtime, name: str, plain: str) -> str:
    """The kernel family, or the one that stands in for it on a device without."""
    return name if name in run.device.kernels else plain


def layer_cost(run: Runtime, layer: Layer, split: Split, step: Step) -> Cost:
    """Time of one layer for one iteration on one device [s]."""
    return layer_costs(run, [layer], split, step)[layer]


def layer_costs(
    run: Runtime, layers: Iterable[Layer], split: Split, step: Step
) -> dict[Layer, Cost]:
    """Time of one layer of every kind [s]; parts that kinds have in common are evaluated once."""
    mixers: dict[Attention, Cost] = {}
    parts: dict[tuple[FeedForward, bool], Cost] = {}
    found = {}
    for layer in layers:
        mixer, part = layer.attention, layer.feedforward
        own = replace(run, fused=False) if getattr(mixer, "qk_norm", False) else run
        if mixer not in mixers:
            mixers[mixer] = mixer_cost(own, mixer, split, step)
        both = [mixers[mixer]]
        if part is not None:
            if (part, own.fused) not in parts:
                parts[part, own.fused] = feedforward_cost(own, part, split, step.tokens)
            both.append(parts[part, own.fused])
        found[layer] = seq("layer", both)
    return found


def feedforward_cost(run: Runtime, spec: FeedForward, split: Split, tokens: Array) -> Cost:
    """Time of a feed-forward part, norm and exchange included [s]."""
    if isinstance(spec, MixtureOfExperts):
        return experts_cost(run, spec, split, tokens)
    return dense_cost(run, spec, split, tokens)


def mixer_cost(run: Runtime, spec: Attention, split: Split, step: Step) -> Cost:
    """Time of a token mixer, norm and all-reduce included [s]."""
    tokens, hidden = step.tokens, run.hidden
    if isinstance(spec, LinearAttention):
        products = _linear(run, spec, split, step)
    elif isinstance(spec, LatentAttention):
        products = _latent(run, spec, split, step)
    else:
        products = _grouped(run, spec, split, step)
    norm = run.moved("norm and rotary", 8.0 * tokens * hidden, 2.0)
    reduce = run.all_reduce("all-reduce (TP)", split.tp, 2.0 * tokens * hidden)
    return seq("attention", [norm, *products, reduce])


def _grouped(run: Runtime, spec: GroupedQueryAttention, split: Split, step: Step) -> list[Cost]:
    tokens, hidden = step.tokens, run.hidden
    heads, kv_heads = spec.heads / split.tp, np.maximum(spec.kv_heads / split.tp, 1.0)
    value_dim = spec.value_dim or spec.head_dim
    columns = heads * spec.head_dim * (2.0 if spec.output_gate else 1.0)
    columns = columns + kv_heads * (spec.head_dim + value_dim)
    seen = np.inf if spec.indexer is None else float(spec.indexer.top_k)
    core = _core(run, step, heads, kv_heads, spec.head_dim, value_dim, spec.window, seen)
    return [
        run.gemm("QKV projection", tokens, columns, hidden),
        *_indexer(run, spec.indexer, spec.query_rank, step),
        *core,
        run.gemm("output projection", tokens, hidden, heads * value_dim),
    ]


def _core(
    run: Runtime,
    step: Step,
    heads: Array,
    kv_heads: Array,
    key_dim: int,
    value_dim: int,
    window: int | None,
    seen: float,
) -> list[Cost]:
    """Softmax attention of the iteration's prompts and of its decoding sequences."""
    device, cache = run.device, _cache(run.widths.kv)
    prefill = kernels.prefill_attention(
        device,
        "bf16",
        np.maximum(step.prefills, 1e-9),
        np.maximum(step.chunk, 1.0),
        heads,
        kv_heads,
        key_dim,
        value_dim,
        cached=np.minimum(step.cached, seen),
        window=window or np.inf,
        kv_bytes=OPERAND_BYTES[cache],
        library=_library(run, "attention_prefill", "bf16"),
    )
    shape = Decode.of(
        np.maximum(step.decodes, 1e-9),
        np.minimum(step.context, seen),
        heads * step.verified,
        kv_heads,
        key_dim,
        value_dim,
        OPERAND_BYTES[cache],
        float(window or 0),
    )
    decode = kernels.decode_attention(
        device, cache, shape, _library(run, "attention_decode", cache)
    )
    return [
        leaf("attention of prompts", np.where(step.prefills > 0, prefill, 0.0), "compute"),
        leaf("attention of decoding", np.where(step.decodes > 0, decode, 0.0), "memory"),
    ]


def _cache(kv: str) -> str:
    """The datatype whose decode kernels read a cache of ``kv``."""
    return "fp8" if OPERAND_BYTES[kv] < 2.0 else "bf16"


def _indexer(
    run: Runtime, spec: SparseIndexer | None, query_rank: int | None, step: Step
) -> list[Cost]:
    """Scores of all keys for every token, and the best of them; every rank has all its heads."""
    if spec is None or spec.shared:
        return []
    tokens, columns = step.tokens, float(spec.heads * spec.head_dim)
    prompts = step.prefills * step.chunk * (step.cached + 0.5 * step.chunk)
    scores = prompts + step.decodes * step.verified * step.context
    read = step.prefills * (step.cached + step.chunk) + step.decodes * step.context
    dtype = "fp8" if "fp8" in run.device.peak else "bf16"
    kernel = kernels.parameters(run.device, "gemm", "bf16", _library(run, "gemm", "bf16"))
    nbytes = OPERAND_BYTES[dtype] * spec.head_dim * read + 4.0 * scores
    logits = kernels.roofline(run.device, kernel, dtype, 2.0 * columns * scores, nbytes)
    return [
        run.gemm("indexer queries", tokens, columns, float(query_rank or run.hidden)),
        run.gemm("indexer keys", tokens, float(spec.head_dim + spec.heads), run.hidden),
        run.moved("indexer norm, rotary, cast", 6.0 * tokens * (columns + spec.head_dim), 6.0),
        leaf("indexer scores", np.where(tokens > 0, logits, 0.0), "compute"),
        run.moved("indexer top-k", 8.0 * scores, 2.0),
    ]


def _latent(run: Runtime, spec: LatentAttention, split: Split, step: Step) -> list[Cost]:
    """Latent attention: expanded for prompts, absorbed into the latent for decoding."""
    hidden, heads = run.hidden, spec.heads / split.tp
    tokens, device, cache = step.tokens, run.device, _cache(run.widths.kv)
    prompts, decoding = step.prefills * step.chunk, step.decodes * step.verified
    held = step.prefills * (step.cached + step.chunk)
    key_dim, rank = spec.nope_dim + spec.rope_dim, spec.kv_rank
    down = run.gemm(
        "latent down-projection",
        tokens,
        float((spec.query_rank or 0) + rank + spec.rope_dim),
        hidden,
    )
    query = run.gemm(
        "query up-projection", tokens, heads * key_dim, float(spec.query_rank or hidden)
    )
    expand = run.gemm(
        "key-value up-projection", held, heads * (spec.nope_dim + spec.value_dim), rank
    )
    family = _family(run, "mla_prefill", "attention_prefill")
    libraries: list[str | None]
    libraries = [name for name, sets in device.kernels[family].items() if "bf16" in sets]
    found = [
        kernels.prefill_attention(
            device,
            "bf16",
            np.maximum(step.prefills, 1e-9),
            np.maximum(step.chunk, 1.0),
            heads,
            heads,
            key_dim,
            spec.value_dim,
            cached=step.cached,
            kv_bytes=OPERAND_BYTES[cache],
            library=name,
            family=family,
        )
        for name in libraries or [None]
    ]
    prefill = np.min(np.broadcast_arrays(*found), axis=0)  # engines share these kernels
    expanded, seen = np.asarray(expand.seconds), step.context
    if spec.indexer is not None:
        sparse = step.cached + step.chunk > spec.indexer.top_k
        expanded = np.where(sparse, 0.0, expanded)
        prefill = np.where(sparse, _sparse_prompts(run, spec, heads, step), prefill)
        seen = np.minimum(seen, spec.indexer.top_k)
    shape = Decode.of(
        np.maximum(step.decodes, 1e-9),
        seen,
        heads * step.verified,
        1.0,
        rank + spec.rope_dim,
        rank,
        OPERAND_BYTES[cache],
    )
    latent = "mla_decode" in device.kernels
    decode = kernels.decode_attention(
        device, cache, shape, _library(run, "mla_decode", cache), latent
    )
    kernel = kernels.parameters(device, "gemm", "bf16")
    folded = heads * rank * (spec.nope_dim + spec.value_dim)
    absorb = kernels.roofline(device, kernel, "bf16", 2.0 * decoding * folded, 2.0 * folded)
    return [
        down,
        query,
        *_indexer(run, spec.indexer, spec.query_rank, step),
        leaf("absorbed projections", np.where(decoding > 0, absorb, 0.0), "compute"),
        leaf("key-value up-projection", expanded, "compute"),
        leaf("attention of prompts", np.where(prompts > 0, prefill, 0.0), "compute"),
        leaf("attention of decoding", np.where(decoding > 0, decode, 0.0), "memory"),
        run.gemm("output projection", tokens, hidden, heads * spec.value_dim),
    ]


def _sparse_prompts(run: Runtime, spec: LatentAttention, heads: Array, step: Step) -> Array:
    """Latent attention of prompts to the keys that the indexer chose, absorbed as in decoding."""
    assert spec.indexer is not None
    family = "attention_prefill"
    kernel = kernels.parameters(run.device, family, "bf16", _library(run, family, "bf16"))
    wide, tokens = 2.0 * spec.kv_rank + spec.rope_dim, step.prefills * step.chunk
    seen = np.minimum(step.cached + 0.5 * step.chunk, spec.indexer.top_k)
    core = 2.0 * tokens * seen * np.maximum(heads, SPARSE_HEADS) * wide
    folded = 2.0 * tokens * heads * spec.kv_rank * (spec.nope_dim + spec.value_dim)
    nbytes = OPERAND_BYTES[_cache(run.widths.kv)] * tokens * (spec.kv_rank + spec.rope_dim)
    return np.asarray(kernels.roofline(run.device, kernel, "bf16", core + folded, nbytes))


def _linear(run: Runtime, spec: LinearAttention, split: Split, step: Step) -> list[Cost]:
    """A recurrent mixer: the state is read and written for every chunk of a sequence."""
    tokens, device = step.tokens, run.device
    columns, rows = spec.input_columns / split.tp, spec.output_rows / split.tp
    kernel = kernels.parameters(device, "attention_prefill", "bf16")
    chunks = step.chunk / SCAN_CHUNK
    passes = SCAN_PASSES * step.prefills * np.maximum(chunks, 1.0) + 2.0 * step.decodes
    state = 4.0 * spec.state_elements / split.tp * passes
    nbytes = 2.0 * tokens * (columns + rows) + state
    flops = tokens * spec.recurrence_flops / split.tp
    scan = kernels.roofline(device, kernel, "bf16", flops, nbytes)
    scan = scan + np.where(step.prefills > 0, SCAN_STEP * chunks, 0.0)
    return [
        run.gemm("input projection", tokens, columns, run.hidden),
        leaf(f"{spec.name} scan", scan, "memory"),
        run.gemm("output projection", tokens, run.hidden, rows),
    ]


def dense_cost(run: Runtime, spec: DenseFeedForward, split: Split, tokens: Array) -> Cost:
    """Time of a dense feed-forward part, norm and all-reduce included [s]."""
    hidden = run.hidden
    return seq(
        "feed-forward",
        [
            run.moved("norm", 8.0 * tokens * hidden),
            *two_products(run, spec, split.tp, tokens, "projection"),
            run.all_reduce("all-reduce (TP)", split.tp, 2.0 * tokens * hidden),
        ],
    )


def two_products(
    run: Runtime, spec: DenseFeedForward, ways: Array, tokens: Array, name: str
) -> list[Cost]:
    width = spec.width / ways
    columns = (2.0 if spec.gated else 1.0) * width
    return [
        run.gemm(f"up {name}", tokens, columns, run.hidden),
        run.moved("activation", 2.0 * tokens * (columns + width)),
        run.gemm(f"down {name}", tokens, run.hidden, width),
    ]


def experts_cost(run: Runtime, spec: MixtureOfExperts, split: Split, tokens: Array) -> Cost:
    """Time of a mixture of experts, norm, routing and exchange included [s].

    ``tokens`` are those of one attention rank; ``attention_dp`` of them share the experts.
    """
    hidden, inside = run.hidden, spec.expert_hidden(run.hidden)
    everything = tokens * split.attention_dp
    copies = everything * spec.top_k
    local = spec.experts / split.ep
    skew = over_mean(run.imbalance, run.skew, split.ep)
    rows = np.minimum(copies / split.ep * skew, everything * np.minimum(local, spec.top_k))
    used = distinct_experts(spec.experts, spec.top_k, everything, ranks=split.ep)
    dtype, sets = experts_sets(run)
    stored = OPERAND_BYTES[run.widths.weights]
    active, rows = used, np.maximum(rows, used)
    shape = (rows, active, local, inside, spec.width / split.moe_tp, 3 if spec.gated else 2)
    dispatch, combine, direct = exchange_seconds(run, spec, split, tokens)
    spread = split.attention_dp > 1
    passed = np.where(spread & direct, rows, copies)  # what is sent here holds no others' rows
    found = [
        kernels.experts_time(kernel, run.device, dtype, *shape, passed, weight_bytes=stored)
        for kernel in sets
    ]
    seconds = np.min(np.broadcast_arrays(*found), axis=0)
    devices = split.tp * split.attention_dp
    reduce = run.all_reduce("", devices, 2.0 * tokens * hidden).seconds
    parts = [
        run.moved("norm", 8.0 * tokens * hidden),
        run.gemm("router", tokens, float(spec.experts), hidden, plain=True),
        run.moved("top-k", 8.0 * tokens * spec.experts, 2.0),
        leaf("dispatch tokens", np.where(spread, dispatch, 0.0), "link"),
        leaf("experts", np.where(tokens > 0, seconds, 0.0), "compute"),
        leaf("combine tokens", np.where(spread, combine, reduce), "link"),
    ]
    always = spec.shared_width + spec.dense_width
    if always:
        shared = DenseFeedForward(always, spec.gated)
        parts += two_products(run, shared, split.tp, tokens, "shared projection")
    return seq("experts", parts)


def exchange_seconds(
    run: Runtime, spec: MixtureOfExperts, split: Split, tokens: Array
) -> tuple[Seconds, Seconds, NDArray[np.bool_]]:
    """Time to bring the tokens of all attention ranks to their experts, and back [s].

    Also returned is where every token goes to its experts alone.
    Every rank gathers all tokens and the results are reduced, or each token is sent to the ranks of
    its experts in 8 bits and comes back in 16, by NCCL or by one of DeepEP's kernels: whichever is
    fastest.
    """
    devices, hidden = split.tp * split.attention_dp, spec.expert_hidden(run.hidden)
    everything = 2.0 * tokens * split.attention_dp * hidden
    gather = collectives.all_gather(run.net, devices, 1, everything)
    scatter = collectives.reduce_scatter(run.net, devices, 1, everything)
    copies = tokens / split.tp * spec.top_k * hidden
    there = collectives.all_to_all(run.net, split.ep, split.moe_tp, copies)
    back = collectives.all_to_all(run.net, split.ep, split.moe_tp, 2.0 * copies)
    if "dispatch_low_latency" in run.device.kernels:
        there, back = (
            np.minimum(own, _deepep(run, phase, spec, split, tokens))
            for phase, own in (("dispatch", there), ("combine", back))
        )
    whole = (split.ep > 1) & (split.moe_tp == 1)  # an expert's parts would have to be added up
    direct = whole & (there + back < gather + scatter)
    return np.where(direct, there, gather), np.where(direct, back, scatter), direct


def _deepep(
    run: Runtime, phase: str, spec: MixtureOfExperts, split: Split, tokens: Array
) -> Seconds:
    """One phase of DeepEP's faster exchange; it serves experts over whole nodes [s].

    The low-latency kernels send every copy to its expert, the normal ones each token once to a
    node, for which they take multiprocessors and learn the counts first.
    """
    own = run.device.kernels
    node, fabric = run.net.tiers[0], run.net.tiers[-1]
    nodes = np.maximum(split.ep / deepep.LOCAL, 1.0)
    hidden, each = spec.expert_hidden(run.hidden), tokens / split.tp
    rates = (node.bandwidth, fabric.bandwidth)
    quick = next(iter(next(iter(own[f"{phase}_low_latency"].values())).values()))
    seconds = deepep.low_latency(
        *(cast(LowLatencySet, quick), phase, nodes, each, hidden, spec.top_k, spec.experts),
        *(*rates, run.device.cores),
    )
    if f"{phase}_normal" in own:
        wide = next(iter(next(iter(own[f"{phase}_normal"].values())).values()))
        normal = deepep.normal(
            *(cast(NormalSet, wide), phase, nodes, each, hidden, spec.top_k, spec.experts),
            *(EXCHANGE_CORES, *rates),
        )
        first = deepep.notice(nodes) if phase == "dispatch" else 0.0
        seconds = np.minimum(seconds, normal + first)
    return np.where(split.ep >= deepep.LOCAL, seconds, np.inf)


def experts_sets(run: Runtime) -> tuple[str, list[ExpertSet]]:
    """Datatype of the rows, and the expert kernels that engines choose from: all of the device.

    Weights narrower than the activations have kernels of their own, named for the weights; where
    matrix units take mxfp4, they take its rows in mxfp8.
    """
    dtype, weights = run.matrix[0], run.widths.weights
    libraries = run.device.kernels.get("experts", {})
    for name in (weights, dtype):
        found = [sets[name] for lib, sets in libraries.items() if name in sets and lib != "pytorch"]
        if found:
            scaled = name == "mxfp4" and "fp4" in run.device.peak
            return "mxfp8" if scaled else dtype, cast(list[ExpertSet], found)
    return dtype, [kernels.parameters(run.device, "experts", dtype)]


def head_cost(run: Runtime, vocab: int, split: Split, rows: Array) -> Cost:
    """Logits and sampling of ``rows`` tokens [s]."""
    columns = vocab / split.tp
    return seq(
        "logits and sampling",
        [
            run.gemm("vocabulary projection", rows, columns, run.hidden, plain=True),
            run.moved("sampling", 12.0 * rows * columns, 3.0),
            leaf(
                "all-gather (TP)",
                collectives.all_gather(run.net, split.tp, 1, 2.0 * rows * vocab),
                "link",
            ),
        ],
    )
