"""The mixture-of-experts part of a layer: route, dispatch, experts, combine.

The experts' mesh is independent of attention's (arXiv 2504.14960): tokens that a tensor and context
parallel rank holds are sent to expert-parallel groups of ``ep`` ranks, each expert split over
``etp``.  The layer waits for its busiest rank, which holds ``imbalance`` times the mean.
"""

from __future__ import annotations

import numpy as np

from planner.costs import collectives, kernels, topology
from planner.costs.imbalance import busiest
from planner.costs.routing import distinct_groups
from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds, leaf, seq
from planner.layers.linear import Projection, projection
from planner.layers.part import Array, Part, Setting, factorised, moved
from planner.specs.model import DenseFeedForward, MixtureOfExperts
from planner.specs.skew import over_mean

EXCHANGE = ("dispatch tokens (EP)", "combine tokens (EP)")
"""Names of the leaves that a schedule may hide behind another micro-batch."""

ROUTER_KERNELS = 8.0
"""Small kernels from router logits to sorted token indices (top-k, softmax, histogram, sort)."""


@term(
    "D(R) = R (1 - C(E - E/R, K) / C(E, K)), at most the groups that routing allows",
    Ref("HierMoE, arXiv 2508.09591", "table II; DeepSeek-V3, arXiv 2412.19437, section 2.1.2"),
)
def distinct_domains(spec: MixtureOfExperts, domains: Array) -> Array:
    """Domains that hold at least one of a token's experts, on average, for uniform routing.

    Parameters
    ----------
    domains : (n,)
        Domains R over which the experts are spread evenly.
    """
    distinct = distinct_groups(domains, spec.top_k, spec.experts)
    if spec.route_groups is None:
        return distinct
    allowed, groups = spec.route_groups
    reachable = np.where(
        domains <= groups, distinct_groups(domains, allowed, groups), domains * allowed / groups
    )
    return np.minimum(distinct, reachable)


@term(
    "all-to-all: A2A(T k h 2); all-gather: AG(T n h 2); deduplicated: max(fabric T D h 2, inside)",
    Ref("MegaScale-MoE, arXiv 2505.11432; DeepEP README", "3.2; normal kernels"),
)
def exchange_time(
    setting: Setting, spec: MixtureOfExperts, skew: Array, tokens: Array, ep: Array, etp: Array
) -> Seconds:
    """Time to bring every token copy to its expert; combining takes the same [s].

    ``skew`` is the busiest rank's load over the mean.  ``deduplicated`` sends a token once to each
    scale-up domain and spreads it there, as DeepEP does.
    """
    net, hidden = setting.net, spec.expert_hidden(setting.hidden)
    token_bytes = 2.0 * tokens * hidden
    if setting.dispatch == "all-gather":
        return collectives.all_gather(net, ep * etp, 1, token_bytes * ep * etp)
    copies = busiest(token_bytes * spec.top_k, skew)
    spread = collectives.all_gather(net, etp, 1, copies * etp)
    if setting.dispatch == "all-to-all" or len(net.tiers) == 1:
        return collectives.all_to_all(net, ep, etp, copies) + spread
    inside = topology.members(net, ep, etp)[net.scale_up]
    domains = ep / inside
    crossing = busiest(token_bytes * distinct_domains(spec, domains), skew)
    outer = collectives.all_to_all(net, domains, etp * inside, crossing)
    inner = collectives.all_to_all(net, inside, etp, copies)
    return np.maximum(outer, inner) + spread


