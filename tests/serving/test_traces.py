"""Traces: what Azure's and Mooncake's files say, and what is wrong with other files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from planner.errors import PlannerError
from planner.serving.traces import SUMMARIES, find_trace, summary_names

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
AZURE = f"""{HEADER}
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.9799600,3180,8
2023-11-16 18:17:07.9799600,110,27
"""
MOONCAKE = [
    {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 2000, "input_length": 1024, "output_length": 7, "hash_ids": [0, 3]},
    {"timestamp": 3000, "input_length": 1024, "output_length": 9, "hash_ids": [0, 3]},
    {"timestamp": 3000, "input_length": 600, "output_length": 1, "hash_ids": [4, 1]},
]


def lines(*rows: object) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A file of that name and content; its path."""

    def make(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


class TestAzure:
    def test_lengths_rate_and_variation(self, write: Write) -> None:
        found = find_trace(write("code.csv", AZURE))
        assert found.name == "code"
        assert found.lengths.mean(found.lengths.isl) == pytest.approx((4808 + 3180 + 110) / 3)
        assert found.lengths.mean(found.lengths.osl) == pytest.approx(15.0)
        assert found.rate == pytest.approx(2 / 4)
        assert found.variation == pytest.approx(1.0 / 2.0)  # gaps of 1 s and 3 s
        assert found.arrivals == pytest.approx([0.0, 1.0, 4.0])
        assert found.hit == 0.0

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text.replace("\n", "\r\n"),
            lambda text: "\ufeff" + text,
            lambda text: text.replace("600,", "600+00:00,"),
            lambda text: text + "\n\n",
            lambda text: "\n".join(f"7,{line}" for line in text.split("\n") if line),
        ],
        ids=["windows", "byte-order-mark", "time-zone", "blank-lines", "other-columns"],
    )
    def test_the_same_file_in_other_dress(self, write: Write, change: Callable[[str], str]) -> None:
        plain, other = find_trace(write("a.csv", AZURE)), find_trace(write("b.csv", change(AZURE)))
        assert (other.rate, other.variation) == (plain.rate, plain.variation)
        assert other.lengths.isl.tolist() == plain.lengths.isl.tolist()

    def test_times_may_be_seconds(self, write: Write) -> None:
        found = find_trace(write("a.csv", f"{HEADER}\n10,5,5\n1.1e1,5,5\n14,5,5\n"))
        assert found.arrivals == pytest.approx([0.0, 1.0, 4.0])

    def test_all_at_once_has_no_rate(self, write: Write) -> None:
        found = find_trace(write("a.csv", f"{HEADER}\n1,5,5\n1,5,5\n"))
        assert (found.rate, found.variation) == (None, 1.0)

    def test_no_output_is_a_token(self, write: Write) -> None:
        found = find_trace(write("a.csv", f"{HEADER}\n1,5,0\n"))
        assert found.lengths.osl.tolist() == [1.0]

    def test_twenty_thousand_requests_take_half_a_second(self, write: Write) -> None:
        rows = "".join(f"2023-11-16 18:{n // 400:02}:00.123,{n},{n % 99}\n" for n in range(20_000))
        path = write("a.csv", f"{HEADER}\n{rows}")
        start = time.process_time()
        found = find_trace(path)
        assert time.process_time() - start < 0.5
        assert len(found.lengths.weight) <= 64

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "line 1: found no column 'TIMESTAMP'"),
            ("TIMESTAMP,ContextTokens\n1,2\n", "line 1: found no column 'GeneratedTokens'"),
            (HEADER, "found no requests"),
            (f"{HEADER}\n1,2\n", "line 2: found '1,2', expected 3 cells"),
            (f"{HEADER}\n1,2,3\n2,-5,3\n", "line 3, ContextTokens: found '-5', expected a number"),
            (f"{HEADER}\n1,2,3\n2,5,x\n", "line 3, GeneratedTokens: found 'x'"),
            (f"{HEADER}\n1,2,3\n2,5,\n", "line 3, GeneratedTokens: found ''"),
            (f"{HEADER}\n1,2,3\n2,nan,3\n", "line 3, ContextTokens: found 'nan'"),
            (f"{HEADER}\n1,2,3\n2,1e300,3\n", "line 3, ContextTokens: found '1e300'"),
            (f"{HEADER}\n1,2.5,3\n", "line 2, ContextTokens: found '2.5', expected whole tokens"),
            (f"{HEADER}\n-4,2,3\n", "line 2, TIMESTAMP: found '-4', expected a number that is not"),
            (f"{HEADER}\n5,2,3\n\n4,2,3\n", "line 4, TIMESTAMP: found '4', expected a time not"),
            (AZURE + "yesterday,1,1\n", "line 5, TIMESTAMP: found 'yesterday', expected a time"),
            (AZURE + "2023-11-16 18:17:06,1,1\n", "line 5, TIMESTAMP: found '2023-11-16 18:17:06'"),
            (AZURE.encode() + b"\xff\xfe,1,1\n", "line 5: found bytes that are not UTF-8"),
            (f'{HEADER}\n1,2,"{"9" * 200_000}\n', "field larger than field limit"),
            (f"{HEADER}\n1,2,{'9' * 5000}\n", "line 2, GeneratedTokens: found '999"),
        ],
    )
    def test_what_is_wrong_is_named(self, write: Write, content: str | bytes, message: str) -> None:
        path = write("bad.csv", content)
        with pytest.raises(PlannerError) as caught:
            find_trace(path)
        text = str(caught.value)
        assert str(path) in text and message in text
        assert "\n" not in text and text.endswith(".") and len(text) < len(str(path)) + 200


