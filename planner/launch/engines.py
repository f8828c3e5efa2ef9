"""A replica as the flags of the server that runs it: vLLM 0.33.0, SGLang 0.5.23.

Each flag is checked against the options of that version in the tests.  A server has one role; as
many as the plan has replicas are started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

VERSIONS = {"vllm": "vLLM 0.33.0", "sglang": "SGLang 0.5.23"}


@dataclass(frozen=True)
class Server:
    """One replica and the limits of its engine."""

    tp: int
    attention_dp: int
    ep: int
    pp: int
    batch: int
    """Most sequences that generate at a time."""
    chunk: int
    """Most tokens of an iteration."""
    memory_fraction: float
    weights: str
    published: str
    """Datatype of the checkpoint's weights."""
    kv: str
    role: str = ""
    """prefill, decode, or nothing for both."""


def express(engine: str, server: Server) -> tuple[list[str], list[str]]:
    """Flags of the engine's server, and what they cannot express."""
    if engine not in _FLAGS:
        return [], [f"a server of {engine}"]
    missing = []
    if server.weights != server.published and server.weights != "fp8":
        missing.append(f"weights={server.weights} without a checkpoint in it")
    if server.kv not in ("bf16", "fp16", "fp8"):
        missing.append(f"kv={server.kv}")
    return list(_FLAGS[engine](server)), missing


def _vllm(server: Server) -> Iterator[str]:
    yield from ("--tensor-parallel-size", str(server.tp))
    if server.pp > 1:
        yield from ("--pipeline-parallel-size", str(server.pp))
    if server.attention_dp > 1:
        yield from ("--data-parallel-size", str(server.attention_dp))
    if server.ep > 1:  # experts are spread over all ranks of the server
        yield "--enable-expert-parallel"
    yield from ("--max-num-seqs", str(-(-server.batch // server.attention_dp)))
    yield from ("--max-num-batched-tokens", str(server.chunk))
    yield from ("--gpu-memory-utilization", f"{server.memory_fraction:g}")
    if server.weights == "fp8" != server.published:
        yield from ("--quantization", "fp8")
    if server.kv == "fp8":
        yield from ("--kv-cache-dtype", "fp8")
    if server.role:
        connector = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
        yield from ("--kv-transfer-config", connector)


def _sglang(server: Server) -> Iterator[str]:
    yield from ("--tp-size", str(server.tp * server.attention_dp))  # of the whole server
    if server.pp > 1:
        yield from ("--pp-size", str(server.pp))
    if server.attention_dp > 1:
        yield from ("--dp-size", str(server.attention_dp), "--enable-dp-attention")
    if server.ep > 1:
        yield from ("--ep-size", str(server.ep))
    yield from ("--max-running-requests", str(server.batch))
    yield from ("--chunked-prefill-size", str(server.chunk))
    yield from ("--mem-fraction-static", f"{server.memory_fraction:g}")
    if server.weights == "fp8" != server.published:
        yield from ("--quantization", "fp8")
    if server.kv == "fp8":
        yield from ("--kv-cache-dtype", "fp8_e4m3")
    if server.role:
        yield from ("--disaggregation-mode", server.role)


_FLAGS: dict[str, Callable[[Server], Iterator[str]]] = {"vllm": _vllm, "sglang": _sglang}
