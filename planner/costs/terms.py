"""The registry of equations: every closed form, with the paper and the place where it stands.

``@term`` adds no behaviour.  The registry prints ``roofplan show terms`` and the documentation, and
drives the tests that every equation has a reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Ref:
    """A paper, datasheet or source file, and the place in it."""

    source: str
    locator: str


@dataclass(frozen=True)
class Term:
    """One registered equation."""

    name: str
    equation: str
    ref: Ref
    function: Callable[..., Any]

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


TERMS: dict[str, Term] = {}


def term(equation: str, ref: Ref) -> Callable[[F], F]:
    """Register the decorated closed form under its own name."""

    def register(function: F) -> F:
        name = f"{function.__module__.removeprefix('planner.')}.{function.__name__}"
        TERMS[name] = Term(name, equation, ref, function)
        return function

    return register
