"""Quantities as text with a unit, read into SI floats and written back for people.

Files and options say ``3.35 TB/s``, ``80 GiB`` or ``2.4 us``; inside there are only plain floats in
s, B, B/s, FLOP/s, Hz, W.  A bare number where a unit is due, or a unit of another dimension, is an
error that names the place.  Units are case-sensitive: ``GB/s`` is bytes, ``Gb/s`` is bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from planner.errors import PlannerError

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def _prefixed(unit: str, prefixes: Mapping[str, float], scale: float = 1.0) -> dict[str, float]:
    return {prefix + unit: factor * scale for prefix, factor in prefixes.items()}


_SIZES = _prefixed("B", _DECIMAL) | _prefixed("B", _BINARY)
_TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_LONG_TIMES = {"min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class _Dimension:
    noun: str
    example: str
    units: Mapping[str, float]
    """Unit -> factor to SI; the empty unit is there when a bare number is welcome."""
    whole: bool = False
    most: float = math.inf


_DIMENSIONS = {
    "time": _Dimension("a time", "2.4 us", _TIMES | _LONG_TIMES),
    "bytes": _Dimension("a size", "80 GiB", _SIZES),
    "bytes/s": _Dimension(
        "a bandwidth",
        "3.35 TB/s",
        {unit + "/s": factor for unit, factor in _SIZES.items()}
        | _prefixed("b/s", _DECIMAL, 1 / 8)
        | _prefixed("bit/s", _DECIMAL, 1 / 8),
    ),
    "flop/s": _Dimension(
        "a compute rate",
        "989.4 TFLOP/s",
        _prefixed("FLOP/s", _DECIMAL)
        | _prefixed("FLOPS", _DECIMAL)
        | _prefixed("OP/s", _DECIMAL)
        | _prefixed("OPS", _DECIMAL),
    ),
    "hertz": _Dimension("a frequency", "1830 MHz", _prefixed("Hz", _DECIMAL)),
    "watts": _Dimension("a power", "700 W", _prefixed("W", _DECIMAL)),
    "usd/h": _Dimension(
        "a price", "2.10 USD/h", {"/h": 1.0, "USD/h": 1.0, "$/h": 1.0, "usd/h": 1.0}
    ),
    "fraction": _Dimension("a fraction", "0.1 or '10 %'", {"": 1.0, "%": 0.01}, most=1.0),
    "number": _Dimension("a plain number", "7", {"": 1.0}),
    "count": _Dimension("a whole number", "8", {"": 1.0}, whole=True),
    "tokens": _Dimension(
        "a number of tokens",
        "1.5T",
        {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12},
        whole=True,
    ),
}
_QUANTITY = re.compile(r"\s*(\$?)([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(\S*)\s*")


def parse_quantity(text: object, dimension: str, *, where: str, allow_zero: bool = False) -> float:
    """Read a quantity into SI units.

    Parameters
    ----------
    text
        What the file or the option holds, for instance ``"3.35 TB/s"``.
    dimension
        ``time`` [s], ``bytes`` [B], ``bytes/s`` [B/s], ``flop/s`` [FLOP/s], ``hertz`` [Hz],
        ``watts`` [W], ``usd/h``, or, where bare numbers are welcome, ``fraction``, ``number``,
        ``count`` and ``tokens``.
    where
        The file and the dotted field, or the option, for the error message.
    allow_zero
        Whether zero passes; negative numbers never do.

    Raises
    ------
    PlannerError
        If the text is no number, has no unit or a wrong one, or is out of range.

    Examples
    --------
    >>> parse_quantity("400 Gb/s", "bytes/s", where="fabric.bandwidth")
    50000000000.0
    >>> parse_quantity("1.5T", "tokens", where="--tokens")
    1500000000000.0
    """
    expected = _DIMENSIONS[dimension]

    def refuse(found: str) -> PlannerError:
        shown = expected.example if "'" in expected.example else f"'{expected.example}'"
        return PlannerError(f"{where}: found {found}, expected {expected.noun} such as {shown}")

    match = None if isinstance(text, bool) else _QUANTITY.fullmatch(str(text))
    if match is None:
        raise refuse(f"{text!r}")
    unit = match[1] + match[3]
    if unit not in expected.units:
        raise refuse(f"{text!r} ({_describe_unit(unit, expected)})")
    value = float(Decimal(match[2]) * Decimal(str(expected.units[unit])))
    if not math.isfinite(value) or value < 0 or (value == 0 and not allow_zero):
        raise refuse(f"{text!r} ({'negative' if value < 0 else 'zero or not finite'})")
    if value > expected.most:
        raise refuse(f"{text!r} (more than 1)")
    if expected.whole and abs(value - round(value)) > 1e-9 * value:
        raise refuse(f"{text!r} (not whole)")
    return float(round(value)) if expected.whole else value


def _describe_unit(unit: str, expected: _Dimension) -> str:
    """What a wrong unit is: missing, of another dimension, or a near match."""
    if not unit:
        return "no unit"
    for known in expected.units:
        if known.lower() == unit.lower():
            return f"unknown unit, did you mean {known!r}?"
    for dimension in _DIMENSIONS.values():
        if unit in dimension.units:
            return dimension.noun
    return f"unknown unit {unit!r}"


def format_bytes(size: float) -> str:
    """A size in binary units, as device memories are counted.

    >>> format_bytes(80 * 2**30)
    '80 GiB'
    """
    return _scaled(size, {"B": 1.0} | _prefixed("B", _BINARY))


def format_time(seconds: float) -> str:
    """A time from nanoseconds to days.

    >>> format_time(0.00123)
    '1.23 ms'
    """
    return _scaled(seconds, {k: v for k, v in (_TIMES | _LONG_TIMES).items() if k != "µs"})


def format_rate(rate: float, unit: str = "B/s") -> str:
    """A rate in decimal units.

    >>> format_rate(3.35e12)
    '3.35 TB/s'
    >>> format_rate(989.4e12, "FLOP/s")
    '989.4 TFLOP/s'
    """
    return _scaled(rate, _prefixed(unit, _DECIMAL))


def _scaled(value: float, units: Mapping[str, float]) -> str:
    """``value`` in the largest unit that it fills, to four significant digits."""
    smallest = min(units, key=units.__getitem__)
    filled = [unit for unit in units if abs(value) >= units[unit] * (1 - 1e-12)]
    unit = max(filled, key=units.__getitem__, default=smallest)
    return f"{value / units[unit]:.4g} {unit}"
