"""Time the kernels of PyTorch on the GPU of this machine.

Calls are captured in a CUDA graph, so that the host does not count, and cycle through copies of
their operands that together exceed the cache, as the layers of a model do.  PyTorch is the user's
own and imported only in this folder.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from planner.calibration import plan
from planner.errors import PlannerError
from planner.specs.catalog import find_accelerator, list_accelerators

Row = dict[str, Any]
Call = Callable[[int], Any]
"""Runs the kernel on one of several copies of its operands."""

CALLS = 8
"""Kernel calls in one graph, at least."""
COPIES = 64
"""Most copies of the operands; each has a call in the graph."""
REPLAYS = 12
"""Timed runs of the graph; the first two warm up.  The same on every rank of a collective."""
CACHES = 3.0
"""Bytes of all copies of the operands, in sizes of the cache."""


def torch_module() -> Any:
    """PyTorch, if it is installed and sees a GPU.

    Raises
    ------
    PlannerError
        Naming what is missing.
    """
    other = "or give measurements made elsewhere with --from FILE.csv"
    try:
        import torch
    except ImportError as error:
        raise PlannerError(
            f"calibrate: PyTorch is not installed, expected one that sees a GPU (pip install "
            f"torch), {other}"
        ) from error
    if not torch.cuda.is_available():
        raise PlannerError(f"calibrate: PyTorch {torch.__version__} sees no GPU; use one, {other}")
    return torch


def software(torch: Any) -> str:
    """Library and version as the rows name them."""
    return f"pytorch {torch.__version__.partition('+')[0]}"


NAMES = {
    "A100-SXM4-40GB": "a100-sxm-40g",
    "A100-SXM4-80GB": "a100-sxm-80g",
    "A100 80GB PCIe": "a100-pcie-80g",
    "H100 80GB HBM3": "h100-sxm",
    "H100 PCIe": "h100-pcie",
    "H200": "h200-sxm",
    "GH200": "gh200",
    "H800": "h800-sxm",
    "H20": "h20",
    "L40S": "l40s",
    "B200": "b200-sxm",
    "B300": "b300-sxm",
    "GB200": "gb200",
    "GB300": "gb300",
    "RTX 4090": "rtx-4090",
    "MI300X": "mi300x",
    "MI325X": "mi325x",
    "MI355X": "mi355x",
}
"""What a driver calls a device, in part, and what the database does."""


def database_name(torch: Any, given: str | None, db: Sequence[str]) -> str:
    """The accelerator of the database that this machine's first GPU is.

    Parameters
    ----------
    given
        The user's word for it, which must be in the databases.

    Raises
    ------
    PlannerError
        If there is no such accelerator, or the GPU's name is in no way known.
    """
    if given is not None:
        return find_accelerator(given, db).name
    found = torch.cuda.get_device_name(0)
    words = re.sub(r"[^\w]+", " ", found).split()
    known = [name for name in NAMES if set(re.sub(r"[^\w]+", " ", name).split()) <= set(words)]
    if not known:
        raise PlannerError(
            f"calibrate: this machine has {found!r}, which the database does not know; name the "
            f"accelerator by --device, one of: {', '.join(list_accelerators(db))}"
        )
    return NAMES[max(known, key=len)]


def measure(accelerator: str, progress: Callable[[str], None]) -> Iterator[Row]:
    """Rows of the measurement table, operation by operation.

    Parameters
    ----------
    accelerator
        The device's name in the database.
    progress
        Is told the operation before it is measured.
    """
    torch = torch_module()
    head = {"accelerator": accelerator, "library": software(torch)}
    tables = (
        ("memory", "bf16", plan.memory(), _memory),
        ("gemm", "bf16", plan.gemm(), _gemm),
        ("gemm", "fp8", plan.gemm(), _gemm_fp8),
        ("attention_prefill", "bf16", plan.attention_prefill(), _prefill),
        ("attention_decode", "bf16", plan.attention_decode(), _decode),
        ("moe", "bf16", plan.moe(), _experts),
    )
    for operation, dtype, shapes, prepare in tables:
        if dtype == "fp8" and torch.cuda.get_device_capability() < (8, 9):
            continue
        progress(f"{operation} {dtype}")
        for shape in shapes:
            call, copies = prepare(torch, shape)
            yield {
                "op": operation,
                **head,
                "dtype": dtype,
                "shape": ";".join(f"{key}={value}" for key, value in _full(shape, operation)),
                "latency_s": seconds(torch, call, copies),
            }


def seconds(torch: Any, call: Call, copies: int) -> float:
    """Median time of one call [s] over ``copies`` copies of its operands."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # the operands are there
    with torch.cuda.stream(stream):
        for copy in range(copies):
            call(copy)
    stream.synchronize()
    graph, calls = torch.cuda.CUDAGraph(), max(CALLS, copies)
    with torch.cuda.graph(graph, stream=stream):
        for number in range(calls):
            call(number % copies)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(REPLAYS):
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e-3)
    return float(statistics.median(times[2:])) / calls


