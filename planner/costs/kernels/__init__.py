"""Time of one operator on one device, in closed forms with a few fitted parameters."""

from planner.costs.kernels.decode import Decode, decode_attention, decode_time
from planner.costs.kernels.grouped import experts, experts_time
from planner.costs.kernels.matrix import gemm, gemm_time
from planner.costs.kernels.pointwise import elementwise
from planner.costs.kernels.prefill import prefill_attention, prefill_time, seen_keys
from planner.costs.kernels.rates import (
    OPERAND_BYTES,
    parameters,
    peak,
    roofline,
    smooth_maximum,
    sustained,
)

__all__ = [
    "OPERAND_BYTES",
    "Decode",
    "decode_attention",
    "decode_time",
    "elementwise",
    "experts",
    "experts_time",
    "gemm",
    "gemm_time",
    "parameters",
    "peak",
    "prefill_attention",
    "prefill_time",
    "roofline",
    "seen_keys",
    "smooth_maximum",
    "sustained",
]
