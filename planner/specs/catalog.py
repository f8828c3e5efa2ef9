"""The machines by name: find one, list all, change a number of one.

A name is looked up in the user's databases first and in the packaged one last; a path to a YAML
file works wherever a name does, with the packaged database behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from planner.specs.folders import database_paths, find_item, item_names
from planner.specs.hardware import Accelerator, Cluster
from planner.specs.hardware_files import load_accelerator, load_cluster
from planner.specs.hardware_overrides import override

__all__ = [
    "database_paths",
    "find_accelerator",
    "find_cluster",
    "list_accelerators",
    "list_clusters",
    "override",
]


def find_cluster(name: str | Path, db: Iterable[str | Path] = ()) -> Cluster:
    """The cluster called ``name``, or in the YAML file at that path.

    Parameters
    ----------
    name
        A name or an alias in the databases, or a path that ends in ``.yaml`` or ``.yml``.
    db
        The user's database folders, searched before the packaged one.

    Raises
    ------
    PlannerError
        If nothing has that name (with the nearest names) or the file is wrong.
    """
    folders = database_paths("hardware_db", db)
    return load_cluster(_locate("clusters", name, folders), folders)


def find_accelerator(name: str | Path, db: Iterable[str | Path] = ()) -> Accelerator:
    """The accelerator called ``name``, or in the YAML file at that path; see `find_cluster`."""
    folders = database_paths("hardware_db", db)
    return load_accelerator(_locate("accelerators", name, folders), folders)


def list_clusters(db: Iterable[str | Path] = ()) -> list[str]:
    """The names that `find_cluster` knows, sorted, without aliases."""
    return item_names("clusters", database_paths("hardware_db", db))


def list_accelerators(db: Iterable[str | Path] = ()) -> list[str]:
    """The names that `find_accelerator` knows, sorted, without aliases."""
    return item_names("accelerators", database_paths("hardware_db", db))


def _locate(kind: str, name: str | Path, folders: list[Path]) -> Path:
    is_path = Path(name).suffix in (".yaml", ".yml")
    return Path(name) if is_path else find_item(kind, str(name), folders)
