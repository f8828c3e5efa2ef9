"""``roofplan calibrate``: fit the planner's parameters to a machine's own times."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner import __version__
from planner.cli.output import FORMATS, check_format, emit_rows, tell
from planner.errors import PlannerError
from planner.results.files import check_writable, write

if TYPE_CHECKING:
    from planner.calibration.calibrate import Calibrated
    from planner.specs.measurements import Group

app = typer.Typer(rich_markup_mode=None, add_completion=False)

HEADERS = (
    "item", "family", "library", "dtype", "rows", "held back",
    "error before", "bias before", "error after", "median after", "bias after", "before from",
)  # fmt: skip


@app.command()
def calibrate(
    measured: Annotated[
        list[str] | None,
        typer.Option(
            "--from", metavar="FILE.csv", help="Fit these times instead of measuring; repeatable."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="This machine's GPU in the database."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="NAME", help="Where its collectives belong."),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="The database to write.")
    ] = "calibrated",
    measurements: Annotated[
        str | None,
        typer.Option("--measurements", metavar="FILE.csv", help="Keep the measured times."),
    ] = None,
    db: Annotated[
        list[str] | None, typer.Option("--db", metavar="DIR", help="Search this database first.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="|".join(FORMATS), help="How to answer.")
    ] = "table",
) -> None:
    """Fit the planner's parameters to a machine's own times.

    Measures the GPUs of this machine with PyTorch in a few minutes, or takes times from elsewhere
    (docs/calibrate.md has the columns), and writes a database for --db.  Errors are those of a
    quarter of the shapes, which the fit does not see.
    """
    check_format(form)
    if measured and (measurements or device):
        raise PlannerError("--measurements and --device go with measuring, not with --from.")
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise PlannerError(f"--output: {output} is a file, expected a folder.")
    if measurements:
        check_writable(measurements)
    from planner.calibration.calibrate import calibrate as fit

    groups, digest = _read(measured) if measured else _measure(device, measurements, db or ())
    source = f"measured-{digest[:12]}"
    found = fit(groups, cluster=cluster, db=db or (), source=source, progress=tell)
    _write(found, folder, source, groups, measured or [measurements or "this machine"], digest)
    emit_rows(HEADERS, [_row(one) for one in found], form)
    tell(f"wrote {folder}; plan with it by --db {folder}")


def _read(paths: Iterable[str]) -> tuple[list[Group], str]:
    """Rows of all files and the digest of their bytes."""
    from planner.specs.measurements import read

    groups = [group for path in paths for group in read(Path(path))]
    content = b"".join(Path(path).read_bytes() for path in paths)
    return groups, hashlib.sha256(content).hexdigest()


def _measure(device: str | None, keep: str | None, db: Iterable[str]) -> tuple[list[Group], str]:
    """Times of this machine's GPUs, through the same table as times from elsewhere."""
    from planner.calibration import measure, nccl
    from planner.specs.measurements import write as write_table

    torch = measure.torch_module()
    name = measure.database_name(torch, device, list(db))
    rows: list[dict[str, Any]] = list(measure.measure(name, tell))
    if torch.cuda.device_count() > 1:
        tell("nccl")
        rows += nccl.measure(name, torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "measured.csv"
        write_table(table, rows)
        if keep:
            write(keep, table.read_text(encoding="utf-8"))
        return _read([str(table)])


def _write(
    found: list[Calibrated],
    folder: Path,
    source: str,
    groups: list[Group],
    origin: list[str],
    digest: str,
) -> None:
    """The database, when every fit has succeeded."""
    from planner.calibration.overlay import files

    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    devices = ", ".join(sorted({group.accelerator for group in groups}))
    software = ", ".join(sorted({group.library for group in groups}))
    about = {
        "title": f"roofplan calibrate on {devices}: {software}",
        "address": f"{', '.join(Path(path).name for path in origin)}, sha256 {digest}",
        "read": date,
    }
    made_by = f"roofplan {__version__} calibrate, {date}"
    for path, text in files(found, folder, source, about, made_by).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text)


def _row(one: Calibrated) -> tuple[object, ...]:
    before, after, fit = one.before, one.after, one.parameters.fit
    return (
        one.item, one.family, one.library, one.dtype, fit.rows, after.rows,
        f"{before.error:.1%}", f"{before.bias:.3f}",
        f"{after.error:.1%}", f"{after.median:.1%}", f"{after.bias:.3f}",
        one.start.partition(":")[0],
    )  # fmt: skip
