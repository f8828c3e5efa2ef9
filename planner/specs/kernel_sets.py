"""Parameter sets of kernels: what a calibration fits and a hardware file holds.

One set belongs to a device, a kernel family, a library and a datatype.  The closed forms that use
them are in ``planner.costs.kernels``; fractions are of the datasheet's peak and bandwidth, so a set
carries over to a relative of the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

ASSUMED = "assumed"

DATATYPES = (
    "fp32", "bf16", "fp16", "fp8", "fp8_block", "int8", "mxfp8", "nvfp4", "mxfp4", "int4",
)  # fmt: skip
"""What a set may be named for; ``planner.costs.kernels.rates`` has the size of each."""


def parameter(
    kind: str, low: float, high: float, default: Any = None, *, fitted: bool = True
) -> Any:
    """A number, fitted or known of a library: its dimension in files and its physical range."""
    about = {"kind": kind, "low": low, "high": high, "fitted": fitted}
    return field(metadata=about) if default is None else field(default=default, metadata=about)


def choice(*words: str) -> Any:
    """A property of the library's kernel, one of a few words."""
    return field(default=words[0], metadata={"kind": words})


def part(kind: type, *, optional: bool = False) -> Any:
    """A set within a set."""
    about = {"set": kind}
    return field(default=None, metadata=about) if optional else field(metadata=about)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Where a set comes from and how well it holds."""

    source: str = ASSUMED
    version: str = ""
    """Version of the library that was measured."""
    rows: int = 0
    """Measurements that it was fitted to."""
    error: float | None = None
    """Mean absolute percentage error on rows that were not fitted, as a fraction."""
    median: float | None = None
    bias: float | None = None
    """Geometric mean of predicted over measured on those rows."""
    range: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest value of every part of the shapes."""


@dataclass(frozen=True, kw_only=True)
class KernelSet:
    """A parameter set with its provenance."""

    fit: Fit = Fit()

    @property
    def source(self) -> str:
        return self.fit.source


def parameters_of(kind: type) -> tuple[Field[Any], ...]:
    """The fields of a set that a file may hold, without its provenance."""
    return tuple(f for f in fields(kind) if f.metadata)


@dataclass(frozen=True, kw_only=True)
class GemmSet(KernelSet):
    """Matrix products: a menu of tiles and splits, see ``planner.costs.kernels.matrix``."""

    launch: float = parameter("time", 3e-7, 3e-5)
    """Start of the kernels; where the library quantises, its other kernels' starts as well."""
    compute: float = parameter("number", 0.2, 1.0)
    """Rate of a full tile's main loop over the datatype's dense peak, before ``heat``."""
    memory: float = parameter("number", 0.3, 1.0)
    """Part of the memory bandwidth that operands and result reach."""
    cache: float = parameter("number", 0.5, 60.0)
    """Bandwidth from cache to all cores together, in multiples of the memory bandwidth."""
    tile: float = parameter("time", 1e-8, 1e-5)
    """Start and store of a 256 x 128 tile that nothing hides; smaller in proportion to the area."""
    small_tile: float = parameter("number", 1e-3, 1.0)
    """A tile of a part a of 256 x 128 computes at the rate a^small_tile."""
    split: float = parameter("time", 1e-7, 1e-4)
    """Meeting of the parts of a split k, beside the traffic of their sums."""
    wave: float = parameter("number", 1e-3, 1.0)
    """Part of the last, incomplete round of tiles that is paid: 0 none, 1 the whole round."""
    heat: float = parameter("number", 1e-3, 1.0)
    """Slowdown of the main loop in kernels that run for milliseconds."""
    quantise: float = parameter("number", 1e-2, 40.0, default=0.0)
    """Traffic of quantising the left operand first [B for each of its elements]."""


@dataclass(frozen=True, kw_only=True)
class SharedCacheSet:
    """Decode kernels that read a KV head once for all its query heads."""

    launch: float = parameter("time", 5e-7, 5e-5)
    """Kernels around the items: launch, position embedding, cache update."""
    memory: float = parameter("number", 0.02, 1.0)
    """Part of the memory bandwidth that a long cache is read with."""
    smoothness: float = parameter("number", 0.7, 12.0)
    """Exponent of the smooth maximum of the items' time and the memory's."""
    item: float = parameter("time", 1e-8, 3e-5)
    """Fixed cost of a work item."""
    slots: float = parameter("number", 0.25, 16.0)
    """Work items without query elements that a core runs together."""
    cached: float = parameter("number", 0.01, 1.0, default=0.0)
    """Part of the L2 cache that holds keys and values from call to call.  The tables repeat one
    call on one cache; in serving other kernels run between, and nothing stays."""
    merge: float = parameter("time", 1e-8, 2e-5, default=0.0)
    """Cost of merging splits, times the root of those beyond the first."""
    crowd: float = parameter("number", 100.0, 1e9, default=1e9)
    """Query elements (rows x key width) that double an item's use of a core."""
    stream: float = parameter("number", 0.02, 1e3, default=1e3)
    """Rate at which the cores can read tokens, over the memory bandwidth."""
    compute: float = parameter("number", 0.01, 1.0, default=1.0)
    """Part of the peak at which padded query rows are multiplied."""
    sequence: float = parameter("time", 1e-10, 2e-7, default=0.0)
    """Scheduling cost of a sequence, for the first 992."""
    plan: str = choice("fill", "xqa", "flash2", "flash3", "whole", "latent", "latent_whole")
    """How the library makes work items, see ``planner.costs.kernels.decode``."""


