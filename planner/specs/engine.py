"""What serves a model: the inference engine, and the datatypes that it holds a model in."""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import PlannerError
from planner.specs.folders import near


@dataclass(frozen=True)
class Widths:
    """Datatypes of weights, activations and key-value cache."""

    weights: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"


@dataclass(frozen=True)
class Engine:
    """How an inference engine behaves where that changes the time or the memory.

    ``step``, ``token``, ``waits`` and ``together`` are fitted (docs/validation.md says on what).
    """

    name: str
    library: str | None
    """Whose kernels it runs; None for the device's first."""
    chunk: int
    """Most tokens of one iteration."""
    most_running: int
    """Most sequences that run at a time on one attention rank."""
    memory_fraction: float
    """Part of the device memory that weights, activations and cache may take ..."""
    of_free: bool = False
    """... or of what the weights leave free, that the cache may take."""
    reserves: bool = False
    """Whether a sequence waits until its whole output has room; if not, some are evicted."""
    mixes: bool = True
    """Whether an iteration holds prefill and decode tokens together; if not, prefill goes first."""
    step: float = 0.0
    """Time of an iteration of 64 layers that no kernel has: the gaps between kernels and what
    nothing hides of the host [s].  It grows with the layers."""
    token: float = 0.0
    """The same for each running sequence [s]."""
    first: float = 0.01
    """Time of a request before and after the engine: tokenizer and network [s]; assumed."""
    waits: float = 0.0
    """Iterations that pass before an engine reads a request, and until its first token is sent."""
    together: float = 1.0
    """Prompts, itself included, that one of equal length is taken in with: requests of the same
    lengths finish, and come back, in groups."""


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("vllm", "vllm", 8192, 1024, 0.90, step=1.6e-3, token=16e-6, waits=3.0,
               together=2.0),
        Engine("sglang", "sglang", 8192, 1024, 0.88, mixes=False, step=2.0e-3, token=24e-6,
               waits=20.0),
        Engine("tensorrt-llm", "tensorrt-llm", 8192, 2048, 0.90, of_free=True, reserves=True,
               step=0.2e-3, token=8e-6, waits=4.0, together=3.0),
        Engine("generic", None, 8192, 1024, 0.90, step=1.6e-3, token=16e-6, waits=3.0,
               together=2.0),
    )
}  # fmt: skip


def find_engine(name: str) -> Engine:
    """The engine of that name, or a PlannerError with the nearest."""
    if name not in ENGINES:
        raise PlannerError(
            f"engine: found {name!r}{near(name, ENGINES)}; expected one of {', '.join(ENGINES)}."
        )
    return ENGINES[name]
