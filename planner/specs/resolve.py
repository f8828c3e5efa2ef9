"""What a user names as a model or a cluster, looked up: a name, a path or the object itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from planner.specs.catalog import find_cluster, override
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec


def resolve_model(model: str | Path | ModelSpec, db: Iterable[str | Path]) -> ModelSpec:
    """The model of that name or at that path."""
    if isinstance(model, ModelSpec):
        return model
    from planner.specs.models_catalog import find_model

    return find_model(model, db)


def resolve_cluster(
    cluster: str | Path | Cluster,
    db: Iterable[str | Path],
    overrides: Mapping[str, str],
    price: float | None,
) -> Cluster:
    """The cluster of that name or at that path, with the user's numbers and price [USD/h]."""
    found = cluster if isinstance(cluster, Cluster) else find_cluster(cluster, db)
    settings = dict(overrides)
    if price is not None:
        settings["price"] = f"{price!r} USD/h"
    return override(found, settings)


def digest(spec: ModelSpec | Cluster) -> str:
    """Fingerprint of every number in a specification.

    It covers all files that the specification was read from, and nothing that does not matter.
    """
    return "sha256:" + hashlib.sha256(repr(spec).encode()).hexdigest()
