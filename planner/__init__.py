"""roofplan: the best configurations to train or serve a large language model, ranked, explained.

An analytical performance model and a search; no GPU is needed.

>>> import planner
>>> ranking = planner.plan_training(
...     "llama-3.1-8b", "dgx-h100", devices=8, global_batch=64, seq_len=4096
... )  # doctest: +SKIP
>>> print(ranking.explain(1))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from planner.errors import Infeasible, PlannerError

if TYPE_CHECKING:
    from planner.placement.plan import plan_placement
    from planner.results.plan import Plan
    from planner.results.ranking import Ranking
    from planner.results.saved import load
    from planner.serving.plan import estimate_serving, plan_serving
    from planner.specs.catalog import find_accelerator, find_cluster, list_clusters
    from planner.specs.models_catalog import find_model, list_models
    from planner.specs.parallelism import Configuration
    from planner.training.plan import estimate_training, plan_training

__version__ = "0.1.0"

__all__ = [
    "Configuration",
    "Infeasible",
    "Plan",
    "PlannerError",
    "Ranking",
    "__version__",
    "estimate_serving",
    "estimate_training",
    "find_accelerator",
    "find_cluster",
    "find_model",
    "list_clusters",
    "list_models",
    "load",
    "plan_placement",
    "plan_serving",
    "plan_training",
]

_HOMES = {
    "Configuration": "planner.specs.parallelism",
    "Plan": "planner.results.plan",
    "Ranking": "planner.results.ranking",
    "estimate_serving": "planner.serving.plan",
    "estimate_training": "planner.training.plan",
    "find_accelerator": "planner.specs.catalog",
    "find_cluster": "planner.specs.catalog",
    "find_model": "planner.specs.models_catalog",
    "list_clusters": "planner.specs.catalog",
    "list_models": "planner.specs.models_catalog",
    "load": "planner.results.saved",
    "plan_placement": "planner.placement.plan",
    "plan_serving": "planner.serving.plan",
    "plan_training": "planner.training.plan",
}
"""Names that are imported when they are first used, so that ``--help`` answers at once."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