def _full(shape: plan.Shape, operation: str) -> list[tuple[str, Any]]:
    """The parts of a shape as a table writes them."""
    extra = {
        "attention_prefill": {"kv_dtype": "bf16"},
        "attention_decode": {"kv_dtype": "bf16"},
        "moe": {"routing": "balanced"},
    }
    return [*shape.items(), *extra.get(operation, {}).items()]


def _copies(torch: Any, nbytes: float) -> int:
    """Copies of operands of ``nbytes`` [B] that together exceed the cache."""
    cache = float(torch.cuda.get_device_properties(0).L2_cache_size)
    return int(min(COPIES, max(1, -(-CACHES * cache // nbytes))))


def _filled(torch: Any, copies: int, *size: int) -> list[Any]:
    """Random operands, which draw the power that real ones do."""
    return [torch.randn(size, device="cuda", dtype=torch.bfloat16).mul_(0.1) for _ in range(copies)]


def _memory(torch: Any, shape: plan.Shape) -> tuple[Call, int]:
    copies = _copies(torch, shape["bytes"])
    source = _filled(torch, copies, shape["bytes"] // 4)
    target = [torch.empty_like(one) for one in source]
    return lambda i: torch.neg(source[i], out=target[i]), copies


def _gemm(torch: Any, shape: plan.Shape) -> tuple[Call, int]:
    m, n, k = shape["m"], shape["n"], shape["k"]
    nbytes = 2.0 * (m * k + n * k + m * n)
    copies = _copies(torch, nbytes)
    left, right = _filled(torch, copies, m, k), _filled(torch, copies, n, k)
    out = [torch.empty(m, n, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    return lambda i: torch.mm(left[i], right[i].t(), out=out[i]), copies


def _gemm_fp8(torch: Any, shape: plan.Shape) -> tuple[Call, int]:
    m, n, k = shape["m"], shape["n"], shape["k"]
    nbytes = m * k + n * k + 2.0 * m * n
    copies = _copies(torch, nbytes)
    left, right = (
        [one.to(_eight_bits(torch)) for one in _filled(torch, copies, rows, k)] for rows in (m, n)
    )
    scale = torch.ones((), device="cuda")
    out = [torch.empty(m, n, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]

    def call(i: int) -> Any:
        return torch._scaled_mm(
            left[i], right[i].t(), scale, scale, out_dtype=torch.bfloat16, out=out[i]
        )

    return call, copies


def _eight_bits(torch: Any) -> Any:
    """The datatype that the matrix units take: MI300's has its own exponent bias."""
    name = getattr(torch.cuda.get_device_properties(0), "gcnArchName", "")
    return torch.float8_e4m3fnuz if name.startswith("gfx94") else torch.float8_e4m3fn


def _attention(
    torch: Any, shape: plan.Shape, query_len: int, kv_len: int, *, causal: bool
) -> tuple[Call, int]:
    batch, heads, kv_heads = shape["batch"], shape["heads"], shape["kv_heads"]
    width = shape["head_dim"]
    nbytes = 4.0 * batch * width * (heads * query_len + kv_heads * kv_len)
    copies = _copies(torch, nbytes)
    query = _filled(torch, copies, batch, heads, query_len, width)
    key, value = (_filled(torch, copies, batch, kv_heads, kv_len, width) for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention

    def call(i: int) -> Any:
        return attend(query[i], key[i], value[i], is_causal=causal, enable_gqa=heads != kv_heads)

    return call, copies


def _prefill(torch: Any, shape: plan.Shape) -> tuple[Call, int]:
    return _attention(torch, shape, shape["query_len"], shape["query_len"], causal=True)


def _decode(torch: Any, shape: plan.Shape) -> tuple[Call, int]:
    return _attention(torch, shape, 1, shape["kv_len"], causal=False)


def _experts(torch: Any, shape: plan.Shape) -> tuple[Call, int]:
    """Permute, gate and up projection, activation, down projection, weighted sum."""
    hidden, width, topk = shape["hidden"], shape["expert_width"], shape["topk"]
    local = shape["experts"] // shape["ep"]
    rows = max(1, shape["tokens"] * topk // shape["ep"])
    tokens = max(1, rows // topk) if shape["ep"] == 1 else rows
    nbytes = 6.0 * min(local, rows) * hidden * width
    copies = _copies(torch, nbytes)
    inputs = _filled(torch, copies, tokens, hidden)
    up = _filled(torch, copies, local, hidden, 2 * width)
    down = _filled(torch, copies, local, width, hidden)
    taken = torch.arange(rows, device="cuda") % tokens
    share = torch.full((rows, 1), 1.0 / topk, device="cuda", dtype=torch.bfloat16)
    counts = torch.full((local,), rows // local, device="cuda")
    counts[: rows % local] += 1
    ends = counts.cumsum(0).to(torch.int32)

    def call(i: int) -> Any:
        gathered = inputs[i].index_select(0, taken)
        gate, value = torch._grouped_mm(gathered, up[i], offs=ends).chunk(2, dim=-1)
        inner = torch.nn.functional.silu(gate) * value
        outer = torch._grouped_mm(inner, down[i], offs=ends) * share
        return torch.zeros_like(inputs[i]).index_add_(0, taken, outer)

    return call, copies
