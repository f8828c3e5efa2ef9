"""Files of parameter sets: the user's come first, relatives lend theirs, bad ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.costs.kernels import parameters
from planner.costs.kernels.rates import OPERAND_BITS, OPERAND_BYTES
from planner.errors import PlannerError
from planner.specs.catalog import find_accelerator, find_cluster
from planner.specs.fits import (
    TRANSFER_ERROR,
    borrow,
    borrow_lines,
    default_set,
    read_fits,
    read_lines,
    scale_line,
)
from planner.specs.kernel_sets import DATATYPES, parameters_of

SOURCES = "mine: {title: t, address: 'https://example.org', read: 2026-11-22}\n"
GEMM = (
    "launch: 3 us, compute: 0.5, memory: 0.6, cache: 4, tile: 1 us, small_tile: 0.1, split: 2 us, "
    "wave: 0.5, heat: 0.1"
)
SHARED = "shared: {launch: 3 us, memory: 0.6, smoothness: 2, item: 1 us, slots: 1}"
LINE = (
    "base: 5 us, step: 1 us, low_bandwidth: 10 GB/s, low_step: 0.2 us, switch: 2 us, "
    "bandwidth: 100 GB/s, own_copy: 0.5, fill: 10 us"
)
H100 = find_accelerator("h100-sxm")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write one file of fits into a database of the user's; the folder comes back."""

    def file(text: str, name: str = "h100-sxm", folder: str = "db") -> Path:
        path = tmp_path / folder / "fits" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        (tmp_path / folder / "sources.yaml").write_text(SOURCES, encoding="utf-8")
        return tmp_path / folder

    return file


def kernels(family: str, library: str, dtype: str, entry: str, top: str = "source: mine") -> str:
    return f"{top}\nkernels: {{{family}: {{{library}: {{{dtype}: {{{entry}}}}}}}}}\n"


def lines(tier: str, operation: str, entry: str, top: str = "source: mine") -> str:
    return f"{top}\ncollectives: {{{tier}: {{{operation}: {{{entry}}}}}}}\n"


def read(folder: Path, name: str = "h100-sxm") -> Any:
    return read_fits(name, [folder], lambda other: find_accelerator(other).kernels)


class TestOverlay:
    def test_the_users_set_wins_and_the_rest_stays(self, write: Write) -> None:
        folder = write(kernels("gemm", "vllm", "bf16", GEMM))
        device = find_accelerator("h100-sxm", [folder])
        mine = device.kernels["gemm"]["vllm"]["bf16"]
        assert (mine.launch, mine.compute, mine.source) == (3e-6, 0.5, "mine")
        assert parameters(device, "gemm", "bf16") is mine
        for library, dtype in (("vllm", "fp8"), ("tensorrt-llm", "bf16")):
            same = device.kernels["gemm"][library][dtype]
            assert same == H100.kernels["gemm"][library][dtype]
        assert device.kernels["experts"] == H100.kernels["experts"]

    def test_a_library_of_the_users_comes_first(self, write: Write) -> None:
        folder = write(kernels("gemm", "my-library", "bf16", GEMM))
        device = find_accelerator("h100-sxm", [folder])
        assert next(iter(device.kernels["gemm"])) == "my-library"
        assert parameters(device, "gemm", "bf16").source == "mine"
        assert parameters(device, "gemm", "fp8") == parameters(H100, "gemm", "fp8")

    def test_the_first_of_two_databases_wins(self, write: Write) -> None:
        first = write(kernels("gemm", "vllm", "bf16", GEMM))
        text = kernels("gemm", "vllm", "bf16", GEMM.replace("3 us", "4 us", 1))
        second = write(text, folder="other")
        launch = [
            parameters(find_accelerator("h100-sxm", order), "gemm", "bf16").launch
            for order in ([first, second], [second, first])
        ]
        assert launch == [3e-6, 4e-6]

    def test_a_line_of_the_users_replaces_that_operation(self, write: Write) -> None:
        folder = write(lines("node", "all_gather", LINE), "hgx-h100")
        mine, packaged = (
            find_cluster("dgx-h100", db).tiers[0].collectives for db in ([folder], [])
        )
        assert (mine["all_gather"].base, mine["all_gather"].source) == (5e-6, "mine")
        assert mine["all_gather"].nvls_bandwidth == 0.0
        assert mine["all_reduce"] == packaged["all_reduce"]

    def test_a_device_without_a_file_has_no_sets(self, write: Write) -> None:
        assert read(write(kernels("gemm", "vllm", "bf16", GEMM)), "another") == {}
        assert read_lines("another", [write("source: mine\n")], ["node"]) == {}


