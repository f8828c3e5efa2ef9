"""The time of a measured row: which closed form an operation of the measurement tables stands for.

A row names an operation, a device, a library and a datatype, and gives the shape; see
``planner.specs.measurements``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.costs import collectives, deepep, kernels, lines
from planner.costs.kernels import Decode
from planner.costs.routing import busiest_rank
from planner.errors import PlannerError
from planner.specs.folders import near
from planner.specs.hardware import Accelerator, Cluster, Tier
from planner.specs.kernel_sets import CollectiveSet
from planner.specs.measurements import Group

LATENT_KEY, LATENT_VALUE = 576, 512
"""Width of the cached latent with its rotary part, and of the latent alone (DeepSeek-V2, V3)."""
FULL_KEY, FULL_VALUE = 192, 128
"""Width of a head's keys and values in prefill (DeepSeek-V2, V3)."""
CACHE_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}
TWO_MATRICES = "nongated"
"""Part of the name of kernels for experts without a gate."""

FAMILIES = {
    "gemm": "gemm",
    "attention_prefill": "attention_prefill",
    "attention_decode": "attention_decode",
    "mla_prefill": "mla_prefill",
    "mla_decode": "mla_decode",
    "moe": "experts",
    "memory": "elementwise",
    "custom_allreduce": "all_reduce",
    "deepep_ll_dispatch": "dispatch_low_latency",
    "deepep_ll_combine": "combine_low_latency",
}
"""Kernel family of every operation but NCCL's, whose lines belong to the node."""

COLLECTIVES = {"alltoall": "all_to_all"}
"""Our name of NCCL's collectives where it differs."""


def predict(group: Group, cluster: Cluster) -> NDArray[np.float64]:
    """Time of every row of a group on a cluster of its device [s].

    Raises
    ------
    PlannerError
        If the device has no set for the operation, the library or the datatype.
    """
    device = cluster.accelerator
    if group.op == "nccl":
        return _nccl(group, cluster)
    found = np.empty(len(group.seconds))
    for name, rows in split(group).items():
        kernel = kernels.parameters(device, FAMILIES[group.op], name, library_of(group))
        found[rows] = seconds(kernel, cluster, name, group)[rows]
    return found


def library_of(group: Group) -> str:
    """Name of the group's library, without the version; elementwise kernels have any."""
    if group.op == "memory":
        return "any"
    if not group.library:
        raise PlannerError(
            f"{group.op}, {group.accelerator}, line {group.lines[0]}: found no library, "
            f"expected its name and version"
        )
    return group.library.split()[0]


def set_name(op: str, dtype: str, kv_dtype: str = "") -> str:
    """Name of a parameter set within a library: the datatype, or that of products and cache."""
    if op.endswith("decode"):
        return kv_dtype
    return f"{dtype}-{kv_dtype}" if kv_dtype and kv_dtype != dtype else dtype


def split(group: Group) -> dict[str, NDArray[np.bool_]]:
    """Rows by the parameter set that serves them."""
    if "kv_dtype" not in group.shape:
        return {set_name(group.op, group.dtype): np.ones(len(group.seconds), dtype=bool)}
    caches = group.shape["kv_dtype"]
    return {
        set_name(group.op, group.dtype, str(cache)): caches == cache for cache in np.unique(caches)
    }


def seconds(kernel: Any, cluster: Cluster, name: str, group: Group) -> NDArray[np.float64]:
    """Time of every row of an operation other than NCCL's [s].

    Parameters
    ----------
    kernel
        Parameter set of the operation's family.
    cluster
        Of the group's accelerator.
    name
        Of the set, see ``set_name``; all rows are taken to be served by it.
    """
    shape, device = group.shape, cluster.accelerator
    if group.op == "custom_allreduce":
        found = _all_reduce(kernel, cluster, group)
    elif group.op.startswith("deepep"):
        found = _low_latency(kernel, cluster, group)
    elif group.op == "gemm":
        found = kernels.gemm_time(kernel, device, name, shape["m"], shape["n"], shape["k"])
    elif group.op == "memory":
        found = kernel.launch + shape["bytes"] / (kernel.memory * device.memory_bandwidth)
    elif group.op == "moe":
        found = _experts(kernel, device, name, group)
    elif group.op.endswith("prefill"):
        found = _prefill(kernel, device, name, group)
    else:
        found = _decode(kernel, device, group)
    return np.asarray(found, dtype=float)


