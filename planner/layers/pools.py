"""The two halves of a layer on pools of their own, and what goes between them in decoding.

The attention pool has ``tp x attention_dp`` devices: copies of mixer and router.  The other has
``ep x moe_tp``: every rank its own routed experts and all shared ones, which a token finds wherever
it goes.  Tokens cross the network twice a layer.
Sources: MegaScale-Infer, arXiv 2504.02263, sections 4 and 5; Janus, arXiv 2512.13525, section 4
(messages of whole nodes); Step-3, arXiv 2507.19427 (all of the feed-forward part on one side).
"""

from __future__ import annotations

import numpy as np

from planner.costs import collectives, kernels
from planner.costs.imbalance import distinct_experts
from planner.costs.kernels import OPERAND_BYTES
from planner.costs.m2n import Wire, many_to_many, peers
from planner.costs.routing import distinct_groups
from planner.costs.tree import Cost, leaf, seq
from planner.layers.inference import (
    Array,
    Runtime,
    Split,
    Step,
    experts_sets,
    layer_cost,
    two_products,
)
from planner.specs.model import DenseFeedForward, Layer, MixtureOfExperts
from planner.specs.skew import over_mean

KEPT = ("norm", "router", "top-k")
"""Parts of a layer's experts that stay with the attention."""

RETURNED = 2.0
"""Bytes of an element on the way back: results are added up in 16 bits."""


def attention_half(run: Runtime, layer: Layer, split: Split, step: Step) -> Cost:
    """Time of a layer without its experts, on one attention copy [s].

    What comes back is gathered by the devices of the copy.  A layer without experts is here whole.
    """
    one = np.ones_like(split.tp)
    whole = layer_cost(run, layer, Split(split.tp, one, one, split.tp), step)
    if not isinstance(layer.feedforward, MixtureOfExperts):
        return whole
    mixer, experts = whole.children
    nbytes = RETURNED * step.tokens * layer.feedforward.expert_hidden(run.hidden)
    gather = collectives.all_gather(run.net, split.tp, 1, nbytes)
    kept = [part for part in experts.children if part.name in KEPT]
    return seq("attention half", [mixer, *kept, leaf("all-gather (TP)", gather, "link")])


def experts_half(run: Runtime, spec: MixtureOfExperts, split: Split, tokens: Array) -> Cost:
    """Time of the experts of ``tokens`` of all attention copies together [s].

    The busiest rank's rows or its distinct experts bind, whichever take longer; a rank has only the
    rows of its own experts.  Tokens share out evenly over the ranks' shared experts.
    """
    local = spec.experts / split.ep
    skew = over_mean(run.imbalance, run.skew, split.ep)
    most = tokens * np.minimum(local, spec.top_k)
    active = distinct_experts(spec.experts, spec.top_k, tokens, ranks=split.ep)
    rows = np.maximum(np.minimum(tokens * spec.top_k / split.ep * skew, most), active)
    dtype, sets = experts_sets(run)
    inside, stored = spec.expert_hidden(run.hidden), OPERAND_BYTES[run.widths.weights]
    shape = (rows, active, local, inside, spec.width / split.moe_tp, 3 if spec.gated else 2)
    found = [
        kernels.experts_time(kernel, run.device, dtype, *shape, rows, weight_bytes=stored)
        for kernel in sets
    ]
    reached = distinct_groups(split.ep, float(spec.top_k), float(spec.experts))
    taken = 2.0 * tokens * reached / split.ep * inside
    parts = [
        leaf("experts", np.min(np.broadcast_arrays(*found), axis=0), "compute"),
        run.all_reduce("all-reduce (TP)", split.moe_tp, taken),
    ]
    always = spec.shared_width + spec.dense_width
    if always:
        shared = DenseFeedForward(always, spec.gated)
        parts += two_products(run, shared, split.moe_tp, tokens / split.ep, "shared projection")
    return seq("experts half", parts)


