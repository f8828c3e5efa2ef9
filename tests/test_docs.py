"""The documentation keeps up with the code: every term, page, link and flag is checked."""

from __future__ import annotations

import csv
import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import planner
from planner.cli.main import COMMANDS, app
from planner.costs.terms import TERMS
from planner.evidence.tables import DATA
from planner.specs.kernel_sets import FAMILIES, CollectiveSet, parameters_of
from planner.specs.measurements import COLUMNS, SHAPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
MEGATRON = "flags: "
"""How the line of an explanation begins that holds Megatron-LM's flags, not roofplan's."""

for _room in ("costs", "layers", "training"):
    package = importlib.import_module(f"{planner.__name__}.{_room}")
    for _module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(_module.name)


def named(paths: list[Path]) -> list[str]:
    """Paths below the root, as test ids."""
    return [str(path.relative_to(ROOT)) for path in paths]


def page_of(term: str) -> Path:
    """The page that a registered term belongs to."""
    room, module = term.split(".")[:2]
    pages = {"costs": module, "layers": "layers", "training": "training-step"}
    return DOCS / "equations" / f"{pages[room]}.md"


def page_of_set(family: str) -> Path:
    """The page that explains the parameters of a kernel family."""
    pages = {"all_reduce": "lines", "dispatch": "deepep", "combine": "deepep"}
    page = pages.get(family, pages.get(family.partition("_")[0], "kernels"))
    return DOCS / "equations" / f"{page}.md"


def parameters(kind: type) -> Iterator[str]:
    """Names of a set's parameters, of the sets within it too."""
    for one in parameters_of(kind):
        inner = one.metadata.get("set")
        yield from parameters(inner) if inner else (one.name,)


def quoted(page: Path) -> set[str]:
    """Words of a page between backticks."""
    return set(re.findall(r"`([\w.]+)`", page.read_text(encoding="utf-8")))


def targets(page: Path) -> list[Path]:
    """The files that a page's relative links point to."""
    links = (link.split("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8")))
    return [(page.parent / link).resolve() for link in links if link and "://" not in link]


def command_flags() -> set[str]:
    """Every flag of the command and of its subcommands."""
    group = get_command(app)
    commands = [group, *(group.get_command(None, name) for name in COMMANDS)]
    return {"--help", *(flag for c in commands for p in c.params for flag in p.opts)}


@pytest.mark.parametrize("term", sorted(TERMS))
def test_every_term_is_on_its_page(term: str) -> None:
    words = re.findall(r"[\w.]+", page_of(term).read_text(encoding="utf-8"))
    assert term in words


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        *((kind, page_of_set(family)) for family, kind in FAMILIES.items()),
        (CollectiveSet, page_of_set("all_reduce")),
    ],
    ids=[*FAMILIES, "lines"],
)
def test_every_parameter_is_explained(kind: type, page: Path) -> None:
    assert set(parameters(kind)) - quoted(page) == set()


def test_the_columns_and_shapes_of_measurements_are_explained() -> None:
    words = quoted(DOCS / "calibrate.md")
    assert {*COLUMNS, *SHAPES} - words == set()
    assert {part for parts in SHAPES.values() for part in parts} - words == set()


@pytest.mark.parametrize("operation", SHAPES)
def test_the_parts_of_a_shape_are_in_the_row_of_its_operation(operation: str) -> None:
    lines = (DOCS / "calibrate.md").read_text(encoding="utf-8").splitlines()
    (row,) = (line for line in lines if re.match(rf"\|[^|]*`{operation}`", line))
    assert tuple(re.findall(r"`(\w+)`", row.split("|")[2])) == SHAPES[operation]


def test_the_evidence_page_counts_the_rows_of_kernels() -> None:
    with (DATA / "kernels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    page = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    counts = Counter((row["op"], row["accelerator"], row["library"]) for row in rows)
    assert f"| kernels.csv | {len(rows)} |" in page
    for name, count in counts.items():
        assert f"| {' | '.join(name)} | {count} |" in page


def test_every_page_is_reachable_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page in PAGES:
            reached.add(page)
            waiting += targets(page)
    assert reached == set(PAGES)


@pytest.mark.parametrize("text", TEXTS, ids=named(TEXTS))
def test_every_link_leads_to_a_file(text: Path) -> None:
    assert [target for target in targets(text) if not target.is_file()] == []


@pytest.mark.parametrize("text", TEXTS, ids=named(TEXTS))
def test_every_flag_exists(text: Path) -> None:
    lines = text.read_text(encoding="utf-8").splitlines()
    own = (line for line in lines if not line.startswith(MEGATRON))
    assert {flag for line in own for flag in FLAG.findall(line)} <= command_flags()
