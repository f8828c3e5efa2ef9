"""Tables: rounded for people, raw and complete for programs."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from planner.results.bands import Band
from planner.results.format import show, signed_percent
from planner.results.ranking import Ranking
from planner.results.tables import footer, ranking_csv, ranking_html, ranking_tsv


def screen(ranking: Ranking, width: int) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width).print(ranking)
    return out.getvalue()


def test_a_terminal_shows_rounded_columns_and_the_search(ranking: Ranking) -> None:
    text = screen(ranking, 120)
    for word in ("step", "tokens/s", "5 s", "60 GiB", "$1,234", "1,200 candidates", "±12 %"):
        assert word in text


def test_a_missing_number_is_a_dash_and_never_none(ranking: Ranking) -> None:
    text = screen(ranking, 120)
    assert "None" not in text and " - " in text


def test_an_unused_optional_column_is_left_out(ranking: Ranking) -> None:
    assert "gain" not in screen(ranking, 120) and " pp " not in screen(ranking, 120)
    plan = ranking.plans[0]
    split = replace(plan, configuration={**plan.configuration, "pp": 2})
    assert " pp " in screen(replace(ranking, plans=(split,)), 120)


def test_a_narrow_terminal_names_common_axes_below_the_table(ranking: Ranking) -> None:
    text = screen(ranking, 60)
    assert "all plans: schedule=1f1b" in text
    assert "…" not in text


def test_tsv_has_the_same_columns_with_raw_values(ranking: Ranking) -> None:
    lines = [line.split("\t") for line in ranking_tsv(ranking).splitlines()]
    assert lines[0] == ["rank", "tp", "schedule", "time", "speed", "size", "price"]
    assert float(lines[1][3]) == ranking.plans[0]["time"]
    assert lines[2][-1] == ""


def test_csv_holds_every_axis_metric_and_kind_of_memory(ranking: Ranking) -> None:
    rows = list(csv.DictReader(io.StringIO(ranking_csv(ranking))))
    plan = ranking.plans[1]
    for name, value in {**plan.configuration, **plan.metrics}.items():
        assert rows[1][name] == ("" if value is None else str(value))
    assert float(rows[1]["memory_weights"]) == plan.memory["weights"]


def test_the_frame_has_one_row_a_plan_and_numbers_as_numbers(ranking: Ranking) -> None:
    pytest.importorskip("pandas")
    frame = ranking.frame()
    assert list(frame.index) == [1, 2]
    assert frame.loc[1, "time"] == ranking.plans[0]["time"]


def test_html_is_one_escaped_table(ranking: Ranking) -> None:
    plan = ranking.plans[0]
    odd = replace(plan, configuration={**plan.configuration, "schedule": "<b>"})
    text = ranking_html(replace(ranking, plans=(odd,)))
    assert text.startswith("<table>") and "&lt;b&gt;" in text and "<b>" not in text


def test_the_footer_says_when_no_evidence_is_like_the_plan(ranking: Ranking) -> None:
    far = replace(ranking, bands={"time": Band(0.3, 900, "all")})
    assert "unlike any evidence" in footer(far)
    unknown = replace(ranking, bands={"time": Band(None, 0, "all")})
    assert "expected error unknown" in footer(unknown)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "-"),
        (12.34, "s", "12.34 s"),
        (-2.0 * 2**30, "B", "-2 GiB"),
        (0.4123, "fraction", "41.2 %"),
        (8, "", "8"),
        (0.5, "USD", "$0.50"),
        (417.31, "TFLOP/s", "417.3"),
    ],
)
def test_numbers_have_few_digits_and_their_unit(value: float, unit: str, text: str) -> None:
    assert show(value, unit) == text


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    assert signed_percent(-1e-6) == "0.0 %"
