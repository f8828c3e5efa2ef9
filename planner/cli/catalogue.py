"""What ``roofplan show`` tells, as headers and rows of text."""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from planner.errors import PlannerError
from planner.specs.folders import near
from planner.specs.hardware import Accelerator, Cluster, Tier
from planner.specs.kernel_sets import KernelSet, parameters_of
from planner.specs.model import Layer, MixtureOfExperts, ModelSpec
from planner.units import format_bytes, format_rate, format_time

Rows = tuple[Sequence[str], list[Sequence[object]]]

FIELDS = ("field", "value", "source")
ROOMS_WITH_TERMS = ("planner.costs", "planner.layers", "planner.training")


def hardware(name: str | None, db: Sequence[str]) -> Rows:
    """All accelerators, or every number of one with its source."""
    from planner.specs.catalog import find_accelerator, list_accelerators

    if name is not None:
        return FIELDS, list(_device(find_accelerator(name, db)))
    headers = ("name", "vendor", "generation", "bf16", "fp8", "memory", "bandwidth", "price")
    return headers, [_summary(find_accelerator(one, db), one) for one in list_accelerators(db)]


def _summary(device: Accelerator, name: str) -> Sequence[object]:
    rates = (device.peak.get(dtype) for dtype in ("bf16", "fp8"))
    return (
        name,
        device.vendor,
        device.generation,
        *(rate and format_rate(rate, "FLOP/s") for rate in rates),
        format_bytes(device.memory),
        format_rate(device.memory_bandwidth),
        device.price and f"{device.price.per_hour:.2f} USD/h",
    )


def _device(device: Accelerator) -> Iterator[Sequence[object]]:
    def row(field: str, value: object, key: str = "") -> Sequence[object]:
        return field, value, device.sources.get(key or field)

    yield row("vendor", device.vendor)
    yield row("generation", device.generation)
    for dtype, rate in device.peak.items():
        yield row(f"peak.{dtype}", format_rate(rate, "FLOP/s"))
    yield row("memory", format_bytes(device.memory), "memory.capacity")
    yield row("memory_bandwidth", format_rate(device.memory_bandwidth), "memory.bandwidth")
    yield row("cores", device.cores)
    yield row("clock", device.clock and format_rate(device.clock, "Hz"))
    yield row("l2_cache", device.l2_cache and format_bytes(device.l2_cache))
    yield row("host_bandwidth", format_rate(device.host_bandwidth))
    yield row("power", device.power and f"{device.power:g} W")
    if device.price:
        price = device.price
        yield (
            "price",
            f"{price.per_hour:.2f} USD/h ({price.provider_class}, {price.date})",
            (price.source),
        )
    for family, libraries in device.kernels.items():
        for library, sets in libraries.items():
            for dtype, one in sets.items():
                yield f"kernels.{family}.{library}.{dtype}", _kernel(one), one.source


def _kernel(one: KernelSet) -> str:
    """The numbers of a set and how well they hold."""
    shown = []
    for field in parameters_of(type(one)):
        value, kind = getattr(one, field.name), field.metadata.get("kind")
        if isinstance(value, float) and value != field.default:
            text = format_time(value) if kind == "time" else f"{value:.3g}"
            shown.append(f"{field.name} {format_rate(value) if kind == 'bytes/s' else text}")
    if one.fit.error is not None:
        shown.append(f"error {one.fit.error:.1%}")
    return ", ".join(shown)


def clusters(name: str | None, db: Sequence[str]) -> Rows:
    """All clusters, or the tiers of one with their sources."""
    from planner.specs.catalog import find_cluster, list_clusters

    if name is not None:
        return FIELDS, list(_cluster(find_cluster(name, db)))
    headers = ("name", "accelerator", "devices a node", "most devices", "tiers", "price")
    rows: list[Sequence[object]] = []
    for one in list_clusters(db):
        found = find_cluster(one, db)
        tiers = ", ".join(f"{tier.name} {format_rate(tier.bandwidth)}" for tier in found.tiers)
        hourly = found.price_per_hour
        price = hourly and f"{hourly:.2f} USD/h"
        shape = (found.devices_per_node, found.max_devices)
        rows.append((one, found.accelerator.name, *shape, tiers, price))
    return headers, rows


def _cluster(cluster: Cluster) -> Iterator[Sequence[object]]:
    yield "accelerator", cluster.accelerator.name, None
    yield "devices_per_node", cluster.devices_per_node, None
    yield "max_devices", cluster.max_devices, cluster.sources.get("max_devices")
    hourly = cluster.price_per_hour
    price = cluster.price or cluster.accelerator.price
    yield "price", hourly and f"{hourly:.2f} USD/h", price and price.source
    for tier in cluster.tiers:
        for field, value in _tier(tier):
            yield f"{tier.name}.{field}", value, tier.sources.get(field)


