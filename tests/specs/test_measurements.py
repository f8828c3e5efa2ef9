"""Measurement tables: groups of rows as arrays, written and read back; bad cells are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.errors import PlannerError
from planner.specs.measurements import COLUMNS, SHAPES, TEXTS, Group, read, write

HEADER = ",".join(COLUMNS)
GEMM = "gemm,h100-sxm,vllm 0.24.0,bf16,m=1;n=2;k=3,1e-5"
DECODE = (
    "attention_decode,h100-sxm,vllm 0.24.0,bf16,"
    "batch=1;kv_len=9;heads=8;kv_heads=8;head_dim=64;kv_dtype=bf16;window=8,1e-5"
)


def parts(operation: str, value: int = 2) -> str:
    """A whole shape of an operation."""
    return ";".join(f"{part}={'word' if part in TEXTS else value}" for part in SHAPES[operation])


@pytest.fixture
def table(tmp_path: Path):
    def make(*lines: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return make


class TestReading:
    def test_rows_are_grouped_and_keep_their_lines(self, table) -> None:
        fp8 = GEMM.replace("bf16", "fp8")
        more = GEMM.replace("m=1", "m=5").replace("1e-5", "3e-5")
        wide, narrow = read(table(HEADER, GEMM, fp8, more))
        assert (wide.op, wide.accelerator, wide.library) == ("gemm", "h100-sxm", "vllm 0.24.0")
        assert (wide.dtype, narrow.dtype) == ("bf16", "fp8")
        assert wide.name == "gemm, h100-sxm, vllm 0.24.0, bf16"
        assert {part: values.tolist() for part, values in wide.shape.items()} == {
            "m": [1, 5],
            "n": [2, 2],
            "k": [3, 3],
        }
        assert wide.seconds.tolist() == [1e-5, 3e-5]
        assert (wide.lines.tolist(), narrow.lines.tolist()) == ([2, 4], [3])
        assert wide.texts.tolist() == ["m=1;n=2;k=3", "m=5;n=2;k=3"]

    def test_some_of_the_rows(self, table) -> None:
        (group,) = read(table(HEADER, *(GEMM.replace("m=1", f"m={m}") for m in (1, 5, 9))))
        few = group.take(group.shape["m"] > 3)
        assert few.shape["m"].tolist() == [5, 9]
        assert few.lines.tolist() == [3, 4]
        assert few.texts.tolist() == ["m=5;n=2;k=3", "m=9;n=2;k=3"]
        assert len(few.seconds) == 2
        assert few.name == group.name

    @pytest.mark.parametrize("operation", SHAPES)
    def test_every_operation_has_its_parts(self, table, operation: str) -> None:
        (group,) = read(table(HEADER, f"{operation},d,l 1,bf16,{parts(operation)},1"))
        assert tuple(group.shape) == SHAPES[operation]
        for part, values in group.shape.items():
            assert values.tolist() == (["word"] if part in TEXTS else [2.0])

    @pytest.mark.parametrize(
        ("operation", "part", "default"),
        [
            ("attention_prefill", "cached_len", 0),
            ("attention_decode", "window", 0),
            ("moe", "kernel", ""),
        ],
    )
    def test_what_a_shape_may_leave_out(self, table, operation, part, default) -> None:
        said = ";".join(p for p in parts(operation).split(";") if not p.startswith(f"{part}="))
        (group,) = read(table(HEADER, f"{operation},d,l 1,bf16,{said},1"))
        assert group.shape[part].tolist() == [default]

    def test_other_columns_of_ours_and_a_byte_order_mark_are_ignored(self, table) -> None:
        plain = read(table(HEADER, GEMM))[0]
        more = read(table(f"\ufeff{HEADER},source,notes,id", f"{GEMM},a page,none,7"))[0]
        assert same(plain, more)


def same(one: Group, other: Group) -> bool:
    """Whether two groups hold the same rows, wherever they stand in a file."""
    arrays = zip(
        (*one.shape.values(), one.seconds, one.texts),
        (*other.shape.values(), other.seconds, other.texts),
        strict=True,
    )
    return one.name == other.name and all(np.array_equal(a, b) for a, b in arrays)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    operations = [(operation, latency) for operation in SHAPES for latency in (1.5e-6, 0.25)]
    rows = [
        {
            "op": operation,
            "accelerator": "h100-sxm",
            "library": "a library, 1.0",  # the comma is quoted
            "dtype": "bf16",
            "shape": parts(operation, 3),
            "latency_s": latency,
        }
        for operation, latency in operations
    ]
    write(path, rows)
    groups = read(path)
    assert [group.op for group in groups] == list(SHAPES)
    assert all(group.library == "a library, 1.0" for group in groups)
    assert all(group.seconds.tolist() == [1.5e-6, 0.25] for group in groups)
    again = [
        {
            **{name: getattr(group, name) for name in COLUMNS[:4]},
            "shape": text,
            "latency_s": latency,
        }
        for group in groups
        for text, latency in zip(group.texts, group.seconds, strict=True)
    ]
    before = path.read_bytes()
    write(path, again)
    assert path.read_bytes() == before


class TestRefused:
    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("latency_s", "latency", "unknown column 'latency', did you mean 'latency_s'"),
            ("latency_s", "latency_us", "unknown column 'latency_us', did you mean 'latency_s'"),
            (",dtype", "", "missing column 'dtype'"),
        ],
    )
    def test_a_wrong_column(self, table, old: str, new: str, message: str) -> None:
        path = table(HEADER.replace(old, new), GEMM)
        with pytest.raises(PlannerError) as error:
            read(path)
        assert f"{path}: {message}" in str(error.value)
        assert "times in seconds" in str(error.value)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("gemm", "gem", "op: found 'gem', did you mean 'gemm'?, expected one of: gemm, "),
            ("gemm", "", "op: found '', expected one of: gemm, "),
            ("k=3", "l=3", "shape: found 'l=3', expected m, n, k"),
            ("k=3", "", "shape: found 'm=1;n=2;', expected k=... in it"),
            ("m=1", "m=0", "shape: found 'm=0', expected a positive number"),
            ("m=1", "m=-8", "shape: found 'm=-8', expected a positive number"),
            ("m=1", "m=1.5", "shape: found 'm=1.5', expected a whole number"),
            ("m=1", "m=many", "shape: found 'm=many', expected a whole number"),
            ("m=1", "m", "shape: found 'm', expected a whole number"),
            ("1e-5", "0", "latency_s: found '0', expected a positive time in seconds"),
            ("1e-5", "-1e-5", "latency_s: found '-1e-5', expected a positive time"),
            ("1e-5", "2.4 us", "latency_s: found '2.4 us', expected a positive time"),
            ("1e-5", "nan", "latency_s: found 'nan', expected a positive time"),
            ("1e-5", "inf", "latency_s: found 'inf', expected a positive time"),
            ("1e-5", "", "latency_s: found '', expected a positive time"),
            (",m=1;n=2;k=3,1e-5", "", "shape: found '', expected m=... in it"),
        ],
    )
    def test_a_wrong_cell_by_file_line_and_name(
        self, table, old: str, new: str, message: str
    ) -> None:
        path = table(HEADER, GEMM, GEMM.replace(old, new))
        with pytest.raises(PlannerError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: line 3: {message}")

    def test_a_part_of_another_operation_has_its_nearest_named(self, table) -> None:
        wrong = parts("attention_decode").replace("kv_len", "kv_length")
        with pytest.raises(PlannerError, match="'kv_length=2', did you mean 'kv_len'"):
            read(table(HEADER, f"attention_decode,d,l 1,bf16,{wrong},1"))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "missing column 'op'"),
            (HEADER.encode() + b"\n", "found no rows, expected measured times"),
            (b"\xff\xfe\x00", "cannot be read as CSV"),
            (None, "cannot be read as CSV"),
        ],
    )
    def test_a_file_without_rows(self, tmp_path: Path, content: bytes | None, message: str) -> None:
        path = tmp_path / "table.csv"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(PlannerError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: {message}")

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (["", GEMM.replace("1e-5", "0")], "line 3: latency_s"),  # after an empty line
            ([GEMM.replace("m=1", "m=1;m=2")], "line 2: shape: found 'm=2'"),
            ([GEMM.replace("1e-5", "1,5e-5")], "line 2: found .'5e-5'. after"),  # decimal comma
            ([DECODE.replace("window=8", "window=-8")], "line 2: shape: found 'window=-8'"),
            ([DECODE.replace("=bf16", "=")], "line 2: shape: found 'kv_dtype=', expected a word"),
        ],
    )
    def test_what_has_two_meanings(self, table, rows: list[str], message: str) -> None:
        with pytest.raises(PlannerError, match=message):
            read(table(HEADER, *rows))
