"""The order of rooms: a room imports only from its left, so physics never learns of screens."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "planner"

ORDER = (
    {"errors"},
    {"units"},
    {"specs"},
    {"costs"},
    {"layers"},
    {"search", "results"},
    {"launch"},
    {"placement"},
    {"training", "serving"},
    {"rl"},
    {"evidence"},
    {"cli"},
)
ONLY = {"calibration": {"units", "errors", "specs", "costs", "calibration"}}
"""Rooms beside the order, which only the command line uses, and all that they may import."""

ENTRANCES = {"__init__", "__main__"}
"""The package itself re-exports and starts; everything may be imported there, and only
``planner.__version__`` from there."""

PANDAS = {"results/ranking.py", "evidence", "calibration"}
"""Where pandas may be imported."""


def room_of(path: Path) -> str:
    """The first name below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(text: str) -> Iterator[str]:
    """Every module that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            if node.module == "planner":
                yield from (f"planner.{a.name}" for a in node.names if a.name != "__version__")


def allowed(room: str) -> set[str]:
    """The rooms that a room may import from, itself included."""
    if room in ONLY:
        return ONLY[room]
    place = next(i for i, names in enumerate(ORDER) if room in names)
    beside = ONLY.keys() if room == "cli" else set()
    return {name for names in ORDER[:place] for name in names} | {room} | beside


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_its_left(path: Path) -> None:
    room = room_of(path)
    if room in ENTRANCES:
        return
    modules = imported_modules(path.read_text(encoding="utf-8"))
    rooms = {module.split(".")[1] for module in modules if module.startswith("planner.")}
    assert rooms <= allowed(room), f"{room} imports {sorted(rooms - allowed(room))}"


def test_every_room_has_a_place() -> None:
    known = {name for names in ORDER for name in names} | ONLY.keys() | ENTRANCES
    assert {room_of(path) for path in FILES} <= known


def test_a_wrong_import_would_be_found() -> None:
    text = "def late():\n    from planner.training.plan import plan_training\n"
    (module,) = imported_modules(text)
    assert module.split(".")[1] not in allowed("costs")
    assert "launch" in allowed("training")
    assert "training" not in allowed("launch")
    assert "evidence" not in allowed("training")


def test_search_and_results_know_no_scenario_and_not_each_other() -> None:
    assert not {"training", "serving", "results"} & allowed("search")
    assert not {"training", "serving", "search"} & allowed("results")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pandas_stays_in_its_rooms(path: Path) -> None:
    if "pandas" in set(imported_modules(path.read_text(encoding="utf-8"))):
        name = path.relative_to(PACKAGE).as_posix()
        assert name in PANDAS or room_of(path) in PANDAS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_imported_where_kernels_are_timed(path: Path) -> None:
    if "torch" in set(imported_modules(path.read_text(encoding="utf-8"))):
        assert path.relative_to(PACKAGE).as_posix() == "calibration/measure.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path: Path) -> None:
    calls = (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {n.func.id for n in calls if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert "print" not in names or room_of(path) == "cli"