class TestProvenance:
    def test_numbers_that_yaml_takes_for_text(self, write: Write) -> None:
        """As a calibration writes them."""
        entry = f"{GEMM}, rows: 7, error: 2e-05, range: {{m: [1, 1e+06]}}"
        fit = read(write(kernels("gemm", "vllm", "bf16", entry)))["gemm"]["vllm"]["bf16"].fit
        assert (fit.rows, fit.error, fit.range) == (7, 2e-5, {"m": (1.0, 1e6)})

    FIT = "version: '1.2', rows: 7, error: 0.05, median: 0.04, bias: 1.01, range: {m: [1, 4096]}"

    def test_of_an_entry(self, write: Write) -> None:
        found = read(write(kernels("gemm", "vllm", "bf16", f"{GEMM}, {self.FIT}")))
        fit = found["gemm"]["vllm"]["bf16"].fit
        assert (fit.source, fit.version, fit.rows) == ("mine", "1.2", 7)
        assert (fit.error, fit.median, fit.bias) == (0.05, 0.04, 1.01)
        assert fit.range == {"m": (1.0, 4096.0)}

    @pytest.mark.parametrize(
        ("top", "more", "source"),
        [
            ("source: mine", "", "mine"),
            ("note: a guess", "", "assumed: a guess"),
            ("source: mine\nnote: half of it", "", "assumed: half of it [mine]"),
            ("source: mine", ", source: https://example.org/x", "https://example.org/x"),
            ("source: mine", ", note: a guess", "assumed: a guess [mine]"),
        ],
    )
    def test_the_entrys_goes_before_the_files(
        self, write: Write, top: str, more: str, source: str
    ) -> None:
        found = read(write(kernels("gemm", "vllm", "bf16", GEMM + more, top)))
        assert found["gemm"]["vllm"]["bf16"].source == source


class TestLike:
    def test_it_starts_from_the_relatives_first_library(self, write: Write) -> None:
        entry = "like: h100-sxm, compute: 0.4, launch: 9 us"
        found = read(write(kernels("gemm", "rocm", "bf16", entry), "mi999"), "mi999")
        mine, theirs = found["gemm"]["rocm"]["bf16"], parameters(H100, "gemm", "bf16")
        assert (mine.compute, mine.launch) == (0.4, 9e-6)
        assert (mine.memory, mine.cache, mine.wave) == (theirs.memory, theirs.cache, theirs.wave)
        assert (mine.source, mine.fit.error) == ("mine", None)

    def test_a_set_within_a_set_starts_from_the_relatives_too(self, write: Write) -> None:
        entry = "like: h100-sxm, shared: {item: 2 us}"
        found = read(write(kernels("attention_decode", "rocm", "bf16", entry), "mi999"), "mi999")
        mine = found["attention_decode"]["rocm"]["bf16"]
        theirs = parameters(H100, "attention_decode", "bf16")
        assert mine.shared.item == 2e-6
        assert (mine.shared.plan, mine.shared.launch) == (theirs.shared.plan, theirs.shared.launch)
        assert mine.own == theirs.own

    def test_a_relative_without_the_set_is_named(self, write: Write) -> None:
        folder = write(kernels("gemm", "rocm", "fp8", "like: a100-sxm-80g, compute: 0.4"), "mi999")
        where = r"mi999\.yaml: kernels\.gemm\.rocm\.fp8\.like: a100-sxm-80g has no set of gemm"
        with pytest.raises(PlannerError, match=where):
            read(folder, "mi999")

    def test_the_default_set_is_the_first_librarys(self) -> None:
        assert default_set(H100.kernels, "gemm", "bf16") is parameters(H100, "gemm", "bf16")
        assert default_set(H100.kernels, "gemm", "fp32") is None
        assert default_set(H100.kernels, "folding", "bf16") is None


