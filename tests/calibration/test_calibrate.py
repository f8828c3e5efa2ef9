"""From a table of times to sets: what is known is found again, what cannot be true is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.calibration import plan
from planner.calibration.calibrate import Score, calibrate, held_back
from planner.costs import kernels, lines, operators
from planner.errors import PlannerError
from planner.specs.catalog import find_accelerator, find_cluster
from planner.specs.measurements import Group, read

from .conftest import noisy

CLUSTERS = {"h100-sxm": "dgx-h100", "h200-sxm": "hgx-h200"}
SHAPES = list(plan.gemm())
SIZES = tuple(np.array([shape[part] for shape in SHAPES], dtype=float) for part in "mnk")


def slow(share: float) -> Any:
    """A device whose matrix units reach ``share`` of what the database says, and its times."""
    device = find_accelerator("h200-sxm")
    own = kernels.parameters(device, "gemm", "bf16")
    other = replace(own, compute=own.compute * share, launch=own.launch * 2.0)
    return other, noisy(kernels.gemm_time(other, device, "bf16", *SIZES))


class TestKnownParameters:
    def test_matrix_products_are_found_again(self, table: Any) -> None:
        other, seconds = slow(0.7)
        (found,) = calibrate(read(table("gemm", SHAPES, seconds)), source="x")
        assert found.parameters.compute == pytest.approx(other.compute, rel=0.04)  # type: ignore[attr-defined]
        assert found.parameters.launch == pytest.approx(other.launch, rel=0.08)  # type: ignore[attr-defined]
        assert found.before.error > 0.2
        assert found.after.error < 0.025
        assert found.parameters.fit.error == found.after.error

    def test_a_line_is_found_again(self, table: Any) -> None:
        line = find_cluster("hgx-h200").tiers[0].collectives["all_gather"]
        other = replace(line, bandwidth=line.bandwidth / 2, step=line.step * 3)
        shapes = [
            {"collective": "all_gather", "ranks": ranks, "bytes": size}
            for ranks in (2, 4, 8)
            for size in plan.collectives()
        ]
        ranks, sizes = (np.array([one[part] for one in shapes]) for part in ("ranks", "bytes"))
        seconds = noisy(lines.nccl(other, "all_gather", ranks, sizes))
        (found,) = calibrate(read(table("nccl", shapes, seconds)), source="x")
        assert (found.item, found.family, found.library) == ("hgx-h200", "node", "all_gather")
        assert found.parameters.bandwidth == pytest.approx(other.bandwidth, rel=0.05)  # type: ignore[attr-defined]
        assert found.after.error < 0.03 < found.before.error

    def test_a_node_without_lines_starts_from_its_datasheet(self, table: Any) -> None:
        shapes = [
            {"collective": "all_reduce", "ranks": 4, "bytes": size} for size in plan.collectives()
        ]
        sizes = np.array([one["bytes"] for one in shapes], dtype=float)
        seconds = 2e-5 + 1.5 * sizes / 12e9
        made = table("nccl", [*shapes, *shapes], [*seconds, *seconds], accelerator="rtx-4090")
        (found,) = calibrate(read(made), source="x")
        assert found.start.startswith("datasheet")
        assert found.after.error < 0.1


class TestRealDevices:
    def test_every_kernel_of_a_new_library_gets_better(self, measured: list[Group]) -> None:
        new = [replace(group, library="mine 1.0") for group in measured if group.op != "memory"]
        for found in calibrate(new, source="x"):
            assert found.after.error < min(0.8 * found.before.error, 0.14)
            assert 0.9 < found.after.bias < 1.05

    def test_the_shipped_sets_are_those_of_the_measurements(self, measured: list[Group]) -> None:
        for group in measured:
            machine = find_cluster(CLUSTERS[group.accelerator])
            library = operators.library_of(group)
            family = operators.FAMILIES[group.op]
            own = kernels.parameters(machine.accelerator, family, group.dtype, library)
            judge = group.take(held_back(group))
            predicted = operators.seconds(own, machine, group.dtype, judge)
            score = Score.of(predicted, judge.seconds)
            assert score.error == pytest.approx(own.fit.error, abs=2e-3)
            assert score.bias == pytest.approx(own.fit.bias, abs=2e-3)


class TestHeldBack:
    def test_it_is_a_quarter_and_the_same_every_time(self, measured: list[Group]) -> None:
        held = np.concatenate([held_back(group) for group in measured])
        again = np.concatenate([held_back(group) for group in measured])
        assert 0.2 < held.mean() < 0.3
        assert np.array_equal(held, again)

    def test_all_kernels_of_a_shape_stay_together(self, table: Any) -> None:
        shapes = [
            {"ranks": 8, "bytes": 2**power, "kernel": kernel}
            for power in range(10, 26)
            for kernel in ("one-shot", "two-shot")
        ]
        (group,) = read(table("custom_allreduce", shapes))
        held = held_back(group)
        assert np.array_equal(held[::2], held[1::2])


class TestRefused:
    @pytest.mark.parametrize("factor", [1e3, 1e-3], ids=["milliseconds", "kiloseconds"])
    def test_times_in_another_unit(self, measured: list[Group], factor: float) -> None:
        wrong = r"physical range of .* expected times in seconds"
        for group in measured[:2]:
            with pytest.raises(PlannerError, match=wrong):
                calibrate([replace(group, seconds=group.seconds * factor)], source="x")

    def test_times_that_do_not_follow_the_shapes(self, measured: list[Group]) -> None:
        order = np.random.default_rng(1).permutation
        for group in measured[:2]:
            with pytest.raises(PlannerError, match=r"physical range|does not settle"):
                calibrate([replace(group, seconds=order(group.seconds))], source="x")

    def test_too_few_rows(self, table: Any) -> None:
        path = table("gemm", SHAPES[:20])
        with pytest.raises(PlannerError, match=r"found \d+ rows, expected at least 18 for 9"):
            calibrate(read(path), source="x")

    def test_an_unknown_device(self, table: Any) -> None:
        path = table("gemm", SHAPES, accelerator="h200-smx")
        with pytest.raises(PlannerError, match="did you mean 'h200-sxm'"):
            calibrate(read(path), source="x")

    def test_a_cluster_of_another_device(self, table: Any) -> None:
        with pytest.raises(PlannerError, match="dgx-h100 has h100-sxm, the measurements are of h2"):
            calibrate(read(table("gemm", SHAPES)), cluster="dgx-h100", source="x")

    def test_a_datatype_without_matrix_units(self, table: Any) -> None:
        path = table("gemm", SHAPES, accelerator="a100-sxm-80g", dtype="fp8")
        with pytest.raises(PlannerError, match="fp8"):
            calibrate(read(path), source="x")


def test_the_database_of_another_folder_is_where_a_fit_starts(table: Any, tmp_path: Path) -> None:
    folder = tmp_path / "hardware_db" / "fits"
    folder.mkdir(parents=True)
    entry = "{like: h100-sxm, compute: 0.5}"
    text = f"note: a test\nkernels: {{gemm: {{mine: {{bf16: {entry}}}}}}}\n"
    (folder / "h200-sxm.yaml").write_text(text, encoding="utf-8")
    (found,) = calibrate(read(table("gemm", SHAPES, slow(0.7)[1])), db=[tmp_path], source="x")
    assert found.start == "assumed: a test"
