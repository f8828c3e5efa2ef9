"""Every architecture on every fleet: columns evaluated once, then composed for the targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, product

from planner.serving import attention_ffn
from planner.serving.closed import closed_pairs
from planner.serving.columns import (
    Columns,
    aggregated_columns,
    decode_columns,
    prefill_columns,
    shared_columns,
    unit_columns,
)
from planner.serving.compose import copies, node_pairs, pairs
from planner.serving.deployment import Deployment, Means
from planner.serving.fleet import Fleet
from planner.serving.question import Question
from planner.serving.space import fast_domain
from planner.serving.transfer import Link, link_between, link_inside, unit_link
from planner.specs.model import ModelSpec


@dataclass
class Tables:
    """Columns of all roles."""

    both: list[Columns] = field(default_factory=list)
    """Replicas that prefill and decode."""
    joined: list[tuple[Columns, Columns, Link]] = field(default_factory=list)
    """Prefill columns, those that generate, and the link between them."""

    @property
    def tables(self) -> list[Columns]:
        """Every table once."""
        found = [*self.both, *(t for first, second, _ in self.joined for t in (first, second))]
        return list({id(one): one for one in found}.values())

    @property
    def columns(self) -> int:
        """Replicas at batches that were evaluated."""
        return sum(len(one) for one in self.tables)

    @property
    def compositions(self) -> int:
        """Deployments whose best counts are decided: columns alone, and pairs of them."""
        return sum(map(len, self.both)) + sum(len(a) * len(b) for a, b, _ in self.joined)


def evaluate(
    model: ModelSpec, means: Means, asked: Question, architectures: Sequence[str]
) -> Tables:
    """The columns of the architectures on all fleets.

    Raises
    ------
    PlannerError
        If two fleets that would have to exchange caches have no link.
    """
    found = Tables()
    whole = [fleet for fleet in means.fleets if fleet.role == "any"]
    if "aggregated" in architectures:
        found.both += [aggregated_columns(fleet, model, asked) for fleet in whole]
    if "shared-device" in architectures:
        found.both += [shared_columns(fleet, model, asked) for fleet in whole]
    behind = []
    if "disaggregated" in architectures:
        sinks = [fleet for fleet in means.fleets if fleet.serves("decode")]
        behind += [decode_columns(fleet, model, asked) for fleet in sinks]
    if "attention-ffn" in architectures and attention_ffn.expert_layers(model):
        behind += [*_units(model, means, asked)]
    sources = [fleet for fleet in means.fleets if fleet.serves("prefill")]
    for source, second in product(sources, behind):
        links = _links(source, second.fleet)
        for link in islice(links, 1) if second.experts else links:  # units are not paired in nodes
            found.joined.append((prefill_columns(source, model, asked, link), second, link))
    return found


def _units(model: ModelSpec, means: Means, asked: Question) -> Iterator[Columns]:
    """Attention-ffn units on every pair of fleets, and inside the fast domain of one."""
    first = [fleet for fleet in means.fleets if fleet.serves("attention")]
    second = [fleet for fleet in means.fleets if fleet.serves("ffn")]
    for pools in product(first, second):
        yield unit_columns(pools, model, asked, unit_link(pools))


def _links(source: Fleet, sink: Fleet) -> Iterator[Link]:
    """From any replica to any, and inside the nodes of one fleet."""
    yield link_between(source, sink)
    if source is sink and source.devices > fast_domain(source.cluster):
        yield link_inside(source)


def compose(found: Tables, model: ModelSpec, means: Means, asked: Question) -> Iterator[Deployment]:
    """The best deployment of every layout, or pair of layouts, that meets the targets."""
    for columns in found.both:
        yield from copies(columns, means, asked)
    for first, second, link in found.joined:
        if asked.concurrency is not None:
            if not link.inside and second.experts is None:
                yield from closed_pairs(first, second, model, means, asked)
        elif link.inside:
            yield from node_pairs(first, second, fast_domain(first.fleet.cluster), means, asked)
        else:
            yield from pairs(first, second, means, asked)
