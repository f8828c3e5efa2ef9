"""The command on a screen of our own, as the documentation shows it."""

from __future__ import annotations

import io
import shlex
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from planner.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
TERMINAL = {"COLUMNS": "100", "LINES": "50", "TERM": "dumb"}
"""The terminal that the documentation's output was made on."""


class Stream(io.TextIOBase):
    """One of the streams that write on a screen."""

    def __init__(self, screen: list[str], terminal: bool = False) -> None:
        self.screen, self.terminal = screen, terminal

    def isatty(self) -> bool:
        return self.terminal

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.screen.append(text)
        return len(text)


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], tuple[int, str]]:
    """Run ``roofplan ...`` or ``roofplan ... | head -N``: the exit code and what is shown."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)

    def run(line: str) -> tuple[int, str]:
        command, _, rest = line.partition(" | ")
        screen: list[str] = []
        with redirect_stdout(Stream(screen, not rest)), redirect_stderr(Stream(screen)):
            code = main(shlex.split(command)[1:])
        lines = [one.rstrip() for one in "".join(screen).strip("\n").split("\n")]
        if rest:
            assert rest.startswith("head -"), f"{rest}: only head -N is understood"
            lines = lines[: int(rest.removeprefix("head -"))]
        return code, "\n".join(lines).rstrip()

    return run
