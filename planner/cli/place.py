"""``roofplan place``: replicas of experts, and the devices that hold them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from planner.cli.options import read_count, read_counts, read_time, setting
from planner.cli.output import (
    FORMATS,
    check_format,
    draw,
    emit,
    format_of,
    is_terminal,
    separated,
    tell,
)
from planner.errors import PlannerError
from planner.units import parse_quantity

app = typer.Typer(rich_markup_mode=None, add_completion=False)

UNPROVED = 4
"""Exit code when the solver's limit came before its proof."""

Text = str | None


def _option(flag: str, metavar: str, told: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=told)


@app.command()
def place(
    loads: Annotated[str, typer.Argument(metavar="LOADS", help="A file of counts or of routing.")],
    cluster: Annotated[Text, _option("--cluster", "NAME", "A name or a YAML file.")] = None,
    devices: Annotated[Text, _option("--devices", "N", "Devices that share the experts.")] = None,
    slots: Annotated[
        Text,
        _option("--slots", "S", "Experts held of a layer, replicas counted; or several to try."),
    ] = None,
    nodes: Annotated[Text, _option("--nodes", "N", "Nodes of EPLB; else the cluster's.")] = None,
    groups: Annotated[
        Text, _option("--groups", "N", "Groups of experts of EPLB; else the model's.")
    ] = None,
    model: Annotated[Text, _option("--model", "NAME", "Model, to know times and bytes.")] = None,
    phase: Annotated[
        Text, _option("--phase", "NAME", "decode (default), prefill or training.")
    ] = None,
    tokens: Annotated[Text, _option("--tokens", "T", "Tokens of a device and step.")] = None,
    precision: Annotated[
        Text, _option("--precision", "TYPE", "Datatype of the experts; else the checkpoint's.")
    ] = None,
    objective: Annotated[
        Text, _option("--objective", "NAME", "balance, time (default with --model), hops or bytes.")
    ] = None,
    method: Annotated[
        str, _option("--method", "NAME", "auto, eplb, lpt, milp or affinity.")
    ] = "auto",
    counts: Annotated[
        Text, _option("--counts", "NAME", "Experts of a device in a layer: equal or unequal.")
    ] = None,
    transitions: Annotated[
        Text, _option("--transitions", "FILE", "Which experts follow which: counts or routing.")
    ] = None,
    current: Annotated[
        Text, _option("--current", "FILE", "What runs today; the answer moves little.")
    ] = None,
    drift: Annotated[
        Text, _option("--drift", "X", "Deviation of a load's logarithm from day to day.")
    ] = None,
    window: Annotated[
        Text, _option("--window", "TIME", "Length of a day, to say how often to place anew.")
    ] = None,
    time_limit: Annotated[
        Text, _option("--time-limit", "TIME", "Longest time of the solver; default 10s.")
    ] = None,
    export: Annotated[
        Text, _option("--export", "SYSTEM", "Answer with its file: sglang, vllm or tensorrt-llm.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        _option("--set", "hardware.FIELD=VALUE", "Change a number of the hardware; repeatable."),
    ] = None,
    db: Annotated[
        list[str] | None, _option("--db", "DIR", "Search this database first; repeatable.")
    ] = None,
    form: Annotated[Text, _option("--format", "|".join(FORMATS), "How to answer.")] = None,
    output: Annotated[Text, _option("--output", "FILE", "Write the answer to a file.")] = None,
) -> None:
    """Place experts on devices, with replicas, and say what that gains.

    LOADS is a table or what SGLang, vLLM or TensorRT-LLM record; roofplan make-loads makes some.
    """
    check_format(form)
    if devices is None:
        raise PlannerError("--devices: missing on the command line.")
    from planner.placement.export import check_system
    from planner.placement.plan import plan_placement
    from planner.results.files import check_writable, write

    if export is not None:
        check_system(export)
        counts = counts or "equal"
    if output is not None:
        check_writable(output)
    found = plan_placement(
        loads,
        cluster,
        devices=read_count(devices, "--devices"),
        slots=None if slots is None else read_counts(slots, "--slots"),
        nodes=_count(nodes, "--nodes"),
        groups=_count(groups, "--groups"),
        model=model,
        phase=phase,
        tokens=_number(tokens, "--tokens", "tokens"),
        precision=precision,
        objective=objective,
        method=method,
        counts=counts or "auto",
        transitions=transitions,
        current=current,
        drift=_number(drift, "--drift", "number"),
        window=_time(window, "--window"),
        time_limit=10.0 if time_limit is None else read_time(time_limit, "--time-limit"),
        overrides=dict(setting(item) for item in set_ or ()),
        db=db or (),
    )
    text = found.export(export) if export else _text(found, format_of(form, output))
    if output is not None:
        write(output, text)
        tell(f"wrote {output}")
    if is_terminal() and (output is not None or (form or "table") == "table") and not export:
        _show(found)
    elif output is None:
        emit(text)
    for note in found.notes if not is_terminal() else ():
        tell(f"note: {note}")
    done = found.certificate
    if done is not None and done.proved < done.open:
        raise typer.Exit(UNPROVED)


def _text(found: Any, form: str) -> str:
    from planner.placement.report import table

    if form == "json":
        return str(found.to_json())
    return separated(*table(found), "," if form == "csv" else "\t")


def _show(found: Any) -> None:
    from rich.text import Text as Plain

    from planner.placement.report import summary

    draw(Plain(summary(found)))


def _count(text: str | None, where: str) -> int | None:
    return None if text is None else read_count(text, where)


def _number(text: str | None, where: str, dimension: str) -> float | None:
    if text is None:
        return None
    return parse_quantity(text, dimension, where=where, allow_zero=dimension == "number")


def _time(text: str | None, where: str) -> float | None:
    return None if text is None else read_time(text, where)
