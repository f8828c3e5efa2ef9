"""The project's own copy of the tables: unchanged, complete, and read strictly."""

import csv
import hashlib
import shutil

import pytest

from planner.errors import PlannerError
from planner.evidence.tables import DATA, TRAINING_METRICS, read_training


def test_tables_are_the_ones_that_the_checksums_name():
    for line in (DATA / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split()
        found = hashlib.sha256((DATA / name).read_bytes()).hexdigest()
        assert found == digest, f"{name} has changed; if that is meant, update SHA256SUMS"


def test_a_run_has_one_row_for_each_metric():
    rows = read_training(DATA / "training.csv")
    assert len({(row.id, row.metric) for row in rows}) == len(rows) == 1607
    assert {row.metric for row in rows} <= set(TRAINING_METRICS)


def test_every_source_is_attributed():
    page = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    for source in {row.source for row in read_training(DATA / "training.csv")}:
        name = source.split(" Table")[0].split(" docs")[0].split(" data")[0].split(" README")[0]
        name = name.split(" scripts")[0].split(" benchmarks")[0].split(" section")[0]
        name = name.split(" tr11")[0].split(" 25.")[0]
        assert f"| {name} |" in page, source


def test_out_of_memory_rows_count_as_one():
    assert {row.value for row in read_training(DATA / "training_oom.csv")} == {1.0}


def _with_cell(tmp_path, column, value):
    path = tmp_path / "training.csv"
    shutil.copy(DATA / "training.csv", path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:3]
    rows[1][column] = value
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(("column", "value"), [("tp", "eight"), ("value", ""), ("pp", "1.5")])
def test_a_cell_that_is_not_a_number_is_named(tmp_path, column, value):
    with pytest.raises(PlannerError, match=rf"training.csv: line 3, {column}: found '{value}'"):
        read_training(_with_cell(tmp_path, column, value))


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "training.csv"
    path.write_text("id,source\na,b\n", encoding="utf-8")
    with pytest.raises(PlannerError, match="no column 'accelerator'"):
        read_training(path)