def moe_part(
    setting: Setting, spec: MixtureOfExperts, tokens: Array, tp: Array, ep: Array, etp: Array
) -> Part:
    """Cost of one mixture-of-experts part for one micro-batch on one device.

    Parameters
    ----------
    tokens : (n,)
        Tokens of a micro-batch that this rank routes: micro_batch * seq_len / (cp * tp).
    tp, ep, etp : (n,)
        Tensor parallelism of the shared experts, expert and expert-tensor parallelism.
    """
    job, device, hidden = setting.job, setting.device, setting.hidden
    inside = spec.expert_hidden(hidden)  # the width that experts see
    precision = job.precision
    skew = over_mean(job.imbalance, job.skew, ep)
    copies = tokens * spec.top_k
    rows = busiest(copies * etp, skew)
    local = spec.experts / ep
    width = spec.width / etp
    matrices = 3 if spec.gated else 2

    experts = kernels.experts(
        device,
        precision.matrix,
        rows,
        np.minimum(local, rows),
        local,
        inside,
        width,
        matrices,
        permute=False,  # counted below, with the copies of other ranks
    )
    if precision.cast_bytes:
        experts = experts + kernels.elementwise(device, precision.cast_bytes * rows * inside)
    exchange = exchange_time(setting, spec, skew, tokens, ep, etp)
    dispatch, combine = (leaf(name, exchange, "link") for name in EXCHANGE)

    def product(name: str, columns: float, depth: float) -> Projection:
        """A projection of the rank's tokens, whatever the experts' mesh."""
        return factorised(lambda t: projection(setting, name, t, float(columns), depth), tokens)

    router = product("router", spec.experts, hidden)
    latent = (
        [
            product("to the experts' width", inside, hidden),
            product("from the experts' width", hidden, inside),
        ]
        if spec.latent
        else []
    )
    permute_bytes = 4.0 * (copies + rows / etp) * inside
    always = spec.shared_width + spec.dense_width
    shared = (
        factorised(lambda *k: _always_active(setting, spec, *k), tokens, tp) if always else None
    )
    norm = moved(setting, "norm and residual", 10.0 * tokens * hidden, 2.0)
    forward = seq(
        "experts",
        [
            norm,
            router.forward,
            moved(setting, "top-k and sort", 8.0 * tokens * spec.experts, ROUTER_KERNELS),
            moved(setting, "permute", permute_bytes),
            dispatch,
            leaf("expert feed-forward", experts, "compute"),
            combine,
            moved(setting, "unpermute and weigh", permute_bytes),
            *(p.forward for p in latent),
            *([shared.forward] if shared else []),
        ],
    )
    backward = seq(
        "experts, backward",
        [
            moved(setting, "unpermute, backward", permute_bytes),
            combine,
            leaf("expert feed-forward, input gradient", experts, "compute"),
            dispatch,
            moved(setting, "permute, backward", permute_bytes),
            moved(setting, "top-k, backward", 8.0 * tokens * spec.experts, ROUTER_KERNELS / 2),
            router.backward,
            *(p.backward for p in latent),
            *([shared.backward] if shared else []),
            moved(setting, "norm and residual, backward", 14.0 * tokens * hidden, 2.0),
        ],
    )
    weight = seq(
        "experts, weight gradients",
        [
            leaf("expert feed-forward, weight gradient", experts, "compute"),
            router.weight,
            *(p.weight for p in latent),
            *([shared.weight] if shared else []),
        ],
    )
    columns = (2.0 if spec.gated else 1.0) * width
    dispatched = 2.0 * rows * inside
    activated = 2.0 * rows * width
    norm_output = 2.0 * tokens * hidden
    kept = 2.0 * tokens * hidden + norm_output + 2.0 * dispatched
    kept = kept + 2.0 * rows * columns + activated
    activate = moved(setting, "activation", 2.0 * rows * (columns + width))
    dense = always * matrices * hidden
    routed = spec.experts * spec.expert_parameters(hidden) / (ep * etp)
    return Part(
        forward,
        backward,
        weight,
        seq("selective recomputation", [norm, activate, *([shared.again] if shared else [])]),
        kept + (shared.kept if shared else 0.0),
        kept - norm_output - activated + (shared.kept_selective if shared else 0.0),
        dense / tp + (spec.always_active_parameters(hidden) - dense),
        exchange=2.0 * exchange,
        expert_parameters=routed,
    )


def _always_active(setting: Setting, spec: MixtureOfExperts, tokens: Array, tp: Array) -> Part:
    """Shared experts and a parallel dense branch, tensor-parallel like a dense layer."""
    hidden, net = setting.hidden, setting.net
    dense = DenseFeedForward(spec.shared_width + spec.dense_width, spec.gated)
    columns = (2.0 if dense.gated else 1.0) * dense.width / tp
    width = dense.width / tp
    group = tokens * tp
    up = projection(setting, "shared up projection", group, columns, hidden)
    down = projection(setting, "shared down projection", group, hidden, width)
    nbytes = 2.0 * group * hidden
    link = collectives.all_gather(net, tp, 1, nbytes)
    link = link + collectives.reduce_scatter(net, tp, 1, nbytes)
    edges = leaf("gather and reduce (TP)", link, "link")
    activation = 2.0 * group * (columns + width)
    activate = moved(setting, "activation", activation)
    gradient = moved(setting, "activation, backward", 1.5 * activation)
    kept = 2.0 * group * (columns + width)
    return Part(
        seq("shared experts", [edges, up.forward, activate, down.forward]),
        seq("shared experts, backward", [edges, down.backward, gradient, up.backward]),
        seq("shared experts, weight gradients", [down.weight, up.weight]),
        activate,
        kept,
        kept - 2.0 * group * width,
        dense.parameters(hidden) / tp,
    )
