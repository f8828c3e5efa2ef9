"""The other commands, the help, and how the process behaves."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import planner
from planner.cli.main import COMMANDS, main


def test_the_help_lists_the_commands(run: Any) -> None:
    for arguments in ([], ["--help"]):
        done = run(*arguments)
        assert done.returncode == 0
        for name in COMMANDS:
            assert f"\n  {name} " in done.stdout


def test_the_help_says_what_each_command_says_of_itself() -> None:
    for name, summary in COMMANDS.items():
        plain = name.replace("-", "_")
        command = getattr(import_module(f"planner.cli.{plain}"), plain)
        assert (inspect.getdoc(command) or "").splitlines()[0] == summary


def test_the_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom planner.cli.main import main\nmain(['--help'])\n"
        "heavy = {'numpy', 'pandas', 'scipy', 'yaml', 'rich.table'} & set(sys.modules)\n"
        "raise SystemExit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(run: Any) -> None:
    assert run("--version").stdout == f"roofplan {planner.__version__}\n"


def test_main_returns_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["show", "nothing"]) == 2
    assert "roofplan: " in capsys.readouterr().err


def test_explain(run: Any, plans: Path) -> None:
    done = run("explain", str(plans), "2")
    assert done.returncode == 0, done.stderr
    for part in ("plan 2:", "breakdown", "what would help:", "rests on:", "flags: --tensor-model"):
        assert part in done.stdout
    plan = json.loads(run("explain", str(plans), "2", "--format", "json").stdout)
    assert plan["rank"] == 2
    assert plan["sensitivities"]


def test_compare(run: Any, plans: Path) -> None:
    done = run("compare", str(plans), "1", "3")
    assert done.returncode == 0
    assert done.stdout.startswith("plan 1 -> plan 3")


@pytest.mark.parametrize("rank", ["0", "99", "-1", "x"])
def test_a_rank_that_is_not_there(run: Any, plans: Path, rank: str) -> None:
    done = run("explain", str(plans), "--", rank)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("hardware", "h800", "memory_bandwidth"),
        ("clusters", "h800-ib", "fabric.bandwidth"),
        ("models", "deepseek-v3", "8 of 256 experts"),
        ("terms", "all_reduce", "equation"),
        ("axes", "mbs", "--micro-batch, --mbs"),
    ],
)
def test_show(run: Any, kind: str, name: str, expected: str) -> None:
    listed = run("show", kind)
    assert listed.returncode == 0
    assert len(listed.stdout.splitlines()) > 5
    one = run("show", kind, name)
    assert one.returncode == 0, one.stderr
    assert expected in one.stdout
    rows = json.loads(run("show", kind, "--format", "json").stdout)
    assert len(rows) == len(listed.stdout.splitlines()) - 1


def test_every_term_names_its_place(run: Any) -> None:
    for row in json.loads(run("show", "terms", "--format", "json").stdout):
        assert row["equation"]
        assert ", " in row["reference"]


def test_validate(run: Any, tmp_path: Path) -> None:
    own = Path(planner.__file__).parent / "evidence" / "data" / "training.csv"
    lines = own.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "training.csv").write_text("".join(lines[:6]), encoding="utf-8")
    rows = tmp_path / "rows.csv"
    done = run("validate", "--evidence", str(tmp_path), "--format", "json", "--rows", str(rows))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training"]["rows"] == 5
    header, *found = rows.read_text(encoding="utf-8").splitlines()
    assert header == "id,source,metric,measured,predicted,ape,reason"
    assert len(found) == 5
    assert "training" in run("validate", "--evidence", str(tmp_path)).stdout


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """A command line of bash, in which ``roofplan`` is the command."""
    given = command.replace("roofplan", f"{sys.executable} -m planner")
    return subprocess.run(["bash", "-c", given], capture_output=True, text=True, check=False)


posix = pytest.mark.skipif(os.name != "posix", reason="streams as POSIX has them")


@posix
def test_a_reader_that_leaves_is_no_error() -> None:
    done = shell("roofplan show models | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (141, "")


@posix
def test_a_closed_stdout_is_what_the_caller_wants() -> None:
    assert shell("roofplan show axes >&-").returncode == 0
    done = shell("roofplan show nothing 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full disk")
def test_a_full_disk_behind_stdout_is_one_sentence() -> None:
    done = shell("roofplan show models > /dev/full")
    assert done.returncode == 2
    assert done.stderr == "roofplan: stdout: cannot be written: no space left on device.\n"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_table(job: Any) -> None:
    screen, terminal = os.openpty()
    command = [sys.executable, "-m", "planner", "train", "llama-3.1-8b", *job, "--top", "2"]
    environment = {**os.environ, "COLUMNS": "160", "TERM": "dumb"}
    with subprocess.Popen(
        command, stdout=terminal, stderr=subprocess.PIPE, env=environment
    ) as process:
        os.close(terminal)
        text = b""
        while True:
            try:
                part = os.read(screen, 4096)
            except OSError:  # Linux reports the end of a pseudo-terminal so
                break
            if not part:
                break
            text += part
        error = process.stderr.read() if process.stderr else b""
    os.close(screen)
    assert process.returncode == 0, error
    assert error == b""
    shown = text.decode("utf-8")
    assert "MFU" in shown
    assert "searched" in shown
    assert "\t" not in shown
