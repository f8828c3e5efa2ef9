"""The registry: every closed form says what it computes and where that is written."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import planner.costs
import planner.layers
import planner.training
from planner.costs.terms import TERMS, Ref, Term, term

STRUCTURE = ("costs.tree", "costs.terms", "costs.operators")
"""Modules of costs/ that combine times and hold no equation of their own."""
SHORTHANDS = {
    "costs.kernels.matrix.gemm": "gemm_time",
    "costs.kernels.prefill.prefill_attention": "prefill_time",
    "costs.kernels.decode.decode_attention": "decode_time",
    "costs.kernels.grouped.experts": "experts_time",
    "costs.kernels.rates.smooth_maximum": "roofline",
}
"""Functions without an entry of their own, and the term beside them that they are part of."""


def modules(package: Any) -> Iterator[Any]:
    for item in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(item.name)


for _package in (planner.costs, planner.layers, planner.training):
    list(modules(_package))
REGISTERED = [TERMS[name] for name in sorted(TERMS) if not name.startswith("tests")]


def closed_forms() -> Iterator[Any]:
    """Public functions of costs/ whose result is a time, a count or bytes."""
    for module in modules(planner.costs):
        short = module.__name__.removeprefix("planner.")
        if short in STRUCTURE:
            continue
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if own and "Seconds" in str(function.__annotations__.get("return")):
                yield pytest.param(function, id=f"{short}.{name}")


@pytest.mark.parametrize("function", list(closed_forms()))
def test_every_closed_form_of_costs_is_registered(function: Callable[..., Any]) -> None:
    module, name = function.__module__.removeprefix("planner."), function.__name__
    assert f"{module}.{SHORTHANDS.get(f'{module}.{name}', name)}" in TERMS


def test_a_shorthand_has_no_term_of_its_own() -> None:
    assert SHORTHANDS.keys() & TERMS.keys() == set()


def test_the_registry_is_not_empty_and_reaches_the_layers() -> None:
    assert len(REGISTERED) >= 30
    assert {t.name.split(".")[0] for t in REGISTERED} >= {"costs", "layers", "training"}


@pytest.mark.parametrize("item", REGISTERED, ids=lambda t: t.name)
class TestEveryTerm:
    def test_it_has_a_source_and_a_place_in_it(self, item: Term) -> None:
        assert len(item.ref.source) >= 8
        assert item.ref.locator.strip()
        assert item.ref.locator != item.ref.source

    def test_an_arxiv_source_has_a_whole_number(self, item: Term) -> None:
        for number in re.findall(r"arXiv (\S+)", item.ref.source):
            assert re.match(r"\d{4}\.\d{4,5}", number), number

    def test_it_has_an_equation(self, item: Term) -> None:
        assert len(item.equation.strip()) >= 1
        assert item.equation == item.equation.strip()
        assert "\n" not in item.equation

    def test_it_has_a_docstring_of_one_sentence_first(self, item: Term) -> None:
        assert item.summary.endswith((".", "]."))
        assert len(item.summary) <= 100

    def test_its_name_leads_to_the_function(self, item: Term) -> None:
        module, function = item.name.rsplit(".", 1)
        found = getattr(importlib.import_module(f"planner.{module}"), function)
        assert found is item.function


@pytest.mark.parametrize("item", REGISTERED, ids=lambda t: t.name)
def test_parentheses_of_the_equation_are_balanced(item: Term) -> None:
    depth = 0
    for sign in re.sub(r"\[[^\]]*\]", "", item.equation):
        depth += (sign == "(") - (sign == ")")
        assert depth >= 0
    assert depth == 0


def test_registering_changes_nothing_about_the_function() -> None:
    def double(x: float) -> float:
        """Twice."""
        return 2.0 * x

    ref = Ref("a paper of some name", "equation 1")
    assert term("y = 2 x", ref)(double) is double
    (name,) = [key for key in TERMS if key.endswith(".double")]
    found = TERMS.pop(name)
    assert (found.equation, found.ref, found.summary) == ("y = 2 x", ref, "Twice.")
