"""What a placement costs: time of a layer's experts with their exchange, and bytes over each tier.

The time is that of the busiest device, which tokens bind in training and prefill and distinct
experts in decode, plus dispatch and combine, whose busiest device receives in proportion to its
rows.  Attention and shared experts are the same for every placement and left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.costs import kernels, topology
from planner.costs.imbalance import balance, slowest
from planner.costs.terms import Ref, term
from planner.layers.inference import Runtime, Split, exchange_seconds
from planner.layers.moe import moe_part
from planner.layers.part import Setting
from planner.placement.activated import expected_reads
from planner.placement.generate import capped
from planner.placement.reach import by_tier, copies_of, counted, expected
from planner.placement.splitting import device_loads
from planner.placement.traffic import bytes_by_tier
from planner.specs.engine import Widths, find_engine
from planner.specs.hardware import Cluster
from planner.specs.model import MixtureOfExperts, ModelSpec
from planner.specs.workload import TrainingJob

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PHASES = ("decode", "prefill", "training")


@dataclass(frozen=True)
class Work:
    """What a layer has to do in a step."""

    model: ModelSpec
    spec: MixtureOfExperts
    cluster: Cluster
    devices: int
    phase: str
    tokens: float
    """Of a device and step."""
    widths: Widths
    job: TrainingJob

    @property
    def net(self) -> topology.Network:
        return topology.network(self.cluster, self.devices)

    @property
    def token_bytes(self) -> float:
        """Size of a token that is dispatched [B]: 8 bits an element, 16 in training."""
        return (2.0 if self.phase == "training" else 1.0) * self.spec.expert_hidden(
            self.model.hidden
        )

    @property
    def expert_bytes(self) -> float:
        """Weights of one expert of one layer [B]."""
        size = kernels.OPERAND_BYTES["bf16" if self.phase == "training" else self.widths.weights]
        return size * self.spec.expert_parameters(self.model.hidden)


def layer_seconds(work: Work, loads: Floats, shares: Floats, held: Floats) -> Floats:
    """Time of every layer [s], shape (L,).

    Parameters
    ----------
    loads : (L, E)
        Tokens of every expert, on any scale.
    shares : (L, E, G)
        Part of an expert's tokens that each device serves.
    held : (L, G)
        Experts that each device holds.
    """
    by_device = device_loads(loads, shares)
    if work.phase == "training":
        return _training(work, balance(by_device))
    return inference_seconds(work, loads, shares, held, by_device)


@term(
    "max over g of t(rows_g, experts_g) + dispatch + combine",
    Ref("Janus, arXiv 2512.13525", "section 3, T_moe + T_comm of a layer"),
)
def inference_seconds(
    work: Work, loads: Floats, shares: Floats, held: Floats, by_device: Floats
) -> Floats:
    """The same of an inference step; ``by_device`` are the tokens of every device, (L, G)."""
    spec, hidden = work.spec, work.model.hidden
    run = Runtime(work.cluster.accelerator, work.net, hidden, work.widths, find_engine("generic"))
    dtype, stored = run.matrix
    everything = work.tokens * work.devices
    rows = by_device / by_device.sum(axis=1, keepdims=True) * everything * spec.top_k
    chances = capped(loads, spec.top_k)
    reads = np.array(
        [expected_reads(p, x, int(everything)) for p, x in zip(chances, shares, strict=True)]
    )
    busy = kernels.experts(
        run.device,
        dtype,
        rows,
        np.minimum(reads, rows),
        held,
        spec.expert_hidden(hidden),
        float(spec.width),
        3.0 if spec.gated else 2.0,
        everything * spec.top_k,
        weight_bytes=stored,
    )
    tokens = work.tokens * balance(by_device)  # of a device that is as busy as the busiest
    one, ways = np.ones_like(tokens), np.full_like(tokens, work.devices)
    there, back, *_ = exchange_seconds(run, spec, Split(one, ways, ways, one), tokens)
    return np.asarray(slowest(np.asarray(busy)) + there + back)


def _training(work: Work, skew: Floats) -> Floats:
    """Forward and backward pass of the experts of every layer, one micro-batch of the tokens."""
    device = kernels.sustained(work.cluster.accelerator)
    count = np.array([work.devices])
    one, tokens = np.ones(1), np.array([work.tokens])
    found = []
    for value in skew.tolist():
        job = replace(work.job, imbalance=max(1.0, value))
        setting = Setting(device, work.net, job, work.model.hidden)
        part = moe_part(setting, work.spec, tokens, one, count, one)
        found.append(
            sum(float(np.sum(c.seconds)) for c in (part.forward, part.backward, part.weight))
        )
    return np.array(found)


def dispatched(
    work: Work, loads: Floats, slots: Ints, device: Ints, routing: Ints | None
) -> Floats:
    """Bytes that a device sends over each tier in one layer's dispatch [B], shape (tiers,).

    The mean over layers.  Decode sends a token to each of its experts, prefill and training once
    to each domain that holds one.

    Parameters
    ----------
    slots, device : (L, S)
        Expert and device of every slot.
    routing : (L, T, K)
        Experts of recorded tokens, counted instead of expected where no expert has replicas.
    """
    net, top_k = work.net, work.spec.top_k
    if work.phase == "decode":
        flat = np.zeros(len(net.tiers))
        return bytes_by_tier(net, work.tokens, work.token_bytes, flat, top_k)
    layers = len(slots)
    counts = np.array([np.bincount(row, minlength=loads.shape[1]) for row in slots])
    weight = np.take_along_axis(loads / np.maximum(counts, 1), slots, axis=1)
    home = np.empty_like(loads, dtype=np.int64)
    np.put_along_axis(home, slots, device, axis=1)
    copies = np.empty((layers, len(net.tiers)))
    for tier, (domain, number) in enumerate(by_tier(net, np.arange(work.devices))):
        if routing is not None and counts.max() == 1:
            reach = np.array(
                [
                    counted(one, domain[where], number)
                    for one, where in zip(routing, home, strict=True)
                ]
            )
        else:
            reach = expected(weight, domain[device], number, top_k)
        copies[:, tier] = copies_of(reach)
    return np.asarray(bytes_by_tier(net, work.tokens, work.token_bytes, copies).mean(axis=0))
