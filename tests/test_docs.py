"""The documentation keeps up with the code: every term, page, link and flag is checked."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from typer.main import get_command

import planner
from planner.cli.main import COMMANDS, app
from planner.costs.terms import TERMS

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
    for _module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(_module.name)


def named(paths: list[Path]) -> list[str]:
    """Paths below the root, as test ids."""
    return [str(path.relative_to(ROOT)) for path in paths]


def page_of(term: str) -> Path:
    """The page that a registered term belongs to."""
    room, module = term.split(".")[:2]
    pages = {"costs": module, "layers": "layers", "training": "training-step"}
    return DOCS / "equations" / f"{pages[room]}.md"


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
