"""The shapes that a calibration measures: readable, spread, and enough for every parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from planner.calibration import plan
from planner.calibration.calibrate import HELD_BACK
from planner.calibration.fit import ROWS_A_PARAMETER, Parameters
from planner.costs import kernels
from planner.costs.operators import FAMILIES
from planner.specs.catalog import find_accelerator
from planner.specs.measurements import SHAPES, TEXTS

PLANS: dict[str, Callable[[], Iterator[plan.Shape]]] = {
    "gemm": plan.gemm,
    "attention_prefill": plan.attention_prefill,
    "attention_decode": plan.attention_decode,
    "moe": plan.moe,
    "memory": plan.memory,
}


@pytest.mark.parametrize("op", PLANS)
def test_the_shapes_have_the_parts_of_the_table(op: str) -> None:
    for shape in PLANS[op]():
        assert set(SHAPES[op]) - set(shape) <= {*TEXTS, "window"}
        assert set(shape) <= set(SHAPES[op])


@pytest.mark.parametrize("op", PLANS)
def test_there_are_rows_enough_for_every_parameter(op: str) -> None:
    own = kernels.parameters(find_accelerator("h200-sxm"), FAMILIES[op], "bf16")
    seen = len(list(PLANS[op]())) * (1 - HELD_BACK / 256)
    assert seen >= 1.2 * ROWS_A_PARAMETER * len(Parameters.of(own).paths)


@pytest.mark.parametrize("op", PLANS)
def test_no_shape_is_measured_twice(op: str) -> None:
    shapes = [tuple(shape.items()) for shape in PLANS[op]()]
    assert len(shapes) == len(set(shapes))
