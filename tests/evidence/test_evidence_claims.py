"""The promises about accuracy, held against the project's own tables."""

import pytest

pytest.importorskip("planner.specs.models_catalog")

from planner.evidence.claims import KNOWN_MISSES, claims
from planner.evidence.validate import validate

REPORT = validate()
CLAIMS = claims(REPORT.tables["training"], REPORT.tables["training_oom"])


@pytest.mark.parametrize("claim", CLAIMS, ids=[c.name for c in CLAIMS])
def test_promise_holds_unless_it_is_a_known_miss(claim):
    assert claim.holds == (claim.name not in KNOWN_MISSES)


def test_a_known_miss_says_why():
    assert {c.name for c in CLAIMS if c.missed} == KNOWN_MISSES


def test_every_promise_of_the_documentation_is_here():
    names = " ".join(claim.name for claim in CLAIMS)
    for part in ("set A", "set B", "memory", "korth", "vtrain", "wrong order", "runs out", "fall"):
        assert part in names