def gather_seconds(
    runs: tuple[Runtime, Runtime], spec: MixtureOfExperts, split: Split, tokens: Array
) -> Array:
    """Time to collect the tokens of all devices of an attention node before they leave [s].

    ``tokens`` are those of every attention copy.
    """
    run = runs[0]
    local, _ = _nodes(run, split.tp * split.attention_dp)
    nbytes = _sent(run) * tokens * local / split.tp * spec.expert_hidden(run.hidden)
    return np.asarray(collectives.all_gather(run.net, local, 1, nbytes))


def spread_seconds(
    runs: tuple[Runtime, Runtime], spec: MixtureOfExperts, split: Split, tokens: Array
) -> tuple[Array, Array]:
    """Time to show all devices of an expert node what came for it, and to add its results [s].

    ``tokens`` are those of all attention copies together.
    """
    run = runs[1]
    local, nodes = _nodes(run, split.ep * split.moe_tp)
    arrived = tokens * _copies(spec, nodes) / nodes * spec.expert_hidden(run.hidden)
    shown = collectives.all_gather(run.net, local, 1, _sent(runs[0]) * arrived)
    added = collectives.reduce_scatter(run.net, local, 1, RETURNED * arrived)
    return np.asarray(shown), np.asarray(added)


def exchange(
    runs: tuple[Runtime, Runtime],
    spec: MixtureOfExperts,
    split: Split,
    tokens: Array,
    wire: Wire,
    inside: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Time to the experts and back for ``tokens`` of every attention copy [s].

    Every device sends to every rank that has an expert of one of its tokens, or the devices of a
    node send together: a token once to a node, where all ranks learn of it.  Whichever is faster.
    ``inside`` nodes the second way takes so long before the results return, and after [s].
    """
    first, second = runs
    pools = split.tp * split.attention_dp, split.ep * split.moe_tp
    (local, near), (other, far) = (_nodes(run, n) for run, n in zip(runs, pools, strict=True))
    size, sent = spec.expert_hidden(first.hidden) * tokens, _sent(first)

    def both(copies: Array, skew: Array | float, out: Array, into: Array) -> tuple[Array, Array]:
        """Both ways where a token goes to so many places; messages of one device of each pool."""
        own = size * copies / split.tp
        theirs = size * copies * split.attention_dp / pools[1] * skew
        there = many_to_many(wire, sent * own, out, sent * theirs, into)
        back = many_to_many(wire.back, RETURNED * theirs, into, RETURNED * own, out)
        return np.asarray(there), np.asarray(back)

    ranks, several = _copies(spec, split.ep), _copies(spec, far)
    out = peers(split.ep, tokens * ranks, split.tp, split.moe_tp)
    rows = tokens * split.attention_dp * ranks / split.ep
    into = peers(split.attention_dp, rows, split.moe_tp, split.tp)
    there, back = both(ranks, over_mean(second.imbalance, second.skew, split.ep), out, into)
    joint = both(several, 1.0, np.maximum(far / local, 1.0), np.maximum(near / other, 1.0))
    joint = joint[0] + inside[0], joint[1] + inside[1]
    together = joint[0] + joint[1] < there + back
    return np.where(together, joint[0], there), np.where(together, joint[1], back)


def _sent(run: Runtime) -> float:
    """Bytes of an element on the way to the experts: 8 bits where activations have no more."""
    return min(OPERAND_BYTES[run.widths.activations], RETURNED)


def _copies(spec: MixtureOfExperts, groups: Array) -> Array:
    """Groups of experts that a token goes to."""
    few, where = np.unique(groups, return_inverse=True)
    found = distinct_groups(few, float(spec.top_k), float(spec.experts))
    return np.asarray(found[where].reshape(groups.shape))


def _nodes(run: Runtime, devices: Array) -> tuple[Array, Array]:
    """Devices of a pool in each of its nodes, and how many nodes it fills."""
    local = np.gcd(run.net.domains[0], devices.astype(np.int64)).astype(float)
    return local, devices / local
