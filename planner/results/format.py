"""Numbers as people read them, by the unit of their definition."""

from __future__ import annotations

from collections.abc import Mapping

from planner.results.plan import Metric
from planner.units import format_bytes, format_time

MISSING = "-"


def show(value: float | int | str | None, unit: str = "") -> str:
    """A value with its unit, in four digits at most.

    >>> show(0.4123, "fraction")
    '41.2 %'
    >>> show(1.5e6, "tokens/s")
    '1,500,000'
    >>> show(None, "USD")
    '-'
    """
    if value is None:
        return MISSING
    if isinstance(value, str) or not unit:
        return str(value)
    if unit == "s":
        return format_time(value)
    if unit == "B":
        return f"-{format_bytes(-value)}" if value < 0 else format_bytes(value)
    if unit == "fraction":
        return f"{100.0 * value:.1f} %"
    if unit == "USD":
        return f"${value:,.0f}" if abs(value) >= 100 else f"${value:,.2f}"
    if unit in ("count", "tokens/s"):
        return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.3g}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def show_metric(metrics: Mapping[str, float | None], definition: Metric) -> str:
    """A metric of a plan, with its unit where ``show`` leaves it out."""
    text = show(metrics[definition.name], definition.unit)
    shown = ("s", "B", "fraction", "USD", "count", "")
    return text if definition.unit in shown or text == MISSING else f"{text} {definition.unit}"


def signed_percent(share: float) -> str:
    """A relative change, with its sign.

    >>> signed_percent(-0.0081)
    '-0.8 %'
    """
    text = f"{100.0 * share:+.1f} %"
    return "0.0 %" if text in ("-0.0 %", "+0.0 %") else text


def assignments(configuration: Mapping[str, object]) -> str:
    """A configuration as people type it; what it does not have is left out.

    >>> assignments({"tp": 8, "pp": 4})
    'tp=8,pp=4'
    """
    return ",".join(f"{k}={v}" for k, v in configuration.items() if v is not None)
