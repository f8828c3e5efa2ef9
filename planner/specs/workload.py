"""What is to be run: the training job, its precision recipe and the software that runs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.errors import PlannerError
from planner.specs.skew import RankSkew


@dataclass(frozen=True)
class Precision:
    """A mixed-precision recipe: what the matrix units see and what travels and stays.

    Attention scores, the router and the vocabulary projection stay in 16 bits in every recipe.
    """

    name: str
    matrix: str
    """Datatype of the layers' GEMMs."""
    cast_bytes: float
    """Extra bytes moved per operand element, beyond what the measured kernels include: scales and
    the transposed copy that the weight gradient reads."""


PRECISIONS = {
    p.name: p
    for p in (
        Precision("bf16", "bf16", 0.0),
        Precision("fp16", "fp16", 0.0),
        Precision("fp8", "fp8", 2.0),
        Precision("mxfp8", "mxfp8", 2.0),
        Precision("nvfp4", "nvfp4", 2.0),
    )
}


@dataclass(frozen=True)
class Software:
    """How a training framework behaves where that changes the time or the memory.

    ``traffic`` and ``host`` are fitted (docs/validation.md says on what): the bytes that the
    framework's elementwise kernels move relative to the closed form, and the time [s] that the host
    needs at least to launch one pass over one layer.
    """

    name: str
    fused_attention: bool = True
    overlaps_gradients: bool = True
    """Gradient reduction and parameter gathering hide behind backward and forward work."""
    overlaps_tensor: bool = False
    """TP collectives run in chunks behind the GEMMs next to them."""
    overlaps_exchange: bool = False
    """In a pipeline, the expert exchange of one micro-batch runs behind the work of another."""
    attention_slowdown: float = 1.0
    """Time of the fused attention kernel over that of the library in the measured tables."""
    gradient_bytes: float = 4.0
    """Bytes of one gradient while it is reduced and kept."""
    dropout: bool = False
    """Residual and score dropout with stored masks, as in models before about 2022."""
    weight_bytes: float = 2.0
    """Bytes of the resident weight that the forward pass reads, besides the optimizer's copy."""
    optimizer_bytes: float = 12.0
    """Adam's fp32 weight, mean and variance."""
    logit_bytes: float = 4.0
    """Bytes kept for each logit.  Megatron's fused loss overwrites fp32 logits with their gradient
    (arXiv 2205.05198, section 4.3); PyTorch's keeps 16-bit logits, an fp32 copy, its
    log-probabilities and their gradient."""
    traffic: float = 1.0
    host: float = 0.0


SOFTWARE = {
    s.name: s
    for s in (
        Software("megatron", traffic=2.0, host=1.0e-3),
        Software(
            "megatron-2022",
            fused_attention=False,
            overlaps_gradients=False,
            dropout=True,
        ),
        Software(
            "megatron-bridge",
            overlaps_tensor=True,
            overlaps_exchange=True,
            traffic=2.0,
            host=1.0e-3,
        ),
        # PyTorch's own attention is a generation behind the tables' libraries: FlashAttention-3 is
        # 1.5 to 2 times as fast as 2 (arXiv 2407.08608), 2 is 1.3 to 1.5 times as fast as Triton's
        # (arXiv 2307.08691).
        Software("fsdp", weight_bytes=0.0, logit_bytes=14.0, attention_slowdown=1.5, traffic=1.9),
        Software(
            "vtrain",
            fused_attention=False,
            overlaps_gradients=False,
            dropout=True,
            traffic=1.15,
            host=1.2e-3,
        ),
    )
}


@dataclass(frozen=True)
class TrainingJob:
    """One pre-training job, apart from how it is spread over the devices."""

    seq_len: int
    global_batch: int
    """Sequences in one optimizer step."""
    precision: Precision = PRECISIONS["bf16"]
    software: Software = SOFTWARE["megatron"]
    imbalance: float = 1.0
    """Tokens of the busiest expert-parallel rank over the mean; multiplies ``skew``."""
    skew: RankSkew | None = None
    """The same by the number of ranks, where loads are known."""
    causal: bool = True
    mtp: bool = True
    """Train the model's multi-token-prediction layers, where it has any."""
    assumptions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("seq_len", "global_batch"):
            value = getattr(self, name)
            if value < 1:
                raise PlannerError(f"{name}: found {value}, expected a positive whole number.")
        if self.imbalance < 1.0:
            raise PlannerError(
                f"imbalance: found {self.imbalance}, expected busiest over mean load, 1 or more."
            )
