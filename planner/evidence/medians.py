"""The best median error that each group of evidence reached: a ratchet against getting worse.

``planner.evidence.publish`` lowers an entry when a group gets better and never raises one; a test
fails when a group is more than two points above its entry.  To accept a loss, raise the entry by
hand and say why in the commit.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from planner.evidence.bands import FEW
from planner.evidence.validate import Report

MEDIANS = Path(__file__).with_name("medians.json")
POINTS = 0.02
"""What a median may grow by."""


def medians(report: Report) -> dict[str, float]:
    """Median error by table, metric and source, of groups with a few rows."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for table, rows in report.tables.items():
        for p in rows:
            if p.ape is not None:
                groups[f"{table}: {p.row.metric}: {p.row.source}"].append(p.ape)
    return {k: round(median(v), 4) for k, v in sorted(groups.items()) if len(v) >= FEW}


def worse(report: Report, reached: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Groups above what was reached by more than ``POINTS``: reached, and now."""
    now = medians(report)
    return {
        name: (best, now[name])
        for name, best in reached.items()
        if name in now and now[name] > best + POINTS
    }


def read_medians(path: Path = MEDIANS) -> dict[str, float]:
    """What was reached; nothing where no file is."""
    if not path.exists():
        return {}
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_medians(report: Report, path: Path = MEDIANS) -> None:
    """Lower what got better and add what is new."""
    reached = read_medians(path)
    found = {name: min(now, reached.get(name, now)) for name, now in medians(report).items()}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