class TestMooncake:
    def test_lengths_rate_and_variation(self, write: Write) -> None:
        found = find_trace(write("some.jsonl", lines(*MOONCAKE)))
        assert found.lengths.mean(found.lengths.isl) == pytest.approx(3748 / 4)
        assert found.lengths.mean(found.lengths.osl) == pytest.approx(22 / 4)
        assert found.rate == pytest.approx(1.0)  # three gaps in 3 s
        assert found.variation == pytest.approx(np.std([2.0, 1.0, 0.0]))
        assert found.arrivals == pytest.approx([0.0, 2.0, 3.0, 3.0])

    def test_a_hit_is_what_an_earlier_request_began_with(self, write: Write) -> None:
        """512 of the second, all but one token of the third; the last begins with a new block."""
        found = find_trace(write("some.jsonl", lines(*MOONCAKE)))
        assert found.hit == pytest.approx((512 + 1023) / 3748)

    def test_without_hashes_nothing_is_hit(self, write: Write) -> None:
        rows = [{k: v for k, v in row.items() if k != "hash_ids"} for row in MOONCAKE]
        assert find_trace(write("some.jsonl", lines(*rows, ""))).hit == 0.0

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "found no requests"),
            ("\n \n", "found no requests"),
            (lines(*MOONCAKE)[:-20], 'line 4: found \'{"timestamp": 3000'),
            (lines(MOONCAKE[0], "[1]"), "line 2: found [1], expected a JSON object"),
            (lines("", {"timestamp": 0, "input_length": 5}), "line 2: found no field 'output_len"),
            (lines(MOONCAKE[0] | {"timestamp": -1}), "line 1, timestamp: found -1, expected a num"),
            (lines(MOONCAKE[1], MOONCAKE[0]), "line 2, timestamp: found 0, expected a time not"),
            (lines(MOONCAKE[0] | {"input_length": True}), "line 1, input_length: found True"),
            (lines(MOONCAKE[0] | {"input_length": None}), "line 1, input_length: found None"),
            (lines(MOONCAKE[0] | {"output_length": 10**400}), "line 1, output_length: found 1000"),
            (lines(MOONCAKE[0] | {"output_length": 1.5}), "line 1, output_length: found 1.5"),
            (lines(MOONCAKE[0] | {"hash_ids": 7}), "line 1, hash_ids: found 7, expected a list"),
            (lines(MOONCAKE[0] | {"hash_ids": [1, "a"]}), "line 1, hash_ids: found [1, 'a']"),
            ("[" * 100_000, "line 1: found '[[[[["),
            (b'{"timestamp": 0}\n\x80', "line 2: found bytes that are not UTF-8"),
        ],
    )
    def test_what_is_wrong_is_named(self, write: Write, content: str | bytes, message: str) -> None:
        path = write("bad.jsonl", content)
        with pytest.raises(PlannerError) as caught:
            find_trace(path)
        text = str(caught.value)
        assert str(path) in text and message in text
        assert "\n" not in text and text.endswith(".") and len(text) < len(str(path)) + 200


