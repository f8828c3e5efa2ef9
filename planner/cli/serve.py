"""``roofplan serve``: rank the ways to serve a model on a cluster."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from planner.cli.answer import answer
from planner.cli.output import FORMATS, check_format, format_of
from planner.errors import PlannerError
from planner.results.files import check_writable
from planner.units import parse_quantity

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Text = str | None


def option(flag: str, metavar: str, text: str) -> Any:
    """An option of the command."""
    return typer.Option(flag, metavar=metavar, help=text)


@app.command()
def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name (roofplan show models) or a config.json.")
    ],
    cluster: Annotated[str, option("--cluster", "NAME", "Cluster: a name or a YAML file.")],
    devices: Annotated[str, option("--devices", "N", "Devices; those that stay idle count.")],
    isl: Annotated[str, option("--isl", "N", "Mean input tokens of a request.")],
    osl: Annotated[str, option("--osl", "N", "Mean output tokens of a request.")],
    ttft: Annotated[
        Text, option("--ttft", "TIME", "Longest mean time to the first token, such as 500ms.")
    ] = None,
    tpot: Annotated[
        Text, option("--tpot", "TIME", "Longest mean time of an output token, such as 30ms.")
    ] = None,
    rate: Annotated[
        Text, option("--rate", "R", "Requests per second; else as many as possible.")
    ] = None,
    architecture: Annotated[
        str, option("--architecture", "NAME", "any, aggregated or disaggregated.")
    ] = "any",
    engine: Annotated[
        str, option("--engine", "NAME", "vllm, sglang, tensorrt-llm or generic.")
    ] = "vllm",
    weights: Annotated[
        Text, option("--weights", "TYPE", "Datatype; by default what the checkpoint says.")
    ] = None,
    activations: Annotated[Text, option("--activations", "TYPE", "Datatype of products.")] = None,
    kv: Annotated[Text, option("--kv", "TYPE", "Datatype of the cache; default bf16.")] = None,
    prefix_hit: Annotated[
        str, option("--prefix-hit", "SHARE", "Input that is in the cache; default 0.")
    ] = "0",
    memory_fraction: Annotated[
        Text, option("--memory-fraction", "SHARE", "Device memory to use; else the engine's.")
    ] = None,
    chunk: Annotated[
        Text, option("--chunk", "N", "Most tokens of an iteration; else the engine's.")
    ] = None,
    objective: Annotated[
        str, option("--objective", "NAME", "throughput, or devices (fewest for the rate).")
    ] = "throughput",
    price: Annotated[Text, option("--price", "PRICE", "Price of a device, such as 2.10/h.")] = None,
    top: Annotated[str, option("--top", "N", "Plans to show.")] = "10",
    db: Annotated[
        list[str] | None, option("--db", "DIR", "Search this database first; repeatable.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        option("--set", "hardware.FIELD=VALUE", "Change a number of the hardware; repeatable."),
    ] = None,
    form: Annotated[Text, option("--format", "|".join(FORMATS), "How to answer.")] = None,
    output: Annotated[Text, option("--output", "FILE", "Write the answer to a file.")] = None,
) -> None:
    """Rank the ways to serve a model on a cluster.

    Times are means over requests that arrive at random.
    """
    check_format(form)
    question: dict[str, Any] = {
        "devices": _count("--devices", devices),
        "isl": _count("--isl", isl),
        "osl": _count("--osl", osl),
        "ttft": _time("--ttft", ttft),
        "tpot": _time("--tpot", tpot),
        "rate": None if rate is None else parse_quantity(rate, "number", where="--rate"),
        "architecture": architecture,
        "engine": engine,
        "weights": weights,
        "activations": activations,
        "kv": kv,
        "prefix_hit": parse_quantity(prefix_hit, "fraction", where="--prefix-hit", allow_zero=True),
        "memory_fraction": _share("--memory-fraction", memory_fraction),
        "chunk": None if chunk is None else _count("--chunk", chunk),
        "objective": objective,
        "price": None if price is None else parse_quantity(price, "usd/h", where="--price"),
        "top": _count("--top", top),
        "db": db or (),
        "overrides": dict(map(_setting, setting or ())),
    }
    if output is not None:
        check_writable(output)
    from planner.serving.plan import plan_serving

    answer(plan_serving(model, cluster, **question), format_of(form, output), output)


def _count(where: str, text: str) -> int:
    return int(parse_quantity(text, "count", where=where))


def _time(where: str, text: str | None) -> float | None:
    """``300ms``, ``0.3s`` or a bare number of seconds."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return parse_quantity(text, "time", where=where)


def _share(where: str, text: str | None) -> float | None:
    return None if text is None else parse_quantity(text, "fraction", where=where)


def _setting(item: str) -> tuple[str, str]:
    field, equals, value = item.partition("=")
    if not (equals and field.strip() and value.strip()):
        raise PlannerError(f"--set: found {item!r}, expected hardware.FIELD=VALUE.")
    return field.strip(), value.strip()
