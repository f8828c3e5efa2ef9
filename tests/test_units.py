"""Quantities with units: what is read, what is refused and how it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import PlannerError
from planner.units import format_bytes, format_rate, format_time, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("2.4 us", "time", 2.4e-6),
        ("2.4us", "time", 2.4e-6),
        ("3 d", "time", 259200.0),
        ("80 GiB", "bytes", 80 * 2**30),
        ("80 GB", "bytes", 80e9),
        ("512 kB", "bytes", 512e3),
        ("3.35 TB/s", "bytes/s", 3.35e12),
        ("400 Gb/s", "bytes/s", 50e9),
        ("400 Gbit/s", "bytes/s", 50e9),
        ("1 GiB/s", "bytes/s", 2**30),
        ("989.4 TFLOP/s", "flop/s", 989.4e12),
        ("1.5 PFLOP/s", "flop/s", 1.5e15),
        ("624 TOP/s", "flop/s", 624e12),
        ("1830 MHz", "hertz", 1.83e9),
        ("700 W", "watts", 700.0),
        ("2.10/h", "usd/h", 2.1),
        ("2.10 USD/h", "usd/h", 2.1),
        ("$2.10/h", "usd/h", 2.1),
        ("10 %", "fraction", 0.1),
        (0.1, "fraction", 0.1),
        (8, "count", 8.0),
        ("1.5T", "tokens", 1.5e12),
        ("300B", "tokens", 300e9),
        (4096, "tokens", 4096.0),
    ],
)
def test_reads_units_into_si(text, dimension, expected):
    assert parse_quantity(text, dimension, where="here") == pytest.approx(expected, rel=1e-15)


def test_reads_an_exponent_that_yaml_leaves_as_text():
    assert parse_quantity("1e12", "tokens", where="here") == 1e12


def test_a_decimal_number_gives_the_nearest_float():
    assert parse_quantity("5.38 us", "time", where="here") == 5.38e-6
    assert parse_quantity("66.9 TFLOP/s", "flop/s", where="here") == 66.9e12


@pytest.mark.parametrize(
    ("text", "dimension", "found"),
    [
        (3350, "bytes/s", "no unit"),
        ("3350 GB", "bytes/s", "a size"),
        ("3.35 TB/s", "bytes", "a bandwidth"),
        ("80 gb", "bytes", "did you mean 'GB'"),
        ("80 parsec", "bytes", "unknown unit 'parsec'"),
        ("-1 GB", "bytes", "negative"),
        ("0 s", "time", "zero"),
        ("nan", "number", "'nan'"),
        (float("nan"), "number", "nan"),
        ("1e999", "number", "not finite"),
        (True, "count", "True"),
        (None, "count", "None"),
        ("8.5", "count", "not whole"),
        (1.2, "fraction", "more than 1"),
        ("$5 s", "time", "unknown unit"),
    ],
)
def test_refuses_and_says_what_was_found(text, dimension, found):
    with pytest.raises(PlannerError) as error:
        parse_quantity(text, dimension, where="x.yaml: some.field")
    assert str(error.value).startswith("x.yaml: some.field: found ")
    assert found in str(error.value)


def test_the_message_names_place_value_and_what_was_expected():
    where = "hardware_db/accelerators/x.yaml: memory.bandwidth"
    with pytest.raises(PlannerError) as error:
        parse_quantity("3350 GB", "bytes/s", where=where)
    assert str(error.value) == (
        "hardware_db/accelerators/x.yaml: memory.bandwidth: found '3350 GB' (a size), "
        "expected a bandwidth such as '3.35 TB/s'"
    )


def test_zero_passes_only_where_it_may():
    assert parse_quantity("0 s", "time", where="here", allow_zero=True) == 0.0


@given(st.floats(1e-12, 1e18), st.sampled_from(["B/s", "kB/s", "MB/s", "GB/s", "TB/s"]))
def test_bytes_are_eight_times_bits(value, unit):
    in_bytes = parse_quantity(f"{value!r} {unit}", "bytes/s", where="here")
    in_bits = parse_quantity(f"{value!r} {unit.replace('B', 'b')}", "bytes/s", where="here")
    assert in_bytes == pytest.approx(8 * in_bits)


@given(st.floats(1e-9, 1e17))
def test_what_is_shown_reads_back_to_four_digits(value):
    for shown, dimension in (
        (format_time(value), "time"),
        (format_bytes(value), "bytes"),
        (format_rate(value), "bytes/s"),
        (format_rate(value, "FLOP/s"), "flop/s"),
    ):
        assert parse_quantity(shown, dimension, where=shown) == pytest.approx(value, rel=5.1e-4)


def test_shows_the_largest_unit_that_is_filled():
    assert format_bytes(80 * 2**30) == "80 GiB"
    assert format_bytes(1023) == "1023 B"
    assert format_time(0.00123) == "1.23 ms"
    assert format_time(90) == "1.5 min"
    assert format_rate(3.35e12) == "3.35 TB/s"
    assert format_rate(989.4e12, "FLOP/s") == "989.4 TFLOP/s"