class TestSummaries:
    @pytest.mark.parametrize("name", summary_names())
    def test_a_shipped_summary_has_its_mean_its_source_and_its_licence(self, name: str) -> None:
        data = yaml.safe_load((SUMMARIES / f"{name}.yaml").read_text(encoding="utf-8"))
        assert "https://" in data["source"] and data["licence"] and data["title"]
        found = find_trace(name)
        assert found.lengths.mean(found.lengths.isl) == pytest.approx(data["isl"]["mean"])
        assert found.lengths.mean(found.lengths.osl) == pytest.approx(data["osl"]["mean"])
        for length in ("isl", "osl"):
            for share, tokens in data[length].get("quantiles", {}).items():
                if share in (0.5, 0.9, 0.95, 0.99):
                    values = getattr(found.lengths, length)
                    nearest = found.lengths.percentile(values, share)
                    assert nearest == pytest.approx(tokens, rel=0.15), (length, share)

    def test_names(self) -> None:
        assert {"azure-code", "azure-conversation", "mooncake-conversation"} <= set(summary_names())

    def test_the_bursts_of_the_code_service(self) -> None:
        code, chat = find_trace("azure-code"), find_trace("azure-conversation")
        assert (code.rate, code.variation) == (2.57, 13.2)
        assert (chat.rate, chat.variation) == (5.53, 1.09)

    def test_deviations_that_a_summary_does_not_use_are_found_to_a_third(self) -> None:
        """Mooncake's tools and agents: 10,994 and 242 tokens are published."""
        found = find_trace("mooncake-toolagent").lengths
        isl, osl = (float(found.variation(v) * found.mean(v)) for v in (found.isl, found.osl))
        assert 10_994 < isl < 1.33 * 10_994
        assert 242 < osl < 1.33 * 242

    def test_of_the_user(self, write: Write) -> None:
        text = (
            "rate: 3\nhit: 20 %\nisl: {mean: 900}\nosl: {mean: 90, quantiles: {0.5: 60, 0.9: 200}}"
        )
        found = find_trace(write("mine.yaml", text))
        assert (found.name, found.rate, found.hit, found.variation) == ("mine", 3.0, 0.2, 1.0)
        assert set(found.lengths.isl) == {900.0}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("isl: {mean: 5}", "missing field 'osl'"),
            ("isl: {mean: 5}\nosl: {mean: 5}\nrates: 3", "unknown field 'rates'"),
            ("isl: 5\nosl: {mean: 5}", "isl: found 5, expected a mapping"),
            ("isl: {}\nosl: {mean: 5}", "isl.mean: found None"),
            ("isl: {mean: -5}\nosl: {mean: 5}", "isl.mean: found -5"),
            ("isl: {mean: 5, quantiles: {2: 5, 3: 5}}\nosl: {mean: 5}", "isl.quantiles: found"),
            ("isl: {mean: 5, quantiles: {0.5: x}}\nosl: {mean: 5}", "isl.quantiles.0.5: found 'x'"),
            (
                "isl: {mean: 9, quantiles: {0.5: 1, 1: 2}}\nosl: {mean: 5}",
                "mean: found 9, expected",
            ),
            ("isl: [", "cannot be read as YAML"),
        ],
    )
    def test_what_is_wrong_is_named(self, write: Write, content: str | bytes, message: str) -> None:
        path = write("bad.yaml", content)
        with pytest.raises(PlannerError) as caught:
            find_trace(path)
        assert str(path) in str(caught.value) and message in str(caught.value)


class TestNames:
    def test_an_unknown_name(self) -> None:
        with pytest.raises(PlannerError, match=r"'azure-cod', did you mean 'azure-code'\?"):
            find_trace("azure-cod")

    @pytest.mark.parametrize("name", ["none.csv", "none.jsonl", "none.yaml"])
    def test_a_file_that_is_not_there(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(PlannerError, match=name):
            find_trace(tmp_path / name)

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").mkdir()
        with pytest.raises(PlannerError, match=r"a\.csv: found no file to read"):
            find_trace(tmp_path / "a.csv")
