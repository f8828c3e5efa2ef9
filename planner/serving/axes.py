"""The axes of a deployment: what a user may fix, one value or several each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.errors import PlannerError
from planner.specs.folders import near
from planner.specs.parallelism import Axis

SERVING_AXES = {
    axis.name: axis
    for axis in (
        Axis("replicas", "replicas that generate; for attention-ffn, pairs of pools"),
        Axis("tp", "tensor parallelism of attention and dense layers"),
        Axis("attention_dp", "copies of attention that share the experts"),
        Axis("ep", "expert parallelism: 1, or all devices of a stage"),
        Axis("pp", "pipeline stages"),
        Axis("prefill_replicas", "prefill replicas"),
        Axis("prefill_tp", "the same of a prefill replica"),
        Axis("prefill_attention_dp", "the same of a prefill replica"),
        Axis("prefill_ep", "the same of a prefill replica"),
        Axis("prefill_pp", "the same of a prefill replica"),
        Axis("prefill_share", "per cent of the multiprocessors for prompts (shared-device)"),
        Axis("ffn_ep", "devices of the expert pool (attention-ffn)"),
        Axis("ffn_tp", "tensor parallelism of each expert (attention-ffn)"),
        Axis("micro_batches", "batches that the two pools pass to and fro (attention-ffn)"),
    )
}

AxisValues = int | str | Sequence[int]


def fixed_values(given: Mapping[str, AxisValues]) -> dict[str, tuple[int, ...]]:
    """What the user allows for each axis: ``8``, ``"4,8"`` or ``[4, 8]``.

    Raises
    ------
    PlannerError
        If an axis is unknown or a value is no positive whole number.
    """
    found = {}
    for name, values in given.items():
        plain = name.strip().lower().replace("-", "_")
        if plain not in SERVING_AXES:
            raise PlannerError(
                f"unknown axis {name!r}{near(plain, SERVING_AXES)}; expected one of"
                f" {', '.join(SERVING_AXES)}."
            )
        items: Sequence[object] = (
            values.split(",")
            if isinstance(values, str)
            else values
            if isinstance(values, Sequence)
            else [values]
        )
        found[plain] = tuple(_number(SERVING_AXES[plain], item) for item in items)
    return found


def parse_deployment(text: str | Mapping[str, AxisValues]) -> dict[str, tuple[int, ...]]:
    """One value an axis from ``tp=8,replicas=4`` or a mapping.

    Raises
    ------
    PlannerError
        If an item is no ``axis=value``, or an axis stands twice.
    """
    if not isinstance(text, str):
        return fixed_values(text)
    pairs: dict[str, AxisValues] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals:
            raise PlannerError(f"baseline: found {item!r}, expected AXIS=VALUE.")
        if name.strip() in pairs:
            raise PlannerError(f"baseline: found {name.strip()} twice, expected once.")
        pairs[name.strip()] = value.strip()
    return fixed_values(pairs)


def _number(axis: Axis, item: object) -> int:
    text = str(item).strip()
    if not text.isdecimal() or int(text) < 1:
        raise PlannerError(f"{axis.flag}: found {item!r}, expected a whole number, 1 or more.")
    return int(text)
