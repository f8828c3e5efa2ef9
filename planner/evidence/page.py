"""docs/validation.md: what was measured, what was predicted, by how much they differ, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner.evidence import fit, fit_engines, serving
from planner.evidence.claims import claims
from planner.evidence.claims_kernels import kernel_claims
from planner.evidence.claims_serving import serving_claims
from planner.evidence.defaults import CLUSTERS, DEFAULTS
from planner.evidence.predict import Prediction
from planner.evidence.score import SET_A, grouped, table
from planner.evidence.validate import Report
from planner.evidence.whole_steps import section

WORST = 3
"""Rows that the page prints of every source."""


def page(report: Report) -> str:
    """The page as Markdown."""
    blocks = [_intro()]
    for name, rows in report.tables.items():
        blocks += _table(name, rows)
    blocks += ["\n".join(section()).strip()]
    blocks += [_claims(report), _defaults(), _parameters(), _engines()]
    return "\n\n".join(blocks) + "\n"


def write_page(report: Report, path: Path) -> None:
    """Write the page."""
    path.write_text(page(report), encoding="utf-8")


def _intro() -> str:
    return "\n".join(
        [
            "# Validation",
            "",
            "This page is written by `roofplan validate`; do not edit it.",
            "Every number compares a prediction with a published measurement.",
            "The error of a row is |predicted / measured - 1|, the bias the geometric mean of"
            " predicted / measured.",
            "MFU and TFLOPS are predicted, but not scored where the same run has a time.",
            "The tables, their sources and licences are in `planner/evidence/data/`.",
        ]
    )


def _table(name: str, rows: Sequence[Prediction]) -> list[str]:
    found = table(rows)
    wanted = ", ".join(sorted(SET_A))
    lines = [f"## {name}", "", _head("rows scored")]
    for key, label in (
        ("", "all"),
        ("headline", "time"),
        ("set_a", f"set A: time, at most {wanted} unstated"),
        ("set_b", "set B: all other time"),
        ("memory", "memory"),
    ):
        values = found[key] if key else found
        if values["rows"]:
            lines.append(_cells(label, values))
    middle = found["set_a"]["median_of_source_medians"]
    if middle is not None:
        lines += ["", f"Set A, median over the medians of its sources: {middle:.1%}."]
    blocks = ["\n".join(lines)]
    for metric, sources in found["by_metric_and_source"].items():
        body = [_cells(source, values) for source, values in sources.items()]
        blocks.append("\n".join([f"### {name}: {metric}", "", _head("source"), *body]))
    reasons = grouped([p for p in rows if p.reason], lambda p: p.reason)
    if reasons:
        lines = [f"### {name}: rows skipped", "", "| rows | reason |", "|---:|---|"]
        lines += [f"| {len(group)} | {reason} |" for reason, group in reasons.items()]
        blocks.append("\n".join(lines))
    blocks.append(_worst(name, rows))
    return blocks


def _head(first: str) -> str:
    columns = ["rows", "scored", "median", "mean", "p90", "worst", "bias", "within 20 %", "rank"]
    return f"| {first} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}"


def _cells(label: str, values: dict[str, Any]) -> str:
    def percent(key: str) -> str:
        return "" if values[key] is None else f"{values[key]:.1%}"

    def number(key: str) -> str:
        return "" if values[key] is None else f"{values[key]:.3f}"

    cells = [str(values["rows"]), str(values["scored"])]
    cells += [percent(key) for key in ("median_ape", "mape", "p90_ape", "worst_ape")]
    cells += [number("bias"), percent("within_20pct"), number("spearman")]
    return f"| {label} | {' | '.join(cells)} |"


def _worst(name: str, rows: Sequence[Prediction]) -> str:
    lines = [
        f"### {name}: the worst rows of every source",
        "",
        "| source | run | metric | measured | predicted | error |",
        "|---|---|---|---:|---:|---:|",
    ]
    scored = [p for p in rows if p.scored and p.ape is not None]
    for source, group in grouped(scored, lambda p: p.row.source).items():
        for p in sorted(group, key=lambda p: -(p.ape or 0.0))[:WORST]:
            measured, predicted = f"{p.row.value:.4g}", f"{p.predicted:.4g}"
            cells = [source, p.row.id, p.row.metric, measured, predicted, f"{p.ape:.1%}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _claims(report: Report) -> str:
    lines = [
        "## Promises",
        "",
        "| promise | found | from | to | holds |",
        "|---|---:|---:|---:|---|",
    ]
    found = [
        *claims(report.tables.get("training", []), report.tables.get("training_oom", [])),
        *kernel_claims(report.tables.get("kernels", [])),
        *serving_claims(report.tables.get("serving", [])),
    ]
    for c in found:
        verdict = "yes" if c.holds else f"**no**: {c.missed}"
        lines.append(f"| {c.name} | {c.value:.3g} | {c.low:g} | {c.high:g} | {verdict} |")
    return "\n".join(lines)


def _defaults() -> str:
    lines = [
        "## What a row is taken to mean",
        "",
        "A row that does not state something takes the same default whatever its source.",
        "",
        "| field | taken to be | because |",
        "|---|---|---|",
    ]
    lines += [f"| {item.field} | {item.value} | {item.reason} |" for item in DEFAULTS]
    lines += ["", "A row of the serving table:", "", "| field | taken to be |", "|---|---|"]
    lines += [f"| {field} | {value} |" for field, value in serving.DEFAULTS.items()]
    lines += ["", "An accelerator stands in its reference cluster:"]
    lines += [", ".join(f"{device} in {cluster}" for device, cluster in CLUSTERS.items()) + "."]
    return "\n".join(lines)


def _parameters() -> str:
    lines = [
        "## Fitted parameters",
        "",
        "These numbers, and the kernel and collective parameters of the hardware database, are all"
        " that is fitted; none belongs to a source, a model or a row.",
        "",
        "| parameter | value |",
        "|---|---:|",
    ]
    current = {p.name: p.value for p in fit.parameters()}
    lines += [f"| {name} | {value:.6g} |" for name, value in current.items()]
    if not fit.RESULT.is_file():
        return "\n".join(lines)
    result = json.loads(fit.RESULT.read_text(encoding="utf-8"))
    lines += [
        "",
        "Median error of time by source with these parameters, and with parameters fitted on all"
        " other sources:",
        "",
        "| source | rows | fitted | left out |",
        "|---|---:|---:|---:|",
    ]
    for source, errors in result["sources"].items():
        lines.append(
            f"| {source} | {errors['rows']} | {errors['fitted']:.1%} | {errors['left_out']:.1%} |"
        )
    if result["parameters"] != current:
        lines += ["", "The parameters have changed since this table was made."]
    return "\n".join(lines)


def _engines() -> str:
    lines = [
        "## Fitted numbers of inference engines",
        "",
        "Four for an engine, chosen on a grid from the aggregated runs with a stated concurrency;"
        " the generic engine has those of vLLM.",
        "",
        "| engine | step | token | waits | together |",
        "|---|---:|---:|---:|---:|",
    ]
    found = fit_engines.result()
    for name, one in found.items():
        p = one["parameters"]
        lines.append(
            f"| {name} | {p['step'] * 1e3:.1f} ms | {p['token'] * 1e6:.0f} us"
            f" | {p['waits']:.0f} | {p.get('together', 1.0):.1f} |"
        )
    lines += [
        "",
        "Median error by model with these numbers, and with numbers chosen on all other models:",
        "",
        "| engine | model | metric | rows | fitted | left out |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name, one in found.items():
        for model, metrics in one["models"].items():
            for metric, e in metrics.items():
                cells = [name, model, metric, str(e["rows"])]
                cells += [f"{e['fitted']:.1%}", f"{e['left_out']:.1%}"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
