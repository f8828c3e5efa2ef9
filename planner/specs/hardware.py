"""What the machines are: an accelerator, the tiers of network around it, what an hour costs.

All values are SI (FLOP/s, B, B/s, s), per device and per direction.  Datasheet figures, measured
kernel parameters and assumptions stay apart; nothing is multiplied in advance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.specs.kernel_sets import CollectiveSet, KernelSet


@dataclass(frozen=True)
class Price:
    """US dollars per device-hour."""

    per_hour: float
    date: str
    provider_class: str
    source: str


@dataclass(frozen=True)
class Accelerator:
    """One device as a framework sees it (``torch.cuda.device_count()`` counts these)."""

    name: str
    vendor: str
    generation: str
    peak: Mapping[str, float]
    """Dense FLOP/s by datatype (bf16, fp16, fp8, int8, fp4, fp32 ...)."""
    memory: float
    """Usable bytes of device memory."""
    memory_bandwidth: float
    cores: int
    clock: float | None
    l2_cache: float | None
    host_bandwidth: float
    power: float | None
    kernels: Mapping[str, Mapping[str, Mapping[str, KernelSet]]]
    """Parameter sets: family (gemm, attention_prefill, ...) -> library -> datatype."""
    price: Price | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    """Field path -> source id, for every number."""


@dataclass(frozen=True)
class Tier:
    """One level of the network: every domain of ``devices`` consecutive devices shares it."""

    name: str
    devices: int
    """Devices in one domain of this tier; the last tier holds the whole cluster."""
    bandwidth: float
    """Per device and direction, when a device talks to many peers of the domain [B/s]."""
    latency: float
    """Time of one small message [s]."""
    topology: str
    """switch, mesh, ring, torus, fat-tree or host (through the CPU)."""
    pair_bandwidth: float
    """Per direction between one pair of devices [B/s]; below ``bandwidth`` on a full mesh."""
    oversubscription: float = 1.0
    """Worst ratio of injected to available bandwidth in this tier (7 for a 7:1 fabric)."""
    efficiency: float = 0.8
    """Achieved over nominal bandwidth of a large transfer."""
    collectives: Mapping[str, CollectiveSet] = field(default_factory=dict)
    """Measured lines by operation: all_reduce, all_gather, reduce_scatter, all_to_all."""
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cluster:
    """Identical devices behind an ordered list of tiers, from the innermost outwards."""

    name: str
    accelerator: Accelerator
    devices_per_node: int
    tiers: tuple[Tier, ...]
    max_devices: int
    price: Price | None = None
    """Overrides the accelerator's price when set."""
    node: str = ""
    """Name of the server, whose file holds the measured lines of its tiers."""
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def price_per_hour(self) -> float | None:
        price = self.price or self.accelerator.price
        return None if price is None else price.per_hour
