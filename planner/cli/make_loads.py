"""``roofplan make-loads``: loads of experts as published models show them, for want of a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from planner.cli.options import read_count
from planner.cli.output import emit, tell
from planner.errors import PlannerError
from planner.specs.folders import near
from planner.units import parse_quantity

app = typer.Typer(rich_markup_mode=None, add_completion=False)

FORMATS = ("csv", "json", "npz")

Text = str | None


def _option(flag: str, metavar: str, told: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=told)


@app.command()
def make_loads(
    name: Annotated[
        str, typer.Argument(metavar="MODEL|PRESET", help="A model, or a preset such as olmoe-code.")
    ],
    skew: Annotated[
        Text, _option("--skew", "PRESET", "Skew of a model: a preset; else its family's.")
    ] = None,
    tokens: Annotated[
        str, _option("--tokens", "T", "Tokens of a window; default 100k, with routing 4096.")
    ] = "",
    windows: Annotated[str, _option("--windows", "N", "Windows, between which loads drift.")] = "1",
    sigma: Annotated[
        Text, _option("--sigma", "X", "Instead of the preset's deviation of a load's logarithm.")
    ] = None,
    affinity: Annotated[
        Text, _option("--affinity", "X", "Weight of an expert's successors, 0 to 1.")
    ] = None,
    drift: Annotated[
        Text, _option("--drift", "X", "Deviation of the step from one window to the next.")
    ] = None,
    seed: Annotated[str, _option("--seed", "N", "The same seed, the same loads; default 0.")] = "0",
    db: Annotated[
        list[str] | None, _option("--db", "DIR", "Search this database first; repeatable.")
    ] = None,
    form: Annotated[
        Text, _option("--format", "|".join(FORMATS), "Table, SGLang's JSON, or tokens (npz).")
    ] = None,
    output: Annotated[Text, _option("--output", "FILE", "Write to a file; npz needs one.")] = None,
) -> None:
    """Make loads of a model's experts, skewed as published models are.

    With --format npz the experts of every token are drawn, with affinity between layers; the other
    formats hold counts.
    """
    from planner.placement.generate import PRESETS, generate, skew_of, usual_skew, write_text
    from planner.results.files import check_writable, write
    from planner.specs.models_catalog import find_model

    kind = form or (Path(output).suffix.removeprefix(".") if output else "csv")
    if kind not in FORMATS:
        raise PlannerError(
            f"--format: found {kind!r}{near(kind, FORMATS)}; expected one of {', '.join(FORMATS)}."
        )
    if kind == "npz" and output is None:
        raise PlannerError("--output: missing; npz is not text, expected --output loads.npz.")
    if output is not None:
        check_writable(output)
    preset = PRESETS.get(name)
    model = find_model(name if preset is None else preset.model, db or ())
    chosen = skew_of(skew) if skew else preset or usual_skew(model)
    if sigma is not None:
        value = _number(sigma, "--sigma")
        chosen = replace(chosen, sigma=value, gate=value)
    if affinity is not None:
        chosen = replace(chosen, affinity=_share(affinity, "--affinity"))
    if drift is not None:
        chosen = replace(chosen, drift=_number(drift, "--drift"))
    loads = generate(
        model,
        chosen,
        tokens=read_count(tokens or ("4096" if kind == "npz" else "100000"), "--tokens"),
        windows=read_count(windows, "--windows"),
        routed=kind == "npz",
        seed=int(parse_quantity(seed, "count", where="--seed", allow_zero=True)),
    )
    if kind == "npz":
        _write_arrays(str(output), loads, model.num_layers)
    else:
        text = write_text(loads, kind, model.num_layers)
        if output is None:
            emit(text)
            return
        write(output, text)
    tell(f"wrote {output}: {len(loads.layers)} layers x {loads.experts} experts ({chosen.source})")


def _write_arrays(path: str, loads: Any, layers: int) -> None:
    """SGLang's two arrays, with rows of -1 and 0 for layers without experts."""
    import numpy as np

    routing = np.full((layers, *loads.routing.shape[1:]), -1, dtype=np.int16)
    routing[list(loads.layers)] = loads.routing
    try:
        with open(path, "wb") as file:
            np.savez_compressed(file, topk_ids_of_layer=routing)
    except OSError as error:
        raise PlannerError(
            f"{path}: cannot be written: {(error.strerror or '').lower()}."
        ) from None


def _number(text: str, where: str) -> float:
    return parse_quantity(text, "number", where=where, allow_zero=True)


def _share(text: str, where: str) -> float:
    return parse_quantity(text, "fraction", where=where, allow_zero=True)
