"""A bar on stderr for searches that take more than a second."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

PATIENCE = 1.0
"""Seconds before the bar appears."""


class Bar:
    """A progress callback that draws itself when a person waits for it; a context manager."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Note that ``done`` parts of ``total`` are done."""
        if self._bar is None:
            late = time.perf_counter() - self._start > PATIENCE
            if not late or not sys.stderr.isatty():
                return
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("searching", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