def _tier(tier: Tier) -> Iterator[tuple[str, object]]:
    yield "devices", tier.devices
    yield "topology", tier.topology
    yield "bandwidth", format_rate(tier.bandwidth)
    yield "pair_bandwidth", format_rate(tier.pair_bandwidth)
    yield "latency", format_time(tier.latency)
    yield "oversubscription", f"{tier.oversubscription:g}"
    yield "efficiency", f"{tier.efficiency:g}"
    for operation, line in tier.collectives.items():
        yield f"collectives.{operation}", format_rate(line.bandwidth)


def models(name: str | None, db: Sequence[str]) -> Rows:
    """All models, or the structure of one."""
    from planner.specs.models_catalog import catalogue, find_model, list_models

    known = catalogue(db)
    if name is not None:
        found = find_model(name, db)
        return ("field", "value"), list(_model(found, known.get(found.name, {})))
    headers = ("name", "published total (billions)", "published active (billions)", "aliases")
    return headers, [_published(one, known.get(one, {})) for one in list_models(db)]


def _published(name: str, entry: Mapping[str, object]) -> Sequence[object]:
    published = entry.get("published")
    counts = published if isinstance(published, Mapping) else {}
    aliases = entry.get("aliases")
    names = ", ".join(map(str, aliases)) if isinstance(aliases, list) else None
    return name, counts.get("total_b"), counts.get("active_b"), names


def _model(model: ModelSpec, entry: Mapping[str, object]) -> Iterator[Sequence[object]]:
    count = model.parameters()
    yield "name", model.name
    yield "parameters", f"{count.total / 1e9:.4g} billion"
    yield "active parameters", f"{count.active / 1e9:.4g} billion"
    without = count.active_without_input_embedding
    yield "active, without the input embedding", f"{without / 1e9:.4g} billion"
    if count.mtp:
        yield "multi-token prediction", f"{count.mtp / 1e9:.4g} billion more"
    yield "hidden", model.hidden
    yield "vocabulary", model.vocab
    yield "tied embeddings", "yes" if model.tied_embeddings else "no"
    yield "layers", model.num_layers
    for layer, times in Counter(model.layers).items():
        yield f"{times} x", _layer(layer)
    for key in ("source", "confidence", "hf_repo"):
        if key in entry:
            yield key, entry[key]


def _layer(layer: Layer) -> str:
    text = f"{type(layer.attention).__name__} of {layer.attention.heads} heads"
    part = layer.feedforward
    if part is None:
        return text
    if isinstance(part, MixtureOfExperts):
        shared = f", {part.shared_width} shared" if part.shared_width else ""
        return f"{text}, {part.top_k} of {part.experts} experts of width {part.width}{shared}"
    return f"{text}, feed-forward of width {part.width}"


def terms(name: str | None, db: Sequence[str]) -> Rows:
    """Every registered equation with its paper and place, or one with its docstring."""
    from planner.costs.terms import TERMS

    for room in ROOMS_WITH_TERMS:
        for module in pkgutil.walk_packages(import_module(room).__path__, f"{room}."):
            import_module(module.name)
    if name is None:
        rows: list[Sequence[object]] = [
            (one.name, one.equation, f"{one.ref.source}, {one.ref.locator}")
            for _, one in sorted(TERMS.items())
        ]
        return ("name", "equation", "reference"), rows
    found = TERMS[_one("term", name, TERMS)]
    return ("field", "value"), [
        ("name", found.name),
        ("equation", found.equation),
        ("source", found.ref.source),
        ("locator", found.ref.locator),
        ("summary", found.summary),
    ]


def axes(name: str | None, db: Sequence[str]) -> Rows:
    """Every axis of choice, or one."""
    from planner.cli.options import axis_flags
    from planner.specs.parallelism import TRAINING_AXES
    from planner.training.axes import find_axis

    chosen = [find_axis(name)] if name is not None else list(TRAINING_AXES.values())
    headers = ("name", "option", "values", "what it is")
    return headers, [
        (
            axis.name,
            ", ".join(axis_flags(axis)),
            ", ".join(axis.values) or "whole numbers",
            axis.help,
        )
        for axis in chosen
    ]


def _one(kind: str, name: str, known: Mapping[str, object]) -> str:
    """The only key that is ``name`` or ends in it."""
    matches = [key for key in known if f".{key}".endswith(f".{name}")]
    if len(matches) == 1:
        return matches[0]
    found = f"ambiguous {kind} {name!r}" if matches else f"unknown {kind} {name!r}"
    hint = near(name, [key.rpartition(".")[2] for key in known])
    raise PlannerError(f"{found}{hint}; expected one of {', '.join(matches or sorted(known))}.")
