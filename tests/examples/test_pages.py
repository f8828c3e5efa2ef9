"""What the README and the tutorials show is what the command says.

A block of ``console`` holds lines that begin with ``$ roofplan`` and, below a line, what it shows;
without that it must only succeed.  Run with ``WRITE_DOCS=1`` to put the present output in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
WRITE = bool(os.environ.get("WRITE_DOCS"))
"""Whether to write the output into the pages instead of comparing it."""

BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n", re.MULTILINE)
SECONDS = re.compile(r"\bin \d+\.\d+ s\b")


@dataclass(frozen=True)
class Typed:
    """A command of a page, and where its output stands."""

    line: str
    shown: str
    start: int
    end: int


def typed(text: str) -> Iterator[Typed]:
    """The commands of a page in order."""
    for block in BLOCK.finditer(text):
        found = [*COMMAND.finditer(text, block.start(), block.end())]
        ends = [*(one.start() for one in found[1:]), block.end()]
        for one, end in zip(found, ends, strict=True):
            yield Typed(one[1], text[one.end() : end], one.end(), end)


def plain(text: str) -> list[str]:
    """The words of an output, but for the time that it took."""
    return SECONDS.sub("in 0.0 s", " ".join(text.split())).split()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_page_shows_what_the_command_says(
    page: Path, type_in: Callable[[str], tuple[int, str]]
) -> None:
    text = page.read_text(encoding="utf-8")
    commands = [*typed(text)]
    assert commands
    stale = []
    for one in commands:
        code, output = type_in(one.line)
        fails = one.shown.startswith("roofplan: ")
        assert (code != 0) == fails, f"{one.line}\n{output}"
        if one.shown.strip() and plain(one.shown) != plain(output):
            assert WRITE, f"$ {one.line}\n{output}\n(WRITE_DOCS=1 puts this in)"
            stale.append((one, output))
    for one, output in reversed(stale):
        gap = "\n" if one.shown.endswith("\n\n") else ""
        text = text[: one.start] + output + "\n" + gap + text[one.end :]
    if stale:
        page.write_text(text, encoding="utf-8")
