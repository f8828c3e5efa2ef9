"""Time whole decode, prefill and training steps of real model shapes in plain PyTorch.

``python -m planner.calibration.whole_steps --output FILE.csv`` writes one row for each step: its
shape, time and peak memory.  Inference runs in CUDA graphs, so that the host does not count;
training is eager FSDP2 code (one device: a group of one) with bf16 products and float32 states.
Weights are random, experts are chosen at random.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from planner.calibration.measure import database_name, software, torch_module
from planner.specs.model import DenseFeedForward, GroupedQueryAttention, MixtureOfExperts, ModelSpec
from planner.specs.models_catalog import find_model

COLUMNS = (
    "phase", "accelerator", "devices", "library", "model", "layers", "batch", "tokens", "recompute",
    "seconds", "allocated", "reserved",
)  # fmt: skip
"""Of the table; ``tokens`` are those of a prompt or a training sequence, for decode the context;
``allocated`` and ``reserved`` are the caching allocator's peaks [B]."""

REPLAYS = 7
"""Timed runs of a step; the median counts."""

DECODE = {"llama-3.1-8b": 32, "qwen3-32b": 16, "qwen3-30b-a3b": 24}
"""Models of the inference steps, and how many of their layers."""
BATCHES = ((1, 1024), (8, 1024), (64, 1024), (256, 1024), (8, 8192), (64, 8192))
PROMPTS = (512, 4096, 16384)
TRAINING = (("qwen2.5-1.5b", 28), ("llama-3.1-8b", 4))
SEQUENCES = ((1, 4096), (2, 4096), (4, 2048))


@dataclass(frozen=True)
class Shape:
    """One step to time."""

    phase: str
    model: str
    layers: int
    batch: int
    tokens: int
    recompute: str = "none"


def shapes() -> Iterator[Shape]:
    """Every step, in order."""
    for model, layers in DECODE.items():
        yield from (Shape("decode", model, layers, *one) for one in BATCHES)
        yield from (Shape("prefill", model, layers, 1, tokens) for tokens in PROMPTS)
    for model, layers in TRAINING:
        for batch, tokens in SEQUENCES:
            for recompute in ("none", "full"):
                yield Shape("training", model, layers, batch, tokens, recompute)


class Decoder:
    """A decoder's weights and its forward pass; PyTorch is handed in."""

    def __init__(self, torch: Any, model: ModelSpec, layers: int, dtype: Any) -> None:
        self.torch, self.model = torch, model
        nn = torch.nn

        def linear(rows: int, columns: int) -> Any:
            return nn.Linear(rows, columns, bias=False, device="cuda", dtype=dtype)

        self.module = nn.Module()
        self.module.embedding = nn.Embedding(model.vocab, model.hidden, device="cuda", dtype=dtype)
        self.module.head = linear(model.hidden, model.vocab)
        self.module.norm = nn.RMSNorm(model.hidden, device="cuda", dtype=dtype)
        self.module.layers = nn.ModuleList(
            [_layer(torch, model, index, linear, dtype) for index in range(layers)]
        )


