"""Write what follows from a validation: the page of the documentation and the error bands.

``python -m planner.evidence.publish`` writes both in a checkout; the tests fail when either differs
from what the code predicts.
"""

from __future__ import annotations

from pathlib import Path

from planner.evidence.bands import BANDS, write_bands
from planner.evidence.page import write_page
from planner.evidence.validate import Report, validate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "validation.md"


def publish(report: Report, page: Path = PAGE, bands: Path = BANDS) -> None:
    """Write the validation page and the error bands of a report over the project's own tables."""
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page(report, page)
    write_bands(report.tables["training"], report.tables["serving"], bands)


if __name__ == "__main__":
    publish(validate())
