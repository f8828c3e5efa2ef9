"""The promises about accuracy, held against the project's own tables."""

import pytest

pytest.importorskip("planner.specs.models_catalog")

from planner.evidence import claims_kernels, claims_serving
from planner.evidence.claims import KNOWN_MISSES, claims
from planner.evidence.claims_kernels import kernel_claims
from planner.evidence.claims_serving import serving_claims

from .conftest import own_report

REPORT = own_report()
CLAIMS = [
    *claims(REPORT.tables["training"], REPORT.tables["training_oom"]),
    *kernel_claims(REPORT.tables["kernels"]),
    *serving_claims(REPORT.tables["serving"]),
]
MISSES = {*KNOWN_MISSES, *claims_kernels.MISSED, *claims_serving.MISSED}


@pytest.mark.parametrize("claim", CLAIMS, ids=[c.name for c in CLAIMS])
def test_promise_holds_unless_it_is_a_known_miss(claim):
    assert claim.holds == (claim.name not in MISSES)


def test_a_known_miss_says_why():
    assert {c.name for c in CLAIMS if c.missed} == MISSES


def test_every_promise_of_the_documentation_is_here():
    names = " ".join(claim.name for claim in CLAIMS)
    for part in (
        "set A",
        "set B",
        "memory",
        "korth",
        "vtrain",
        "wrong order",
        "runs out",
        "fall",
        "TPOT",
    ):
        assert part in names