@dataclass(frozen=True, kw_only=True)
class OwnCacheSet:
    """Decode kernels with a work item for every query head."""

    launch: float = parameter("time", 5e-7, 5e-5)
    memory: float = parameter("number", 0.02, 1.0)
    smoothness: float = parameter("number", 0.7, 12.0)
    item: float = parameter("time", 1e-8, 3e-5)
    """Fixed cost of a wave of thread blocks."""
    merge: float = parameter("time", 1e-8, 2e-5)
    """Cost of a launch with more than one block a head."""
    cached: float = parameter("number", 0.01, 1.0, default=0.0)
    stream: float = parameter("number", 0.02, 50.0)
    """Rate at which all resident threads read tokens, over the memory bandwidth (from L2 too)."""


@dataclass(frozen=True, kw_only=True)
class DecodeSet(KernelSet):
    """Attention of one new token, see ``planner.costs.kernels.decode``; the second is optional."""

    shared: SharedCacheSet = part(SharedCacheSet)
    own: OwnCacheSet | None = part(OwnCacheSet, optional=True)
    least_group: float = parameter("number", 1.0, 64.0, default=2.0, fitted=False)
    """Fewest query heads a KV head for which a library with both takes the shared kernel."""
    cores_to_fill: float = parameter("number", 0.0, 1.0, default=1.0, fitted=False)
    """Part of the cores that its items must fill."""


@dataclass(frozen=True, kw_only=True)
class MemorySet(KernelSet):
    """Elementwise kernels, norms, routing and copies: launch and bandwidth."""

    launch: float = parameter("time", 3e-7, 3e-5)
    memory: float = parameter("number", 0.1, 1.1)


@dataclass(frozen=True, kw_only=True)
class PrefillSet(KernelSet):
    """Attention of many query tokens, see ``planner.costs.kernels.prefill``."""

    launch: float = parameter("time", 5e-7, 5e-5)
    compute: float = parameter("number", 0.05, 1.2)
    """Part of the peak that tiles of 128 queries and heads of 128 reach."""
    memory: float = parameter("number", 0.1, 1.2)
    balance: float = parameter("number", 0.5, 30.0)
    """Exponent of the smooth maximum of the mean core's work and the longest tile's."""
    tile: float = parameter("time", 1e-9, 5e-5)
    """Start and store of a tile."""
    narrow: float = parameter("number", 1e-3, 3.0)
    """Heads of width d below 128 compute at (d / 128)^narrow of the rate."""
    wide: float = parameter("number", 1e-3, 3.0)
    """Heads of width d above 128 compute at (128 / d)^wide of the rate."""
    smoothness: float = parameter("number", 0.4, 20.0)
    """Exponent of the smooth maximum of computing and memory time."""
    edge: float = parameter("number", 16.0, 4000.0)
    """Keys that a tile reads beyond a sliding window."""
    small_tile: float = parameter("number", 1e-3, 1.0)
    """A tile of a part a of 128 queries computes at the rate a^small_tile."""
    packs: str = choice("no", "yes")
    """Whether the query heads of a KV head share a tile."""


@dataclass(frozen=True, kw_only=True)
class ExpertSet(KernelSet):
    """Grouped products of experts, see ``planner.costs.kernels.grouped``."""

    launch: float = parameter("time", 1e-6, 3e-4)
    """Chain of kernels around the products."""
    compute: float = parameter("number", 0.05, 1.3)
    memory: float = parameter("number", 0.1, 1.2)
    cache: float = parameter("number", 0.1, 40.0)
    """Bandwidth from cache to all cores together, in multiples of the memory bandwidth."""
    tile: float = parameter("time", 1e-9, 1e-4)
    """Start and store of a tile."""
    small_tile: float = parameter("number", 1e-3, 1.5)
    """A tile of a part a of 128 rows computes at the rate a^small_tile."""
    smoothness: float = parameter("number", 0.3, 20.0)
    expert: float = parameter("time", 1e-9, 5e-5)
    """Cost of 16 local experts, used or not."""
    moved: float = parameter("number", 1e-3, 30.0)
    """Passes over the local rows in 16 and 32 bits, beyond the products' own operands."""
    passed: float = parameter("number", 1e-3, 20.0)
    """Passes over the rows of all ranks, which some libraries make on every rank."""