def _layer(torch: Any, model: ModelSpec, index: int, linear: Callable[..., Any], dtype: Any) -> Any:
    """One layer as a module with a forward of its own."""
    spec, part = model.layers[index].attention, model.layers[index].feedforward
    assert isinstance(spec, GroupedQueryAttention) and part is not None
    nn, functional = torch.nn, torch.nn.functional
    heads, shared, width = spec.heads, spec.kv_heads, spec.head_dim

    class Layer(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.RMSNorm(model.hidden, device="cuda", dtype=dtype)
            self.second = nn.RMSNorm(model.hidden, device="cuda", dtype=dtype)
            self.qkv = linear(model.hidden, (heads + 2 * shared) * width)
            self.out = linear(heads * width, model.hidden)
            if isinstance(part, DenseFeedForward):
                self.up = linear(model.hidden, 2 * part.width)
                self.down = linear(part.width, model.hidden)
            elif isinstance(part, MixtureOfExperts):
                size = {"device": "cuda", "dtype": dtype}
                up = torch.randn(part.experts, model.hidden, 2 * part.width, **size)
                down = torch.randn(part.experts, part.width, model.hidden, **size)
                self.router = linear(model.hidden, part.experts)
                self.up = nn.Parameter(up.mul_(0.02))
                self.down = nn.Parameter(down.mul_(0.02))

        def forward(self, x: Any, rotary: Any, cache: Any = None, at: int = 0) -> Any:
            batch, tokens, hidden = x.shape
            qkv = self.qkv(self.first(x)).view(batch, tokens, heads + 2 * shared, width)
            q, k, v = qkv.split([heads, shared, shared], dim=2)
            q, k = _rotated(torch, q, rotary), _rotated(torch, k, rotary)
            q, k, v = (one.transpose(1, 2) for one in (q, k, v))
            if cache is not None:
                cache[0][:, :, at : at + tokens] = k
                cache[1][:, :, at : at + tokens] = v
                k, v = cache
            seen = functional.scaled_dot_product_attention(
                q, k, v, is_causal=cache is None, enable_gqa=heads != shared
            )
            x = x + self.out(seen.transpose(1, 2).reshape(batch, tokens, heads * width))
            y = self.second(x)
            if isinstance(part, DenseFeedForward):
                gate, value = self.up(y).chunk(2, dim=-1)
                return x + self.down(functional.silu(gate) * value)
            return x + self._experts(y.view(-1, hidden)).view(x.shape)

        def _experts(self, y: Any) -> Any:
            assert isinstance(part, MixtureOfExperts)
            share, chosen = torch.topk(torch.softmax(self.router(y), dim=-1), part.top_k)
            flat = chosen.flatten()
            order = torch.argsort(flat, stable=True)
            counts = torch.zeros(part.experts, dtype=torch.int32, device="cuda")
            ones = torch.ones_like(flat, dtype=torch.int32)
            ends = counts.scatter_add(0, flat, ones).cumsum(0).to(torch.int32)
            rows = y[order // part.top_k]
            gate, value = torch._grouped_mm(rows, self.up, offs=ends).chunk(2, dim=-1)
            done = torch._grouped_mm(functional.silu(gate) * value, self.down, offs=ends)
            done = done * share.flatten()[order].unsqueeze(-1).to(done.dtype)
            return torch.zeros_like(y).index_add(0, order // part.top_k, done)

    return Layer()


def _rotated(torch: Any, x: Any, rotary: tuple[Any, Any]) -> Any:
    cosine, sine = rotary
    one, other = x.chunk(2, dim=-1)
    turned = torch.cat((-other, one), dim=-1)
    return x * cosine + turned * sine


def _rotary(torch: Any, tokens: int, width: int, dtype: Any) -> tuple[Any, Any]:
    angle = torch.rand(1, tokens, 1, width, device="cuda")
    return angle.cos().to(dtype), angle.sin().to(dtype)


def measure(shape: Shape) -> dict[str, Any]:
    """Time and peak memory of one step."""
    torch = torch_module()
    torch.manual_seed(0)
    gc.collect()  # the last module refers to itself
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step = _training(torch, shape) if shape.phase == "training" else _inference(torch, shape)
    seconds = _timed(torch, step)
    found = {
        "phase": shape.phase,
        "accelerator": database_name(torch, None, ()),
        "devices": int(os.environ.get("WORLD_SIZE", "1")),
        "library": software(torch),
        "model": shape.model,
        "layers": shape.layers,
        "batch": shape.batch,
        "tokens": shape.tokens,
        "recompute": shape.recompute if shape.phase == "training" else "",
        "seconds": f"{seconds:.6g}",
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
    }
    del step
    torch.cuda.empty_cache()
    return found


def _inference(torch: Any, shape: Shape) -> Callable[[], Any]:
    """A step in a CUDA graph."""
    model, dtype = find_model(shape.model), torch.bfloat16
    decoder = Decoder(torch, model, shape.layers, dtype)
    spec = model.layers[0].attention
    assert isinstance(spec, GroupedQueryAttention)
    fresh = 1 if shape.phase == "decode" else shape.tokens
    ids = torch.randint(model.vocab, (shape.batch, fresh), device="cuda")
    rotary = _rotary(torch, fresh, spec.head_dim, dtype)
    cache = None
    if shape.phase == "decode":
        size = (2, shape.batch, spec.kv_heads, shape.tokens, spec.head_dim)
        cache = [torch.randn(size, device="cuda", dtype=dtype) for _ in range(shape.layers)]
    module = decoder.module

    def forward() -> Any:
        x = module.embedding(ids)
        for index, layer in enumerate(module.layers):
            x = layer(x, rotary, None if cache is None else cache[index], shape.tokens - 1)
        return module.head(module.norm(x[:, -1:])).argmax(dim=-1)

    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            forward()
    held = (module, cache, ids, rotary)  # what the graph reads

    def replay() -> Any:
        graph.replay()
        return held

    return replay


def _training(torch: Any, shape: Shape) -> Callable[[], Any]:
    """Forward, backward and AdamW of one micro-batch under FSDP2."""
    from torch.distributed import init_process_group, is_initialized
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.utils.checkpoint import checkpoint

    if not is_initialized():
        for name, value in (
            ("RANK", "0"),
            ("WORLD_SIZE", "1"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", "29577"),
            ("LOCAL_RANK", "0"),
        ):
            os.environ.setdefault(name, value)
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        init_process_group("nccl")
    model = find_model(shape.model)
    spec = model.layers[0].attention
    assert isinstance(spec, GroupedQueryAttention)
    module = Decoder(torch, model, shape.layers, torch.float32).module
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)

    def forward(ids: Any, rotary: Any) -> Any:
        x = module.embedding(ids)
        for layer in module.layers:
            x = (
                checkpoint(layer, x, rotary, use_reentrant=False)
                if shape.recompute == "full"
                else layer(x, rotary)
            )
        return module.head(module.norm(x))

    module.forward = forward
    for layer in module.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(module, mp_policy=policy)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(model.vocab, (shape.batch, shape.tokens), device="cuda")
    rotary = _rotary(torch, shape.tokens, spec.head_dim, torch.bfloat16)

    def step() -> None:
        logits = module(ids, rotary)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _timed(torch: Any, step: Callable[[], Any]) -> float:
    """Median time of a step [s]; two runs warm up."""
    times = []
    for _ in range(REPLAYS + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(statistics.median(times[2:]))


def main() -> None:
    """Measure every shape and write the table; a shape that does not fit is left out and told."""
    parser = argparse.ArgumentParser(prog="python -m planner.calibration.whole_steps")
    parser.add_argument("--output", required=True, metavar="FILE.csv")
    parser.add_argument("--phase", choices=("decode", "prefill", "training"))
    given = parser.parse_args()
    torch = torch_module()
    with open(given.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for shape in shapes():
            if given.phase not in (None, shape.phase):
                continue
            try:
                row = measure(shape)
            except torch.cuda.OutOfMemoryError:
                sys.stderr.write(f"{shape}: out of memory\n")
                continue
            if os.environ.get("RANK", "0") == "0":
                writer.writerow(row)
                file.flush()
                sys.stderr.write(f"{shape}: {row['seconds']} s\n")


if __name__ == "__main__":
    main()
