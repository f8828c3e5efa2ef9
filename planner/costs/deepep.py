"""DeepEP: dispatch and combine of expert parallelism, low-latency and normal kernels.

Low latency writes every copy of a token straight to its expert's rank, no deduplication:
t = launch + expert E + [N>1] (far + hop log2 N) + max(near, wire) with N nodes of 8, B = T K b the
bytes that a rank of T tokens sends, near = max(token T / blocks(E), 7/8 B/N / NVLink + B / local)
and wire = B (1 - 1/N) / NIC.  b = h (1 + 4/128) + 16 for fp8 dispatch, 2 h for combine.

Normal kernels send one copy to each node that holds an expert of the token and one onwards to each
rank: t = launch + [N>1] (far + hop log2 N) + max(work / sms, D_r T b 7/8 / NVLink,
D_n T b (1 - 1/N) / NIC), work = T (token b + D_r (message + b / sm_rate) + [N>1] D_n b / far_rate),
with D_n nodes and D_r ranks that a token reaches.

Source: deepseek-ai/DeepEP docs/legacy.md (kernels, bytes); parameters fitted to
aiconfigurator-core 0.12.0 tables (Apache-2.0): one node to 8, hidden 2048 to 7168, 1 to 131072
tokens.  Fractions of NVLink and NIC are of the nominal bandwidth, so other links can be put in.
Limits: large batches approach the slowest link, small ones the launch.  Balanced routing.
"""

from __future__ import annotations

import numpy as np

from planner.costs.routing import distinct_groups
from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds
from planner.specs.kernel_sets import LowLatencySet, NormalSet

LOCAL = 8.0
"""Ranks of a node."""


@term(
    "33/32 h + 16 (dispatch), 2 h (combine)",
    Ref("deepseek-ai/DeepEP docs/legacy.md", "low-latency kernels, fp8 dispatch and bf16 combine"),
)
def message(phase: str, hidden: Seconds) -> Seconds:
    """Bytes of one token copy: fp8 with a scale for 128 values and a header, or bf16."""
    return 33.0 / 32.0 * hidden + 16.0 if phase == "dispatch" else 2.0 * hidden


@term(
    "launch + expert E + [N>1] (far + hop log2 N) + max(token T / blocks, B near, B far / NIC)",
    Ref("deepseek-ai/DeepEP docs/legacy.md", "low-latency kernels; fitted to aiconfigurator-core"),
)
def low_latency(
    kernel: LowLatencySet,
    phase: str,
    nodes: Seconds,
    tokens: Seconds,
    hidden: Seconds,
    topk: Seconds,
    experts: Seconds,
    nvlink: float,
    nic: float,
    cores: int = 132,
) -> Seconds:
    """Time of one phase for ``tokens`` of every rank; ``nvlink`` and ``nic`` nominal [B/s] [s]."""
    sent = tokens * topk * message(phase, hidden)
    blocks = np.ceil(experts / np.ceil(experts / cores))
    inside = (1.0 - 1.0 / LOCAL) * sent / nodes / (kernel.nvlink * nvlink) + sent / kernel.local
    near = np.maximum(kernel.token * tokens / blocks, inside)
    wire = sent * (1.0 - 1.0 / nodes) / (kernel.nic * nic)
    far = np.where(nodes > 1, kernel.far + kernel.hop * np.log2(nodes), 0.0)
    return kernel.launch + kernel.expert * experts + far + np.maximum(near, wire)


@term(
    "launch + [N>1] (far + hop log2 N) + T max(work / cores, D_r b / NVLink, D_n b / NIC)",
    Ref("deepseek-ai/DeepEP docs/legacy.md", "normal kernels; fitted to aiconfigurator-core"),
)
def normal(
    kernel: NormalSet,
    phase: str,
    nodes: Seconds,
    tokens: Seconds,
    hidden: Seconds,
    topk: Seconds,
    experts: Seconds,
    sms: Seconds,
    nvlink: float,
    nic: float,
    allowed: Seconds = 1e9,
) -> Seconds:
    """Time of one phase without the notice; a token reaches ``allowed`` nodes at most [s]."""
    size = message(phase, hidden)
    reach = np.minimum(nodes, allowed)
    pool = experts * reach / nodes
    near = distinct_groups(LOCAL * reach, topk, pool)
    across = np.where(nodes > 1, distinct_groups(reach, topk, pool), 0.0)
    work = kernel.token * size + near * (kernel.message + size / kernel.sm_rate)
    work = work + across * size / kernel.far_rate
    link = near * size * (1.0 - 1.0 / LOCAL) / (kernel.nvlink * nvlink)
    wire = across * size * (1.0 - 1.0 / nodes) / (kernel.nic * nic)
    slowest = np.maximum(work / sms, np.maximum(link, wire))
    far = np.where(nodes > 1, kernel.far + kernel.hop * np.log2(nodes), 0.0)
    return kernel.launch + far + tokens * slowest


@term("8 us + 25 us log2 N", Ref("aiconfigurator-core 0.12.0 tables", "notify times"))
def notice(nodes: Seconds) -> Seconds:
    """Layout exchange before a normal dispatch to several nodes [s]: 25 us a doubling of nodes.

    Medians of the tables are 33, 54 and 80 us and more on 2, 4 and 8; inside a node it is none.
    """
    return np.where(nodes > 1, 8e-6 + 25e-6 * np.log2(nodes), 0.0)
