"""What one layer costs in one iteration of an inference engine: any mix of prefill and decode.

An iteration holds ``prefills`` chunks of prompts and one step of ``decodes`` sequences.
Projections and experts see all their tokens together, the attention core each kind apart.
"""

from __future__ import annotations

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
from planner.specs.kernel_sets import ExpertSet, LowLatencySet, OneKernelSet
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    MixtureOfExperts,
)

Array = NDArray[np.float64]

PEAKS = {"mxfp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
"""Matrix units of a datatype where the name is another."""

FUSED_QUANTISATION = ("fp8", "int8", "nvfp4")
"""Datatypes whose activations an engine quantises in the kernel before, where the measured tables
time a kernel of its own."""


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
    """Rows of the busiest expert-parallel rank over the mean."""

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
        if dtype in FUSED_QUANTISATION:
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
    parts = [mixer_cost(run, layer, split, step)]
    if isinstance(layer.feedforward, MixtureOfExperts):
        parts.append(experts_cost(run, layer.feedforward, split, step.tokens))
    elif layer.feedforward is not None:
        parts.append(dense_cost(run, layer.feedforward, split, step.tokens))
    return seq("layer", parts)


def mixer_cost(run: Runtime, layer: Layer, split: Split, step: Step) -> Cost:
    """Time of a layer's token mixer, norm and all-reduce included [s]."""
    spec, tokens, hidden = layer.attention, step.tokens, run.hidden
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


def _latent(run: Runtime, spec: LatentAttention, split: Split, step: Step) -> list[Cost]:
    """Latent attention: expanded for prompts, absorbed into the latent for decoding."""
    hidden, heads = run.hidden, spec.heads / split.tp
    tokens, device, cache = step.tokens, run.device, _cache(run.widths.kv)
    prompts, decoding = step.prefills * step.chunk, step.decodes * step.verified
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
        "key-value up-projection", prompts, heads * (spec.nope_dim + spec.value_dim), rank
    )
    family = _family(run, "mla_prefill", "attention_prefill")
    prefill = kernels.prefill_attention(
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
        library=_library(run, family, "bf16"),
        family=family,
    )
    seen = step.context
    if spec.indexer is not None:
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
        leaf("absorbed projections", np.where(decoding > 0, absorb, 0.0), "compute"),
        expand,
        leaf("attention of prompts", np.where(prompts > 0, prefill, 0.0), "compute"),
        leaf("attention of decoding", np.where(decoding > 0, decode, 0.0), "memory"),
        run.gemm("output projection", tokens, hidden, heads * spec.value_dim),
    ]


def _linear(run: Runtime, spec: LinearAttention, split: Split, step: Step) -> list[Cost]:
    """A recurrent mixer: the state of every sequence is read and written once."""
    tokens, device = step.tokens, run.device
    columns, rows = spec.input_columns / split.tp, spec.output_rows / split.tp
    kernel = kernels.parameters(device, "attention_prefill", "bf16")
    state = 2.0 * 4.0 * spec.state_elements / split.tp * (step.prefills + step.decodes)
    nbytes = 2.0 * tokens * (columns + rows) + state
    flops = tokens * spec.recurrence_flops / split.tp
    scan = kernels.roofline(device, kernel, "bf16", flops, nbytes)
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
            *_two_products(run, spec, split.tp, tokens, "projection"),
            run.all_reduce("all-reduce (TP)", split.tp, 2.0 * tokens * hidden),
        ],
    )


def _two_products(
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
    skew = np.where(split.ep > 1, run.imbalance, 1.0)
    rows = np.minimum(copies / split.ep * skew, everything * np.minimum(local, spec.top_k))
    used = distinct_experts(spec.experts, spec.top_k, everything) / split.ep
    dtype, stored = run.matrix
    active = np.minimum(used, np.maximum(rows, 1e-9))
    shape = (rows, active, local, inside, spec.width / split.moe_tp, 3 if spec.gated else 2)
    found = [
        kernels.experts_time(kernel, run.device, dtype, *shape, copies, weight_bytes=stored)
        for kernel in _experts_sets(run, dtype)
    ]
    seconds = np.min(np.broadcast_arrays(*found), axis=0)
    spread = split.attention_dp > 1
    devices = split.tp * split.attention_dp
    dispatch, combine = exchange_seconds(run, spec, split, tokens)
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
        parts += _two_products(run, shared, split.tp, tokens, "shared projection")
    return seq("experts", parts)


def exchange_seconds(
    run: Runtime, spec: MixtureOfExperts, split: Split, tokens: Array
) -> tuple[Seconds, Seconds]:
    """Time to bring the tokens of all attention ranks to their experts, and back [s].

    Every rank gathers all tokens and the results are reduced, or each token is sent to the ranks of
    its experts in 8 bits and comes back in 16, by NCCL or by DeepEP's low-latency kernels:
    whichever is fastest.
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
            np.minimum(own, _low_latency(run, phase, spec, split, tokens))
            for phase, own in (("dispatch", there), ("combine", back))
        )
    whole = (split.ep > 1) & (split.moe_tp == 1)  # an expert's parts would have to be added up
    direct = whole & (there + back < gather + scatter)
    return np.where(direct, there, gather), np.where(direct, back, scatter)


def _low_latency(
    run: Runtime, phase: str, spec: MixtureOfExperts, split: Split, tokens: Array
) -> Seconds:
    """One phase of DeepEP's low-latency exchange; it serves experts over whole nodes [s]."""
    sets = next(iter(run.device.kernels[f"{phase}_low_latency"].values()))
    node, fabric = run.net.tiers[0], run.net.tiers[-1]
    nodes = split.ep / deepep.LOCAL
    seconds = deepep.low_latency(
        cast(LowLatencySet, next(iter(sets.values()))),
        phase,
        np.maximum(nodes, 1.0),
        tokens / split.tp,
        spec.expert_hidden(run.hidden),
        spec.top_k,
        spec.experts,
        node.bandwidth,
        fabric.bandwidth,
        run.device.cores,
    )
    return np.where(nodes >= 1.0, seconds, np.inf)


def _experts_sets(run: Runtime, dtype: str) -> list[ExpertSet]:
    """The expert kernels that engines choose from: all that the device has in the datatype."""
    libraries = run.device.kernels.get("experts", {})
    found = [sets[dtype] for name, sets in libraries.items() if dtype in sets and name != "pytorch"]
    return cast(list[ExpertSet], found or [kernels.parameters(run.device, "experts", dtype)])


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
