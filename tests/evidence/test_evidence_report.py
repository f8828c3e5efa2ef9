"""The report over the project's own tables: its form, its coverage, and the page made from it."""

import csv
import json
import shutil

import pytest

pytest.importorskip("planner.specs.models_catalog")

from planner.errors import PlannerError
from planner.evidence import fit
from planner.evidence.bands import BANDS
from planner.evidence.page import page
from planner.evidence.publish import PAGE, publish
from planner.evidence.tables import DATA
from planner.evidence.validate import render, validate

from .conftest import own_report

FIGURES = ("rows", "predicted", "skipped", "median_ape", "mape", "p90_ape", "bias")
FIGURES += ("within_20pct", "spearman")


@pytest.fixture(scope="module")
def report():
    return own_report()


@pytest.fixture(scope="module")
def training(report):
    return report.to_dict()["training"]


def test_the_report_is_plain_data_with_the_promised_keys(report, training):
    json.dumps(report.to_dict(), allow_nan=False)
    assert training["rows"] == 1607
    for group in (training, training["headline"], training["set_a"], training["memory"]):
        assert set(FIGURES) <= set(group)
    for key in ("by_metric", "by_source", "by_metric_and_source"):
        assert training[key]
    assert training["rows"] == training["predicted"] + training["skipped"]


def test_every_name_of_the_tables_resolves(report):
    assert not [p.reason for p in report.rows if "unknown" in p.reason]


def test_at_least_95_percent_of_time_and_memory_rows_are_predicted(training):
    groups = [training["headline"], training["memory"]]
    total = sum(group["rows"] for group in groups)
    assert sum(group["predicted"] for group in groups) >= 0.95 * total


def test_a_row_has_a_prediction_or_a_reason(report):
    for p in report.rows:
        assert (p.predicted is None) == bool(p.reason)


def test_rows_are_written_with_the_promised_columns(report, tmp_path):
    path = tmp_path / "rows.csv"
    report.write_rows(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "source", "metric", "measured", "predicted", "ape", "reason"]
    assert len(rows) == len(report.rows)
    first = rows[0]
    error = abs(float(first["predicted"]) / float(first["measured"]) - 1.0)
    assert float(first["ape"]) == pytest.approx(error, abs=1e-3)


def test_text_and_page_name_every_source(report):
    text, markdown = render(report), page(report)
    for source in {p.row.source for p in report.rows}:
        assert source[:58] in text
        assert source in markdown


def test_a_folder_of_tables_is_read_like_the_own_copy(report, tmp_path):
    shutil.copy(DATA / "training_oom.csv", tmp_path)
    found = validate(tmp_path)
    assert list(found.to_dict()) == ["training_oom"]
    assert found.rows == report.tables["training_oom"]


def test_only_names_one_table(tmp_path):
    assert list(validate(only="training_oom").to_dict()) == ["training_oom"]
    with pytest.raises(PlannerError, match="--only: found 'trianing'"):
        validate(only="trianing")
    with pytest.raises(PlannerError, match="found no table"):
        validate(tmp_path)


def test_the_page_and_the_bands_are_those_of_the_code(report, tmp_path):
    made, bands = tmp_path / "validation.md", tmp_path / "error_bands.json"
    publish(report, made, bands, tmp_path / "medians.json")
    for kept, fresh in ((PAGE, made), (BANDS, bands)):
        words, expected = (path.read_text(encoding="utf-8").split() for path in (kept, fresh))
        assert len(words) == len(expected), f"{kept}: run python -m planner.evidence.publish"
        for word, other in zip(words, expected, strict=True):
            assert same(word, other), f"{kept}: run python -m planner.evidence.publish"


def same(word, other):
    """Equal, or numbers that differ by rounding on another machine."""
    try:
        numbers = [float(text.strip("%,:|")) for text in (word, other)]
    except ValueError:
        return word == other
    return numbers[0] == pytest.approx(numbers[1], rel=0.01, abs=0.11)


def test_the_left_out_errors_were_found_with_the_parameters_of_the_code():
    known = json.loads(fit.RESULT.read_text(encoding="utf-8"))["parameters"]
    current = {p.name: p.value for p in fit.parameters()}
    assert known == current, "run python -m planner.evidence.fit --leave-one-out"