def _prefill(kernel: Any, device: Accelerator, name: str, group: Group) -> Any:
    shape = group.shape
    latent = group.op.startswith("mla")
    return kernels.prefill_time(
        kernel,
        device,
        name,
        shape["batch"],
        shape["query_len"],
        shape["heads"],
        shape["heads"] if latent else shape["kv_heads"],
        FULL_KEY if latent else shape["head_dim"],
        FULL_VALUE if latent else shape["head_dim"],
        shape["cached_len"],
        0.0 if latent else shape["window"],
        kv_bytes=_cache_bytes(group, name.rpartition("-")[2]),
    )


def _decode(kernel: Any, device: Accelerator, group: Group) -> Any:
    shape = group.shape
    latent = group.op.startswith("mla")
    sizes = np.array([_cache_bytes(group, str(cache)) for cache in shape["kv_dtype"]])
    return kernels.decode_time(
        kernel,
        device,
        Decode.of(
            shape["batch"],
            shape["kv_len"],
            shape["heads"],
            1.0 if latent else shape["kv_heads"],
            LATENT_KEY if latent else shape["head_dim"],
            LATENT_VALUE if latent else shape["head_dim"],
            sizes,
            0.0 if latent else shape["window"],
        ),
    )


def _cache_bytes(group: Group, dtype: str) -> float:
    """Bytes of an element of a cache."""
    if dtype not in CACHE_BYTES:
        raise PlannerError(
            f"{group.name}: kv_dtype: found {dtype!r}{near(dtype, CACHE_BYTES)}, expected one of "
            f"{', '.join(CACHE_BYTES)}"
        )
    return CACHE_BYTES[dtype]


def _experts(kernel: Any, device: Accelerator, name: str, group: Group) -> Any:
    shape = group.shape
    parts = ("tokens", "topk", "experts", "ep")
    whole = zip(*(shape[part].astype(int) for part in parts), shape["routing"], strict=True)
    rows, active = np.array([busiest_rank(*one) for one in whole]).T
    gated = np.array([TWO_MATRICES not in str(kernel) for kernel in shape["kernel"]])
    return kernels.experts_time(
        kernel,
        device,
        name,
        rows,
        active,
        np.maximum(1.0, shape["experts"] // shape["ep"]),
        shape["hidden"],
        shape["expert_width"] / shape["moe_tp"],
        np.where(gated, 3.0, 2.0),
        shape["tokens"] * shape["topk"],
    )


def _nccl(group: Group, cluster: Cluster) -> NDArray[np.float64]:
    """Collectives on the innermost tier that has a line of each."""
    found = np.empty(len(group.seconds))
    for collective in np.unique(group.shape["collective"].astype(str)):
        rows = group.shape["collective"] == collective
        operation = COLLECTIVES.get(collective, collective)
        tier = collective_tier(cluster, operation)
        found[rows] = line_seconds(tier, tier.collectives[operation], operation, group.take(rows))
    return found


def line_seconds(
    tier: Tier, line: CollectiveSet, operation: str, group: Group
) -> NDArray[np.float64]:
    """Time of rows of one collective on a tier with a line [s]."""
    ranks, nbytes = group.shape["ranks"], group.shape["bytes"]
    return np.asarray(lines.nccl(line, operation, ranks, nbytes, collectives.links(tier, ranks)))


def collective_tier(cluster: Cluster, operation: str) -> Tier:
    """The innermost tier that has a measured line."""
    for tier in cluster.tiers:
        if operation in tier.collectives:
            return tier
    raise PlannerError(f"{cluster.name} has no measured line of {operation}.")


def _all_reduce(kernel: Any, cluster: Cluster, group: Group) -> Any:
    eager = np.array(["eager" in str(name) for name in group.shape["kernel"]])
    return lines.one_kernel(
        kernel,
        collective_tier(cluster, "all_reduce").collectives["all_reduce"],
        group.shape["ranks"],
        group.shape["bytes"],
        eager,
        cluster.accelerator.memory_bandwidth,
    )


def _low_latency(kernel: Any, cluster: Cluster, group: Group) -> Any:
    shape = group.shape
    node, fabric = cluster.tiers[0], cluster.tiers[-1]
    return deepep.low_latency(
        kernel,
        group.op.rpartition("_")[2],
        shape["nodes"],
        shape["tokens_per_rank"],
        shape["hidden"],
        shape["topk"],
        shape["experts"],
        node.bandwidth,
        fabric.bandwidth,
        cluster.accelerator.cores,
    )
