"""The progress bar: only for a person, and only when it takes a while."""

from __future__ import annotations

import io

import pytest

from planner.cli import progress


class Stream(io.StringIO):
    """A stderr that says whether it is a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def drawn(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, patience: float) -> str:
    stream = Stream(terminal)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    with progress.Bar() as bar:
        for done in range(3):
            bar(done, 3)
    return stream.getvalue()


def test_a_long_search_on_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "searching" in drawn(monkeypatch, terminal=True, patience=-1.0)


def test_a_short_search_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, terminal=True, patience=60.0) == ""


def test_a_pipe_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, terminal=False, patience=-1.0) == ""
