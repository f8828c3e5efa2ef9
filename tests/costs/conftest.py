"""A device so small that times can be worked by hand, and the sets that a real one can use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from planner.specs.catalog import find_accelerator
from planner.specs.hardware import Accelerator


@pytest.fixture(scope="session")
def small() -> Accelerator:
    """Four cores of 1 TFLOP/s each in 16 bits, 1 TB/s of memory and no cache."""
    peak = {"bf16": 4e12, "fp8": 8e12, "fp4": 16e12}
    one = find_accelerator("h100-sxm")
    return replace(one, name="small", cores=4, peak=peak, memory_bandwidth=1e12, l2_cache=None)


Usable = Callable[[Accelerator, str], Iterator[tuple[str, str]]]


@pytest.fixture(scope="session")
def usable() -> Usable:
    """Libraries and datatypes of a device's family whose matrix units it has."""
    units = {"fp8_block": "fp8", "nvfp4": "fp4"}

    def pairs(device: Accelerator, family: str) -> Iterator[tuple[str, str]]:
        for library, sets in device.kernels[family].items():
            yield from ((library, one) for one in sets if units.get(one, one) in device.peak)

    return pairs
