"""Where the databases are and which file holds a name.

A database is a folder of files, one item each, named for the item.  The user's folders come first
(an argument, then the environment variable ``ROOFPLAN_DB``), the packaged one last; the first
folder that knows a name wins.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from planner.errors import PlannerError

ENVIRONMENT_VARIABLE = "ROOFPLAN_DB"
_ALIASES = re.compile(r"^aliases:\s*\[(.*)\]", re.MULTILINE)


def database_paths(kind: str, db: Iterable[str | Path] = ()) -> list[Path]:
    """Folders to search for ``kind``, the user's first.

    Parameters
    ----------
    kind
        ``"hardware_db"`` or ``"models_db"``.
    db
        The user's folders.  Each either holds a sub-folder named ``kind`` or is one itself.

    Raises
    ------
    PlannerError
        If a folder that the user named does not exist.
    """
    from_environment = os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep)
    named = [Path(folder) for folder in (*db, *filter(None, from_environment))]
    for folder in named:
        if not folder.is_dir():
            raise PlannerError(
                f"database folder {str(folder)!r} does not exist; "
                f"expected a folder with hardware_db/ or models_db/ in it"
            )
    holds = [folder / kind if (folder / kind).is_dir() else folder for folder in named]
    return [*holds, packaged_database(kind)]


def packaged_database(kind: str) -> Path:
    """The folder shipped in the wheel, or the one beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / kind
    return shipped if shipped.is_dir() else package.parent / kind


def item_names(kind: str, folders: Sequence[Path]) -> list[str]:
    """Names of all items of ``kind`` (accelerators, nodes, clusters), sorted, without aliases."""
    return sorted({path.stem for folder in folders for path in folder.glob(f"{kind}/*.yaml")})


def find_item(kind: str, name: str, folders: Sequence[Path]) -> Path:
    """The file of the item called ``name`` or known by that alias; case does not matter.

    Raises
    ------
    PlannerError
        If no folder knows the name; the message holds the nearest names.
    """
    wanted = str(name).lower()
    for folder in folders:
        path = folder / kind / f"{wanted}.yaml"
        if path.is_file():
            return path
    aliases: dict[str, Path] = {}
    for path in (path for folder in folders for path in sorted(folder.glob(f"{kind}/*.yaml"))):
        for alias in _aliases(path):
            aliases.setdefault(alias, path)
    if wanted in aliases:
        return aliases[wanted]
    names = item_names(kind, folders)
    raise PlannerError(
        f"unknown {kind[:-1]} {name!r}{near(wanted, [*names, *aliases])}; known: {', '.join(names)}"
    )


def _aliases(path: Path) -> list[str]:
    """The one-line list ``aliases: [a, b]`` of a file, read without parsing the rest."""
    match = _ALIASES.search(path.read_text(encoding="utf-8"))
    return [alias.strip() for alias in match[1].split(",") if alias.strip()] if match else []


def near(found: str, known: Iterable[str]) -> str:
    """``, did you mean ...?`` for a misspelt word, or nothing.

    >>> near("bandwith", ["bandwidth", "latency"])
    ", did you mean 'bandwidth'?"
    """
    matches = difflib.get_close_matches(found, list(known), n=3, cutoff=0.6)
    return f", did you mean {' or '.join(map(repr, matches))}?" if matches else ""
