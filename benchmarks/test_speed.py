"""How fast the planner answers: ``make bench``.

Searches run as whole processes, import included, since that is what a user waits for.  Left out:
peak memory, which the result file says (``search.peak_memory_bytes``).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import planner

HGX = ("--cluster", "hgx-h200")
CHAT = ("--isl", "4000", "--osl", "500", "--ttft", "2s", "--tpot", "50ms")

CASES = {
    "gpt3-175b on 4096 H100": (
        *("train", "gpt3-175b", "--cluster", "dgx-h100", "--devices", "4096"),
        *("--seq-len", "2048", "--global-batch", "4096"),
    ),
    "deepseek-v3 on 2048 H800": (
        *("train", "deepseek-v3", "--cluster", "h800-ib", "--devices", "2048"),
        *("--seq-len", "4096", "--global-batch", "15360"),
    ),
    "qwen3-32b served by 32 H200": ("serve", "qwen3-32b", *HGX, "--devices", "32", *CHAT),
    "deepseek-v3 served by 32 H200": ("serve", "deepseek-v3", *HGX, "--devices", "32", *CHAT),
    "deepseek-v3 served by 1024 H200": ("serve", "deepseek-v3", *HGX, "--devices", "1024", *CHAT),
    "--help": ("--help",),
}
ROUNDS = 3


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_command(benchmark: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    def run() -> None:
        command = [sys.executable, "-m", "planner", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)  # type: ignore[attr-defined]


def test_one_estimate(benchmark: Callable[..., Any]) -> None:
    benchmark(
        planner.estimate_training,
        "deepseek-v3",
        "h800-ib",
        "tp=1,pp=16,ep=64",
        devices=2048,
        seq_len=4096,
        global_batch=15360,
    )
