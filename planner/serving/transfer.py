"""Moving a prompt's cache from the replica that took it in to the one that generates.

Every device sends its own part.  Layers leave while later ones are computed, so a request waits for
the last layer, or for what the link has not moved in the time of the prompt.  Source: DistServe,
arXiv 2401.09670, section 3.3; Splitwise, arXiv 2311.18677, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.layers.inference import Array
from planner.serving.fleet import Fleet, outermost
from planner.serving.space import fast_domain
from planner.specs.hardware import Tier


@dataclass(frozen=True)
class Link:
    """What a device of one replica sends through to another replica."""

    bandwidth: float
    """Achieved, per device [B/s]."""
    latency: float
    """Of one message [s]."""
    inside: bool = False
    """Whether both replicas share a node or a rack's fabric."""


def _through(tier: Tier, *, inside: bool = False) -> Link:
    return Link(tier.bandwidth / tier.oversubscription * tier.efficiency, tier.latency, inside)


def link_between(first: Fleet, second: Fleet) -> Link:
    """The link from any replica of a fleet to any of another: the slower of both networks.

    Raises
    ------
    PlannerError
        If they are different clusters and one has no network beyond the node.
    """
    if first.cluster == second.cluster:
        return _through(first.run.net.tiers[-1])
    ends = [_through(outermost(fleet)) for fleet in (first, second)]
    return Link(min(e.bandwidth for e in ends), max(e.latency for e in ends))


def link_inside(fleet: Fleet) -> Link:
    """The link between two replicas that share a fast domain."""
    return _through(fleet.run.net.tiers[fleet.run.net.scale_up], inside=True)


def unit_link(fleets: tuple[Fleet, Fleet]) -> Link:
    """The link between the attention and the experts' pool of a unit."""
    one, other = fleets
    inside = one is other and one.devices <= fast_domain(one.cluster)
    return link_inside(one) if inside else link_between(one, other)


def visible_seconds(link: Link, nbytes: Array, layers: int, prompt: Array) -> Array:
    """Time that a request waits for ``nbytes`` of each device after its prompt [s].

    Parameters
    ----------
    nbytes : (n,)
        The prompt's cache on one device [B].
    prompt : (n,)
        Time of the prompt, during which all layers but the last are sent [s].
    """
    whole = nbytes / link.bandwidth
    hidden = np.minimum(whole, prompt) * (1.0 - 1.0 / layers)
    return np.asarray(link.latency + whole - hidden)
