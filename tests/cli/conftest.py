"""The command run as a process, as its users do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import planner

Run = Callable[..., subprocess.CompletedProcess[str]]

JOB = ("--cluster", "dgx-h100", "--devices", "8", "--seq-len", "4096", "--global-batch", "64")
"""A question that is answered in a fraction of a second."""


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(planner.__file__).parents[1])}
"""The same package, wherever the command is run."""


def roofplan(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command and return its exit code and both streams."""
    return subprocess.run(
        [sys.executable, "-m", "planner", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        env=ENVIRONMENT,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="session")
def run() -> Run:
    return roofplan


@pytest.fixture(scope="session")
def job() -> tuple[str, ...]:
    return JOB


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result file."""
    path = tmp_path_factory.mktemp("plans") / "plans.json"
    done = roofplan("train", "llama-3.1-8b", *JOB, "--top", "3", "--output", str(path))
    assert done.returncode == 0, done.stderr
    return path
