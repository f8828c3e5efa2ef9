"""Measurement tables made from the closed forms, and those of the project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.specs.folders import packaged_database
from planner.specs.measurements import COLUMNS, Group, read

MEASURED = packaged_database("hardware_db") / "measurements"

Write = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Writes shapes and times of one operation as a measurement table."""

    def write(
        op: str,
        shapes: Iterable[Mapping[str, Any]],
        seconds: Iterable[float] | None = None,
        *,
        accelerator: str = "h200-sxm",
        library: str = "mine 1.0",
        dtype: str = "bf16",
    ) -> Path:
        path = tmp_path / f"{op}.csv"
        texts = [";".join(f"{k}={v}" for k, v in shape.items()) for shape in shapes]
        times = [1e-3] * len(texts) if seconds is None else seconds
        rows = (
            ",".join((op, accelerator, library, dtype, text, repr(float(one))))
            for text, one in zip(texts, times, strict=True)
        )
        path.write_text("\n".join((",".join(COLUMNS), *rows)) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session", params=["h100-sxm", "h200-sxm"])
def measured(request: pytest.FixtureRequest) -> list[Group]:
    """The times of PyTorch on a real device."""
    return read(MEASURED / f"{request.param}.csv")


def noisy(seconds: Any, spread: float = 0.02) -> Any:
    """Times as a benchmark would repeat them."""
    noise = np.random.default_rng(0).standard_normal(len(seconds))
    return np.asarray(seconds) * np.exp(spread * noise)
