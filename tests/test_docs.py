"""The documentation keeps up with the code: every term, page, link, flag and number is checked."""

from __future__ import annotations

import csv
import doctest
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
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MEGATRON = "flags: "
"""How the line of an explanation begins that holds Megatron-LM's flags, not roofplan's."""

for _room in ("costs", "layers", "placement", "training", "serving"):
    package = importlib.import_module(f"{planner.__name__}.{_room}")
    for _module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(_module.name)


COSTS = {
    "kernels" if one.ispkg else one.name
    for one in pkgutil.iter_modules([str(Path(planner.__file__).parent / "costs")])
} - {"terms"}
"""Files of the physics; the registry of equations has none of its own."""

UNWORKED = {"queueing"}
"""Files whose page has no worked number yet."""

SILICON = "aiconfigurator-core 0.12.0 silicon sample"
SHOWN = {
    "A training step": ("## training", "time"),
    "... of a run that is stated in full": (
        "## training",
        "set A: time, at most precision, zero unstated",
    ),
    "... of a run with parts unstated": ("## training", "set B: all other time"),
    "Peak memory of training": ("## training", "memory"),
    "One kernel or collective": ("## kernels", "all"),
    "TPOT, InferenceX": ("### serving: tpot_mean_s", f"{SILICON} (InferenceX)"),
    "TPOT, NVIDIA's runs": ("### serving: tpot_mean_s", f"{SILICON} (NVIDIA runs)"),
    "TTFT, InferenceX": ("### serving: ttft_mean_s", f"{SILICON} (InferenceX)"),
    "TTFT, NVIDIA's runs": ("### serving: ttft_mean_s", f"{SILICON} (NVIDIA runs)"),
    "Offline throughput, TensorRT-LLM": (
        "### serving: output_tokens_per_s_per_device",
        "TensorRT-LLM v0.17 performance overview",
    ),
}
"""Rows of the README's table: heading in the validation page, and name of the row there."""


def named(paths: list[Path]) -> list[str]:
    """Paths below the root, as test ids."""
    return [str(path.relative_to(ROOT)) for path in paths]


def pages_of(term: str) -> list[Path]:
    """The page that a registered term belongs to; for whole deployments, any page of equations."""
    room, module = term.split(".")[:2]
    names = {"costs": module, "layers": "layers", "training": "training-step"}
    if room not in names or module == "inference":
        return sorted((DOCS / "equations").glob("*.md"))
    return [DOCS / "equations" / f"{names[room]}.md"]


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


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the tables in a section of a page, up to the next heading."""
    _, _, section = text.partition(f"\n{heading}\n")
    lines = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    tables = [line for line in lines if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in tables]


def command_flags() -> set[str]:
    """Every flag of the command and of its subcommands."""
    group = get_command(app)
    commands = [group, *(group.get_command(None, name) for name in COMMANDS)]
    return {"--help", *(flag for c in commands for p in c.params for flag in p.opts)}


@pytest.mark.parametrize("term", sorted(TERMS))
def test_every_term_is_on_its_page(term: str) -> None:
    texts = (page.read_text(encoding="utf-8") for page in pages_of(term))
    assert any(term in re.findall(r"[\w.]+", text) for text in texts)


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


@pytest.mark.parametrize("page", PAGES, ids=named(PAGES))
def test_the_worked_numbers_of_a_page_are_right(page: Path) -> None:
    blocks = CODE.findall(page.read_text(encoding="utf-8"))
    text = "\n".join(block for block in blocks if ">>>" in block)
    example = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", sorted(COSTS - UNWORKED))
def test_every_file_of_costs_has_a_page_with_a_worked_number(name: str) -> None:
    page = DOCS / "equations" / f"{name}.md"
    assert any(">>>" in block for block in CODE.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", SHOWN)
def test_the_errors_of_the_readme_are_those_of_the_validation_page(name: str) -> None:
    heading, label = SHOWN[name]
    page = (DOCS / "validation.md").read_text(encoding="utf-8")
    (measured,) = (row for row in rows(page, heading) if row[0] == label)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = (row for row in rows(readme, "## How right it is") if row[0] == name)
    scored, median, worst_tenth, bias = (measured[column] for column in (2, 3, 5, 7))
    assert shown[1:] == [f"{int(scored):,}", median, worst_tenth, bias]


def test_the_example_of_the_library_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = CODE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    exec(code, {})
    assert "breakdown" in capsys.readouterr().out