@dataclass(frozen=True, kw_only=True)
class CollectiveSet(KernelSet):
    """One collective inside one fast domain, see ``planner.costs.lines``."""

    base: float = parameter("time", 1e-6, 4e-5)
    """Launch and first hop."""
    step: float = parameter("time", 1e-8, 6e-6)
    """One further rank."""
    low_bandwidth: float = parameter("bytes/s", 5e8, 4e11)
    """Rate of the first kilobytes, on few channels."""
    low_step: float = parameter("time", 1e-8, 5e-7)
    """What leaving the smallest protocol costs a further rank ..."""
    switch: float = parameter("time", 1e-8, 2e-4)
    """... and costs once."""
    bandwidth: float = parameter("bytes/s", 2e9, 9e11)
    """Bus bandwidth of a filled pipeline."""
    own_copy: float = parameter("number", 0.01, 1.5)
    """Weight of the rank's own share against a byte sent."""
    fill: float = parameter("time", 1e-7, 1.2e-4)
    """Time to fill the pipeline of the bandwidth protocol."""
    nvls_switch: float = parameter("time", 1e-7, 4e-4, default=0.0)
    """Set-up of the reduction in the switch."""
    nvls_bandwidth: float = parameter("bytes/s", 2e9, 1.1e12, default=0.0)
    """Bus bandwidth of the reduction in the switch; 0 without."""


@dataclass(frozen=True, kw_only=True)
class OneKernelSet(KernelSet):
    """All-reduce of an inference library in one kernel, see ``planner.costs.lines.one_kernel``."""

    launch: float = parameter("time", 5e-7, 1e-5)
    step: float = parameter("time", 5e-9, 2e-6)
    """One further rank."""
    low_bandwidth: float = parameter("bytes/s", 1e9, 4e11)
    """Rate of the first kilobytes."""
    low_step: float = parameter("time", 1e-9, 2e-6)
    one_shot: float = parameter("bytes/s", 4e10, 6e11)
    """Rate at which a rank reads all buffers."""
    barrier: float = parameter("time", 1e-7, 6e-5)
    """Cost of the second phase."""
    two_shot: float = parameter("bytes/s", 4e10, 9e11)
    """Rate of reduce-scatter and all-gather."""
    limit: float = parameter("bytes", 5e5, 1e8)
    """Largest buffer of the own kernel."""
    host: float = parameter("time", 1e-7, 1e-4, default=0.0)
    """Time of the host without CUDA graphs."""
    copy: float = parameter("number", 0.3, 1.2, default=0.9)
    """Part of the memory bandwidth at which the result is copied without CUDA graphs."""


@dataclass(frozen=True, kw_only=True)
class LowLatencySet(KernelSet):
    """One phase of DeepEP's low-latency kernels, see ``planner.costs.deepep``."""

    launch: float = parameter("time", 3e-6, 4e-5)
    expert: float = parameter("time", 1e-11, 6e-8)
    """One more expert: its counters and flags."""
    token: float = parameter("time", 1e-8, 2e-5)
    """One token on one block: cast and post; as many blocks as experts or cores."""
    local: float = parameter("bytes/s", 1e11, 5e13)
    """Copies in device memory."""
    far: float = parameter("time", 1e-7, 4e-5)
    """First message to another node."""
    hop: float = parameter("time", 1e-9, 1e-5)
    """Each doubling of the nodes."""
    nic: float = parameter("number", 0.5, 1.0)
    """Part of the network bandwidth."""
    nvlink: float = parameter("number", 0.8, 0.8, default=0.8)
    """Part of the NVLink bandwidth; DeepEP's own figure, not fitted (160 of 200 GB/s)."""


@dataclass(frozen=True, kw_only=True)
class NormalSet(KernelSet):
    """One phase of DeepEP's normal kernels, see ``planner.costs.deepep``."""

    launch: float = parameter("time", 5e-6, 1e-4)
    far: float = parameter("time", 1e-7, 1e-4)
    """Start of a phase over several nodes, beyond ``launch``."""
    hop: float = parameter("time", 1e-8, 5e-5)
    """Each doubling of the nodes."""
    token: float = parameter("number", 1e-13, 1e-9)
    """Work of a core on a token [s a byte of it]."""
    message: float = parameter("time", 1e-9, 1e-6)
    """Work of a core on a copy."""
    sm_rate: float = parameter("bytes/s", 5e9, 2e11)
    """Copies to the ranks of a node, one core."""
    far_rate: float = parameter("bytes/s", 1e9, 2e11)
    """Copies across the network, one core."""
    nvlink: float = parameter("number", 0.3, 1.0)
    nic: float = parameter("number", 0.5, 1.0)


FAMILIES: dict[str, type[KernelSet]] = {
    "gemm": GemmSet,
    "attention_prefill": PrefillSet,
    "attention_decode": DecodeSet,
    "mla_prefill": PrefillSet,
    "mla_decode": DecodeSet,
    "experts": ExpertSet,
    "elementwise": MemorySet,
    "all_reduce": OneKernelSet,
    "dispatch_low_latency": LowLatencySet,
    "combine_low_latency": LowLatencySet,
    "dispatch_normal": NormalSet,
    "combine_normal": NormalSet,
}
"""Kernel families of a device and the kind of their sets."""
