"""A plan: one configuration with everything that a user is told about it.

A plan is plain data and knows no scenario: what its metrics mean travels with it, as definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from planner.results.breakdown import Node


@dataclass(frozen=True)
class Metric:
    """What a number of a plan means."""

    name: str
    unit: str
    """SI, ``fraction``, ``count``, ``days``, ``TFLOP/s``, ``tokens/s`` or ``USD``."""
    definition: str


@dataclass(frozen=True)
class Assumption:
    """Something that a plan rests on and nobody measured for it."""

    name: str
    value: str
    reason: str
    """Why the value is plausible and where it comes from."""
    weight: float | None = None
    """Relative change of the time when the value moves by a tenth (a choice: when it is turned
    round); None while it has not been computed, or where no time depends on it."""


@dataclass(frozen=True)
class Sensitivity:
    """What a plan's time does when one number of the hardware gets a tenth better."""

    change: str
    """For instance ``+10 % bandwidth of fabric``."""
    effect: float
    """Relative change of the time; negative is faster."""


@dataclass(frozen=True)
class Plan:
    """One configuration, costed and explained.

    Examples
    --------
    ``plan["step_time"]`` is a metric, ``plan["tp"]`` the value of an axis.
    """

    rank: int
    configuration: Mapping[str, int | str | None]
    """By the names of the axes; None where the plan has no such part."""
    metrics: Mapping[str, float | None]
    """By the names of ``definitions``; None where an input is missing (a price, a deadline)."""
    memory: Mapping[str, float]
    """Bytes by kind on the device that needs most [B]."""
    memory_by_stage: tuple[tuple[int, float], ...]
    """(first stage with these contents, peak bytes of its devices [B])."""
    tree: Node
    definitions: Mapping[str, Metric] = field(repr=False)
    assumptions: tuple[Assumption, ...] = ()
    sensitivities: tuple[Sensitivity, ...] | None = None
    """None until they are asked for; see ``deepened``."""
    flags: tuple[str, ...] = ()
    """The options of the launched system that express the configuration."""
    not_expressed: tuple[str, ...] = ()
    """Choices that no option can express."""
    notes: tuple[str, ...] = ()
    """What the reader must know: it does not fit, no evidence is like it ..."""
    deepen: Callable[[Plan], Plan] | None = field(default=None, repr=False, compare=False)
    """Computes sensitivities and the weights of assumptions, which take further estimates."""

    def __getitem__(self, name: str) -> float | int | str | None:
        return self.configuration[name] if name in self.configuration else self.metrics[name]

    def deepened(self) -> Plan:
        """The plan with sensitivities and weights, where its inputs are at hand."""
        if self.sensitivities is not None or self.deepen is None:
            return self
        return self.deepen(self)

    def explain(self) -> str:
        """The breakdown, what would help and what the plan rests on, as text."""
        from planner.results.explain import explain

        return explain(self.deepened())

    def to_dict(self) -> dict[str, object]:
        """The plan as plain data, ready for JSON."""
        from planner.results.document import plan_document

        return plan_document(self)