class TestBorrow:
    def test_the_error_grows_by_a_tenth(self) -> None:
        theirs = H100.kernels["gemm"]["vllm"]["bf16"]
        lent = borrow({}, H100.kernels, "h100-sxm")["gemm"]["vllm"]["bf16"]
        assert TRANSFER_ERROR == 0.1
        assert lent.fit.error == pytest.approx(theirs.fit.error + 0.1)
        assert (lent.source, lent.fit.median, lent.fit.bias) == ("like h100-sxm", None, None)
        assert [getattr(lent, f.name) for f in parameters_of(type(lent))] == [
            getattr(theirs, f.name) for f in parameters_of(type(theirs))
        ]

    def test_own_sets_come_first_one_by_one(self) -> None:
        own = {"gemm": {"rocm": {"bf16": H100.kernels["gemm"]["sglang"]["bf16"]}}}
        found = borrow(own, H100.kernels, "h100-sxm")
        assert next(iter(found["gemm"])) == "rocm"
        assert found["gemm"]["rocm"] == own["gemm"]["rocm"]
        assert set(found) == set(H100.kernels)
        mixed = {"gemm": {"vllm": own["gemm"]["rocm"]}}
        sets = borrow(mixed, H100.kernels, "h100-sxm")["gemm"]["vllm"]
        assert sets["bf16"] is own["gemm"]["rocm"]["bf16"]
        assert sets["fp8"].source == "like h100-sxm"

    def test_lines_scale_with_the_link(self) -> None:
        theirs = find_cluster("dgx-h100").tiers[0].collectives
        own = {"all_gather": scale_line(theirs["all_gather"], 3.0)}
        found = borrow_lines(own, theirs, 0.5, "hgx-h100.node")
        assert found["all_gather"] is own["all_gather"]
        ours, line = found["all_reduce"], theirs["all_reduce"]
        for part in ("bandwidth", "low_bandwidth", "nvls_bandwidth"):
            assert getattr(ours, part) == pytest.approx(0.5 * getattr(line, part))
        for part in ("base", "step", "low_step", "switch", "fill", "own_copy", "nvls_switch"):
            assert getattr(ours, part) == getattr(line, part)
        assert ours.source == "like hgx-h100.node"
        assert ours.fit.error == pytest.approx(line.fit.error + 0.1)


