"""Wheel, sdist, editable install and checkout: the command works from each of them.

Nothing is downloaded: the build uses the hatchling of this environment, and what is installed takes
its dependencies from there.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import planner

ROOT = Path(__file__).parents[2]

pytest.importorskip("hatchling")


def call(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command away from the checkout; without ``PYTHONPATH`` unless it is given."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ROOFPLAN_DB")}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        cwd=Path(sys.executable).parent,
        env=clean | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that builds and editable installs leave nothing behind."""
    copy = tmp_path_factory.mktemp("checkout") / "roofplan"
    skipped = shutil.ignore_patterns(".git", ".*_cache", ".venv", ".hypothesis", "__pycache__")
    copy.mkdir()
    names = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
    for name in [*names["build"]["targets"]["sdist"]["include"], "/pyproject.toml"]:
        source = ROOT / name.lstrip("/")
        if source.is_dir():
            shutil.copytree(source, copy / source.name, ignore=skipped)
        else:
            shutil.copy2(source, copy)
    return copy


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build = (
        "import hatchling.build, os, sys; os.chdir(sys.argv[1]);"
        "print(hatchling.build.build_wheel(sys.argv[2]), hatchling.build.build_sdist(sys.argv[2]))"
    )
    call(sys.executable, "-c", build, tree, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (found,) = built.glob("*.tar.gz")
    return found


def make_environment(folder: Path) -> Path:
    """A virtual environment that sees this one's packages; returns its Python."""
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(call(python, "-c", "import sysconfig as s; print(s.get_path('purelib'))")
                .stdout.strip())  # fmt: skip
    # Searched after the environment's own packages.  A folder named in a .pth is not searched for
    # further .pth files, so an editable install of the checkout in there does not come along.
    (site / "zz_outer.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def install(python: Path, *what: str | Path) -> None:
    call(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
         "--no-build-isolation", "--no-index", "--disable-pip-version-check",
         "--ignore-installed", *what)  # fmt: skip


def check_works(python: Path, inside: Path) -> None:
    """``roofplan`` and ``python -m planner`` answer from the package under ``inside``."""
    found = call(python, "-c", "import planner; print(planner.__file__)").stdout.strip()
    assert Path(found).resolve().is_relative_to(inside.resolve())
    command = python.with_name("roofplan.exe" if os.name == "nt" else "roofplan")
    assert call(command, "--version").stdout == f"roofplan {planner.__version__}\n"
    job = ("--cluster", "dgx-h100", "--devices", "8", "--seq-len", "2048", "--global-batch", "8")
    done = call(python, "-m", "planner", "train", "llama-3.1-8b", *job, "--top", "1")
    assert len(done.stdout.splitlines()) == 2


def test_the_wheel_works(wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    install(python, wheel)
    check_works(python, tmp_path)


def test_the_sdist_builds_and_works(sdist: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    install(python, sdist)
    check_works(python, tmp_path)


def test_the_editable_install_works(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("editables")
    python = make_environment(tmp_path / "venv")
    install(python, "--editable", tree)
    check_works(python, tree)


def test_the_checkout_works(tree: Path) -> None:
    done = call(sys.executable, tree / "cli.py", "--version")
    assert done.stdout == f"roofplan {planner.__version__}\n"


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_ships_the_databases_and_one_module(wheel: Path, tree: Path) -> None:
    names = names_in(wheel)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"planner"}
    for folder in ("hardware_db", "models_db"):
        for path in (tree / folder).rglob("*.*"):
            assert f"planner/{path.relative_to(tree).as_posix()}" in names
    data = ["py.typed", "error_bands.json", "evidence/data/training.csv"]
    assert {f"planner/{name}" for name in data} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith("/cli.py")]


def test_the_sdist_ships_tests_and_examples(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {"cli.py", "LICENSE", "Makefile", "README.md", "tests/test_rooms.py"}
    assert wanted <= names
    assert any(name.startswith("examples/") for name in names)


def metadata() -> dict[str, object]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(found, dict)
    return found


def test_the_versions_agree() -> None:
    assert metadata()["version"] == planner.__version__
    assert f"## {planner.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


UNDECLARED = {"torch", "_typeshed"}
"""PyTorch is the user's own, and the other exists for type checkers only."""


def imports() -> Iterator[str]:
    """Third-party modules that the package imports, wherever in a file it does."""
    for path in (ROOT / "planner").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            else:
                continue
            tops = {name.split(".")[0] for name in names}
            yield from tops - sys.stdlib_module_names - {"planner"} - UNDECLARED


def test_the_dependencies_are_what_the_code_imports() -> None:
    declared = metadata()["dependencies"]
    assert isinstance(declared, list)
    names = {re.split(r"[<>=!]", str(item))[0] for item in declared}
    assert names == {{"yaml": "pyyaml"}.get(name, name) for name in imports()}
