"""Write what follows from a validation: the page, the error bands, the best medians.

``python -m planner.evidence.publish`` writes them in a checkout; the tests fail when either differs
from what the code predicts.
"""

from __future__ import annotations

from pathlib import Path

from planner.evidence.bands import BANDS, write_bands
from planner.evidence.medians import MEDIANS, write_medians
from planner.evidence.page import write_page
from planner.evidence.validate import Report, validate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "validation.md"


def publish(
    report: Report, page: Path = PAGE, bands: Path = BANDS, reached: Path = MEDIANS
) -> None:
    """Write the page, the error bands and the best medians of a report over the own tables."""
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page(report, page)
    write_bands(report.tables["training"], report.tables["serving"], bands)
    write_medians(report, reached)


if __name__ == "__main__":
    publish(validate())
