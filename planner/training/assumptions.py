"""What a training plan rests on that nobody measured for it, and how much each item matters.

An item's weight is the relative change of the step time when its value moves by a tenth, or, for a
choice, when it is turned round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.costs import kernels, memory
from planner.results.format import show
from planner.results.plan import Assumption
from planner.specs.better import TENTH, wider
from planner.specs.hardware import Cluster
from planner.specs.parallelism import Configuration, experts_of
from planner.specs.workload import TrainingJob
from planner.training import fitted
from planner.training.estimate import Estimate, estimate
from planner.training.request import Request

Changed = tuple[Cluster, TrainingJob]
ASSUMED = "assumed"


@dataclass(frozen=True)
class _Item:
    """An assumption and the inputs with its value moved; None where no time depends on it."""

    assumption: Assumption
    moved: Changed | None = None


def assumptions(request: Request) -> tuple[Assumption, ...]:
    """All assumptions of a request, not weighed."""
    return tuple(item.assumption for item in _items(request))


def weigh(request: Request, base: Estimate) -> tuple[Assumption, ...]:
    """All assumptions of a request, weighed for one configuration."""
    return tuple(_weigh(request, base, item) for item in _items(request))


def _weigh(request: Request, base: Estimate, item: _Item) -> Assumption:
    if item.assumption.name == _STRAGGLERS:
        share = base.step["stragglers"] / base.seconds
        return replace(item.assumption, weight=TENTH * share)
    if item.moved is None:
        return item.assumption
    cluster, job = item.moved
    return replace(item.assumption, weight=change(request, base, cluster, job))


def change(request: Request, base: Estimate, cluster: Cluster, job: TrainingJob) -> float:
    """Relative change of a configuration's step time on other hardware or for another job."""
    moved = _seconds(request, cluster, job, base.configuration)
    return moved / base.seconds - 1.0


def _seconds(
    request: Request, cluster: Cluster, job: TrainingJob, configuration: Configuration
) -> float:
    return estimate(request.model, cluster, job, configuration).seconds


_STRAGGLERS = "stragglers"


def _items(request: Request) -> list[_Item]:
    return [
        *_workload_items(request),
        *_kernel_items(request),
        *_network_items(request),
        *_price_items(request),
    ]


def _workload_items(request: Request) -> Iterator[_Item]:
    job, cluster = request.job, request.cluster
    if experts_of(request.model):
        given = request.options.imbalance is not None
        reason = (
            "given"
            if given
            else f"times that of {job.skew.source}"
            if job.skew is not None
            else "assumed: busiest rank over the mean after balancing, DeepSeek-R1 over 36 ranks"
            " (TensorRT-LLM, examples/ep_load_balancer)"
        )
        more = replace(job, imbalance=job.imbalance * (1.0 + TENTH))
        yield _Item(Assumption("expert imbalance", f"{job.imbalance:g}", reason), (cluster, more))
    yield _Item(
        Assumption(
            _STRAGGLERS,
            f"{show(fitted.STRAGGLER_PER_DOUBLING, 'fraction')} of a step a doubling of nodes",
            "fitted to published runs: slow hosts and jitter",
        )
    )
    other = replace(
        job, software=replace(job.software, overlaps_gradients=not job.software.overlaps_gradients)
    )
    yield _Item(
        Assumption(
            "overlap of gradient reduction",
            "on" if job.software.overlaps_gradients else "off",
            f"how {job.software.name} is run",
        ),
        (cluster, other),
    )
    yield _Item(
        Assumption(
            "framework memory",
            show(memory.FRAMEWORK_BYTES, "B"),
            "assumed: workspaces and allocator slack that no tensor explains",
        )
    )
    for name, text in job.assumptions.items():
        yield _Item(Assumption(name, text, "default for what the source leaves open"))


def _kernel_items(request: Request) -> Iterator[_Item]:
    """Kernel efficiencies that were assumed or borrowed from another device."""
    job, device = request.job, request.cluster.accelerator
    families = {"gemm": job.precision.matrix, "attention_prefill": "bf16", "elementwise": "bf16"}
    if experts_of(request.model):
        families["experts"] = job.precision.matrix
    for family, dtype in families.items():
        kernel = kernels.parameters(device, family, dtype)
        if not kernel.source.startswith((ASSUMED, "like ")):
            continue
        field = "memory" if family == "elementwise" else "compute"
        value = getattr(kernel, field)
        lower = replace(kernel, **{field: value * (1.0 - TENTH)})
        changed = {
            library: {name: lower if one is kernel else one for name, one in sets.items()}
            for library, sets in device.kernels[family].items()
        }
        slower = replace(device, kernels={**device.kernels, family: changed})
        cluster = replace(request.cluster, accelerator=slower)
        yield _Item(
            Assumption(f"efficiency of {family}, {dtype}", f"{value:.3g} of peak", kernel.source),
            (cluster, job),
        )


def _network_items(request: Request) -> Iterator[_Item]:
    """Efficiencies of tiers that no measurement backs."""
    cluster, job = request.cluster, request.job
    yield _Item(
        Assumption(
            "slower links inside a job",
            f"{fitted.LINK_SLOWDOWN:g} times the benchmarked transfer",
            "fitted to published runs",
        ),
        (slower_links(cluster, 1.0 + TENTH), job),
    )
    for index, tier in enumerate(cluster.tiers):
        source = tier.sources.get("efficiency", ASSUMED)
        if not source.startswith(ASSUMED):
            continue
        lower = replace(tier, efficiency=tier.efficiency * (1.0 - TENTH))
        changed = replace(
            cluster, tiers=(*cluster.tiers[:index], lower, *cluster.tiers[index + 1 :])
        )
        yield _Item(
            Assumption(
                f"efficiency of {tier.name}", f"{tier.efficiency:g} of nominal bandwidth", source
            ),
            (changed, job),
        )


def slower_links(cluster: Cluster, factor: float) -> Cluster:
    """The cluster with every link's bandwidth divided by ``factor``, measured lines included."""
    return replace(cluster, tiers=tuple(wider(tier, 1.0 / factor) for tier in cluster.tiers))


def _price_items(request: Request) -> Iterator[_Item]:
    price = request.cluster.price or request.cluster.accelerator.price
    if price is not None:
        when = f", {price.date}" if price.date else ""
        yield _Item(
            Assumption(
                "price", f"${price.per_hour:.2f} a device-hour", f"{price.provider_class}{when}"
            )
        )
