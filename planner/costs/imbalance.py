"""The busiest device of a mixture-of-experts layer, in one place for the whole project."""

from __future__ import annotations

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds


@term("rows of the busiest rank = imbalance * mean rows", Ref("arXiv 2505.11432", "section 4.1"))
def busiest(mean: Seconds, imbalance: Seconds) -> Seconds:
    """Load of the busiest device from the mean load and the ratio of busiest to mean."""
    return mean * imbalance
