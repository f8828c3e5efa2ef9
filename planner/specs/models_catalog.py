"""The models by name: find one, list all.

``models_db/`` holds one ``NAME.json`` a model, exactly as published, tables of benchmark models in
YAML (``benchmarks.yaml``, or any other name in a user's folder), and ``catalog.yaml`` with sources,
published counts and aliases.  Nothing but the model asked for is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from planner.errors import PlannerError
from planner.specs.folders import database_paths, near
from planner.specs.huggingface import read_config, spec_from_config, spec_from_record
from planner.specs.model import ModelSpec

__all__ = ["catalogue", "find_config", "find_model", "list_models", "spec_from_record"]

CATALOG = "catalog.yaml"
_KEY = re.compile(r"^(['\"]?)([^\s#:'\"{}][^\s:'\"]*)\1:(?=\s|$)", re.MULTILINE)
"""A name at the margin of a table, in quotes or not."""
_FILLER = re.compile(r"-(hf|instruct|chat|base|v0\.1)(?=-|$)")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class _Item:
    """Where a model is: a JSON file, or a record of a YAML table."""

    name: str
    path: Path
    in_table: bool = False

    @property
    def where(self) -> str:
        return f"{self.path}: {self.name}" if self.in_table else f"{self.path}"

    def read(self) -> dict[str, Any]:
        return _record(self.path, self.name) if self.in_table else read_config(self.path)


def find_model(name: str | Path, db: Iterable[str | Path] = ()) -> ModelSpec:
    """The model called ``name``, or in the file at that path.

    Parameters
    ----------
    name
        A name in the databases or an alias, or a path to a ``config.json`` or to a folder with one.
        Case, ``_`` for ``-``, the organisation before ``/`` and words such as ``-instruct`` do not
        matter as long as one model is meant.
    db
        The user's database folders, searched before the packaged one.

    Raises
    ------
    PlannerError
        If nothing, or more than one model, has that name, or its configuration is not understood.
    """
    item = _find(name, db)
    build = spec_from_record if item.in_table else spec_from_config
    return build(item.name, item.read(), item.where)


def find_config(name: str | Path, db: Iterable[str | Path] = ()) -> dict[str, Any]:
    """The configuration or record behind a name, as it was published; see `find_model`."""
    return _find(name, db).read()


def list_models(db: Iterable[str | Path] = ()) -> list[str]:
    """The names that `find_model` knows, sorted, without aliases."""
    return sorted(_index(database_paths("models_db", db)))


def catalogue(db: Iterable[str | Path] = ()) -> dict[str, dict[str, Any]]:
    """What the databases say of their models: source, published counts, aliases, exceptions."""
    found: dict[str, dict[str, Any]] = {}
    for folder in reversed(database_paths("models_db", db)):
        path = folder / CATALOG
        if path.is_file():
            found |= _table(path, _text(path))
    return found


def _find(name: str | Path, db: Iterable[str | Path]) -> _Item:
    path = Path(name)
    if path.is_dir() and (path / "config.json").is_file():
        return _Item(path.resolve().name, path / "config.json")
    if path.suffix == ".json" or (os.sep in str(name) and path.is_file()):
        return _Item(path.parent.resolve().name if path.stem == "config" else path.stem, path)
    folders = database_paths("models_db", db)
    text = str(name)
    packaged = folders[-1] / f"{text.lower()}.json"
    if len(folders) == 1 and packaged.is_file():  # the common case, without an index
        return _Item(packaged.stem, packaged)
    return _search(text, folders, db)


def _search(text: str, folders: list[Path], db: Iterable[str | Path]) -> _Item:
    """By exact name, by alias, by the name without filler, and without any hyphen."""
    known = _index(folders)
    aliases = {
        str(alias).lower(): name
        for name, entry in catalogue(db).items()
        for alias in entry.get("aliases") or ()
    }
    plain = _plain(text)
    for wanted in (text.lower(), plain):
        if wanted in known:
            return known[wanted]
        if aliases.get(wanted) in known:
            return known[aliases[wanted]]
    rules: tuple[Callable[[str], str], ...] = (_core, _squashed)
    for rule in rules:
        matches = sorted(one for one in known if rule(one) == rule(text))
        if len(matches) > 1:
            raise PlannerError(
                f"model {text!r} is ambiguous, expected one of: {', '.join(matches)}"
            )
        if matches:
            return known[matches[0]]
    hint = near(_core(text), {*map(_core, known), *aliases})
    raise PlannerError(f"unknown model {text!r}{hint}, expected a name or a path to a config.json")


def _plain(name: str) -> str:
    """Without organisation, in lower case, with hyphens.

    >>> _plain("meta-llama/Llama_3.1-8B")
    'llama-3.1-8b'
    """
    return name.rpartition("/")[2].lower().replace("_", "-")


def _core(name: str) -> str:
    """Without the words that do not change the dimensions.

    >>> _core("Meta-Llama-3.1-70B-Instruct"), _core("mixtral-8x22b-v0.1")
    ('llama-3.1-70b', 'mixtral-8x22b')
    """
    return _FILLER.sub("", _plain(name)).removeprefix("meta-")


def _squashed(name: str) -> str:
    """Without hyphens, for ``llama3-8b`` and ``llama-3-8b``."""
    return _core(name).replace("-", "")


def _index(folders: list[Path]) -> dict[str, _Item]:
    """All models by lower-case name; the first folder that has one wins."""
    found: dict[str, _Item] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            found.setdefault(path.stem.lower(), _Item(path.stem, path))
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            if path.name != CATALOG:
                for _, name in _KEY.findall(_text(path)):
                    found.setdefault(name.lower(), _Item(name, path, in_table=True))
    return found


def _record(path: Path, name: str) -> dict[str, Any]:
    """One record of a table, parsed without the others where it refers to none of them."""
    text = _text(path)
    keys = [(match[2], match.start()) for match in _KEY.finditer(text)]
    starts = [*(start for _, start in keys), len(text)]
    number = [key for key, _ in keys].index(name)
    try:
        return _table(path, text[starts[number] : starts[number + 1]])[name]
    except PlannerError:
        return _table(path, text)[name]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PlannerError(f"{path}: cannot be read ({error}), expected a YAML table") from error


def _table(path: Path, text: str) -> dict[str, dict[str, Any]]:
    try:
        found = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise PlannerError(f"{path}: not valid YAML ({reason})") from error
    if not isinstance(found, Mapping) or not all(isinstance(v, dict) for v in found.values()):
        raise PlannerError(f"{path}: found {str(found)[:40]!r}, expected names with their fields")
    return {str(name): fields for name, fields in found.items()}