class TestRefused:
    @pytest.mark.parametrize(
        ("old", "new", "field", "message"),
        [
            ("compute: 0.5", "compute: 1.5", "compute", "found 1.5, expected from 0.2 to 1 in SI"),
            ("compute: 0.5", "compute: 0.1", "compute", "found 0.1, expected from 0.2 to 1"),
            ("launch: 3 us", "launch: 3 ms", "launch", "found 3 ms, expected from 3e-07 to 3e-05"),
            ("launch: 3 us", "launch: 3", "launch", "found 3 (no unit), expected a time"),
            ("launch: 3 us", "launch: 3 GB", "launch", "found '3 GB' (a size), expected a time"),
            ("heat: 0.1", "heat: -0.1", "heat", "found -0.1 (negative)"),
            ("heat: 0.1", "heat: hot", "heat", "found 'hot', expected a plain number"),
            (", heat: 0.1", "", "", "missing field 'heat'"),
            ("compute: 0.5", "compte: 0.5", "", "unknown field 'compte', did you mean 'compute'"),
            (
                "heat: 0.1",
                "heat: 0.1, source: mne",
                "",
                "unknown source 'mne', did you mean 'mine'",
            ),
        ],
    )
    def test_a_wrong_parameter_by_file_and_field(
        self, write: Write, old: str, new: str, field: str, message: str
    ) -> None:
        assert old in GEMM
        folder = write(kernels("gemm", "vllm", "bf16", GEMM.replace(old, new)))
        with pytest.raises(PlannerError) as error:
            find_accelerator("h100-sxm", [folder])
        place = f"{folder / 'fits' / 'h100-sxm.yaml'}: kernels.gemm.vllm.bf16"
        assert str(error.value).startswith(f"{place}{'.' if field else ''}{field}: {message}")

    def test_two_percent_beyond_the_range_pass(self, write: Write) -> None:
        folder = write(
            kernels("gemm", "vllm", "bf16", GEMM.replace("compute: 0.5", "compute: 1.019"))
        )
        assert read(folder)["gemm"]["vllm"]["bf16"].compute == 1.019

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            (SHARED.replace("item: 1 us", "item: 1 s"), "bf16.shared.item: found 1 s, expected"),
            (
                SHARED.replace("item:", "itm:"),
                "bf16.shared: unknown field 'itm', did you mean 'item'",
            ),
            (
                SHARED.replace("slots: 1", "slots: 1, plan: flsh2"),
                "plan: found 'flsh2', expected one",
            ),
            ("shared: 3", "bf16.shared: found 3, expected a mapping of fields"),
            ("least_group: 2", "bf16: missing field 'shared'"),
        ],
    )
    def test_a_wrong_set_within_a_set(self, write: Write, entry: str, message: str) -> None:
        with pytest.raises(PlannerError) as error:
            read(write(kernels("attention_decode", "vllm", "bf16", entry)))
        assert message in str(error.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                kernels("gem", "vllm", "bf16", GEMM),
                "kernels: unknown field 'gem', did you mean 'gemm'",
            ),
            (kernels("gemm", "vllm", "bf16", GEMM, "made_by: me"), "bf16: no source and no note"),
            ("source: mine\nkernel: {}\n", "unknown field 'kernel', did you mean 'kernels'"),
            ("source: mine\nkernels: {gemm: 3}\n", "kernels.gemm: found 3, expected a mapping"),
            ("source: [", "cannot be read as YAML"),
        ],
    )
    def test_a_wrong_file(self, write: Write, text: str, message: str) -> None:
        folder = write(text)
        with pytest.raises(PlannerError) as error:
            read(folder)
        assert str(folder / "fits" / "h100-sxm.yaml") in str(error.value)
        assert message in str(error.value)

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            (LINE.replace("100 GB/s", "100 TB/s"), "node.all_gather.bandwidth: found 100 TB/s"),
            (LINE.replace("own_copy", "own_cpy"), "did you mean 'own_copy'"),
            (LINE.replace(", fill: 10 us", ""), "node.all_gather: missing field 'fill'"),
        ],
    )
    def test_a_wrong_line(self, write: Write, entry: str, message: str) -> None:
        folder = write(lines("node", "all_gather", entry), "hgx-h100")
        with pytest.raises(PlannerError) as error:
            find_cluster("dgx-h100", [folder])
        assert str(folder / "fits" / "hgx-h100.yaml") in str(error.value)
        assert message in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        kernels("gemm", "vllm", "bf16", f"{GEMM}, range: {{m: 5}}"),
        kernels("gemm", "vllm", "bf16", f"{GEMM}, range: {{m: [few, many]}}"),
        kernels("gemm", "vllm", "bf16", f"{GEMM}, range: {{m: [9, 1]}}"),
        kernels("gemm", "vllm", "bf16", f"{GEMM}, error: small"),
        kernels("gemm", "vllm", "bf16", f"{GEMM}, error: .nan"),
        kernels("gemm", "vllm", "bf16", f"{GEMM}, rows: many"),
        kernels("gemm", "vllm", "bf16", f"{GEMM}, rows: 1.5"),
        lines("node", "allreduce", LINE),
        lines("nod", "all_reduce", LINE),
    ],
)
def test_what_no_reader_can_use_is_refused(write: Write, text: str) -> None:
    """Provenance that is no number, a collective or a tier that nothing asks for."""
    folder = write(text, "h100-sxm" if "kernels" in text else "hgx-h100")
    with pytest.raises(PlannerError, match=str(folder)):
        find_cluster("dgx-h100", [folder])


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("gemm", "bf61", "unknown field 'bf61', did you mean 'bf16'"),
        ("gemm", "fp8-block", "unknown field 'fp8-block', did you mean 'fp8_block'"),
        ("gemm", "bf16-fp8", "unknown field 'bf16-fp8'"),
        ("attention_prefill", "bf16-fp9", "unknown field 'fp9', did you mean 'fp8'"),
    ],
)
def test_a_datatype_that_no_kernel_has_is_named(
    write: Write, family: str, name: str, message: str
) -> None:
    folder = write(kernels(family, "vllm", name, GEMM))
    with pytest.raises(PlannerError) as error:
        read(folder)
    place = f"{folder / 'fits' / 'h100-sxm.yaml'}: kernels.{family}.vllm"
    assert str(error.value).startswith(f"{place}: {message}")


def test_a_line_that_is_no_mapping_is_named(write: Write) -> None:
    folder = write("source: mine\ncollectives: {node: {all_gather: 3}}\n", "hgx-h100")
    with pytest.raises(PlannerError, match="all_gather: found 3, expected a mapping"):
        find_cluster("dgx-h100", [folder])


def test_the_datatypes_of_sets_are_those_of_the_kernels() -> None:
    assert set(DATATYPES) == set(OPERAND_BITS) == set(OPERAND_BYTES)
