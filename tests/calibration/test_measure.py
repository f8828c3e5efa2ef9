"""What a machine without PyTorch or a GPU is told, and which device a driver's name means."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from planner.calibration.measure import database_name, torch_module
from planner.errors import PlannerError
from planner.specs.catalog import list_accelerators


def driver(name: str) -> SimpleNamespace:
    """As much of PyTorch as is asked for a device's name."""
    return SimpleNamespace(cuda=SimpleNamespace(get_device_name=lambda _: name))


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80g"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40g"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80g"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_drivers_name(found: str, name: str) -> None:
    assert database_name(driver(found), None, ()) == name
    assert name in list_accelerators()


def test_the_users_word_comes_first() -> None:
    assert database_name(driver("NVIDIA H200"), "h20", ()) == "h20"


def test_a_gpu_that_the_database_does_not_know() -> None:
    with pytest.raises(PlannerError, match=r"has 'NVIDIA T4', .* by --device, one of: a100"):
        database_name(driver("NVIDIA T4"), None, ())


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PlannerError, match=r"PyTorch is not installed.*or give .* --from FILE"):
        torch_module()


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = SimpleNamespace(__version__="2.11.0", cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", blind)
    with pytest.raises(PlannerError, match=r"PyTorch 2.11.0 sees no GPU.*--from FILE"):
        torch_module()
