"""Ask for training plans: ``plan_training`` searches, ``estimate_training`` costs one.

Both take a model and a cluster as a name in the databases, a path or an object, and the same
options; the command line adds nothing to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from planner.results.plan import Plan
from planner.results.ranking import Ranking
from planner.specs.hardware import Cluster
from planner.specs.model import ModelSpec
from planner.specs.parallelism import Configuration
from planner.training.axes import AxisValues, axis_values, complete, find_axis, parse_configuration
from planner.training.devices import device_numbers
from planner.training.estimate import estimate
from planner.training.rank import Maker, rank
from planner.training.request import Options, resolve


def plan_training(
    model: str | Path | ModelSpec,
    cluster: str | Path | Cluster,
    *,
    devices: int | Sequence[int] | None = None,
    max_devices: int | None = None,
    global_batch: int,
    seq_len: int,
    precision: str = "bf16",
    software: str = "megatron",
    top: int = 10,
    objective: str = "throughput",
    fixed: Mapping[str, AxisValues] | None = None,
    tokens: float | None = None,
    deadline: float | None = None,
    memory_reserve: float = 0.1,
    max_step_time: float | None = None,
    price: float | None = None,
    imbalance: float | None = None,
    loads: str | None = None,
    placement: str = "contiguous",
    pareto: str | None = None,
    baseline: str | Mapping[str, int | str] | None = None,
    measured: float | None = None,
    db: Iterable[str | Path] = (),
    overrides: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Rank the best ways to pre-train a model on a cluster.

    Parameters
    ----------
    model, cluster : str, Path or object
        A name in the databases, a path (``config.json``, a YAML file), or a specification.
    devices : int or sequence of int
        Numbers of devices to use, each whole.
    max_devices : int
        Instead: try every sensible number up to this one (``training.devices.device_numbers``).
    global_batch, seq_len : int
        Sequences in an optimizer step, tokens in a sequence.
    precision, software : str
        Names in ``specs.workload``.
    top : int
        Plans to return.
    objective : str
        ``throughput``, ``price`` (of a trillion tokens), ``devices`` (fewest for the deadline) or
        ``memory`` (most headroom).
    fixed : mapping
        Axis to the value or values that it may take: ``{"tp": 8, "pp": [4, 8], "sp": "on"}``.
    tokens, deadline : float
        Tokens to train on, and the longest time that this may take [s].
    memory_reserve : float
        Share of a device's memory to leave free.
    max_step_time : float
        Longest step [s].
    price : float
        US dollars per device-hour, instead of the database's.
    imbalance : float
        Tokens of the busiest expert-parallel rank over the mean; default ``MOE_IMBALANCE``.
    loads, placement : str
        Instead: loads of experts, a file or a preset (``placement.generate.PRESETS``), and how they
        are placed: ``contiguous`` or ``balanced``.
    pareto : str
        ``memory`` or ``price``: also find the front of step time against it.
    baseline : str or mapping
        What the user runs today, ``"tp=8,pp=4"``; axes left out take ``complete``'s defaults.
    measured : float
        The baseline's measured step time [s]; every time is scaled to agree with it.
    db : iterable of paths
        The user's databases, searched first.
    overrides : mapping
        Hardware fields to quantities, as ``--set`` takes them.
    progress : callable
        Called with (parts done, parts in all).

    Raises
    ------
    PlannerError
        If an option is wrong; the message names it.
    Infeasible
        If nothing satisfies every constraint; the message says what would.
    """
    options = Options(
        global_batch=global_batch,
        seq_len=seq_len,
        devices=_numbers(devices),
        max_devices=max_devices,
        precision=precision,
        software=software,
        top=top,
        objective=objective,
        fixed={find_axis(name).name: axis_values(name, v) for name, v in (fixed or {}).items()},
        tokens=tokens,
        deadline=deadline,
        memory_reserve=memory_reserve,
        max_step_time=max_step_time,
        price=price,
        imbalance=imbalance,
        loads=loads,
        placement=placement,
        pareto=pareto,
        baseline=None if baseline is None else parse_configuration(baseline),
        measured=measured,
        db=tuple(str(folder) for folder in db),
        overrides=dict(overrides or {}),
    )
    return rank(resolve(model, cluster, options), progress)


def estimate_training(
    model: str | Path | ModelSpec,
    cluster: str | Path | Cluster,
    configuration: str | Mapping[str, int | str] | Configuration = "",
    *,
    global_batch: int,
    seq_len: int,
    devices: int | None = None,
    precision: str = "bf16",
    software: str = "megatron",
    tokens: float | None = None,
    memory_reserve: float = 0.1,
    price: float | None = None,
    imbalance: float | None = None,
    loads: str | None = None,
    placement: str = "contiguous",
    db: Iterable[str | Path] = (),
    overrides: Mapping[str, str] | None = None,
) -> Plan:
    """Cost one configuration, whether or not it fits.

    ``configuration`` is a ``Configuration``, a mapping or text such as ``tp=8,pp=4``; what it
    leaves out takes the defaults of ``training.axes.complete``.  ``devices`` may be left out when
    ``dp`` is given.  The other parameters are those of ``plan_training``.

    Raises
    ------
    PlannerError
        If an option is wrong or a rule forbids the configuration; the message names it.
    """
    given = configuration.as_dict() if isinstance(configuration, Configuration) else configuration
    options = Options(
        global_batch=global_batch,
        seq_len=seq_len,
        devices=None if devices is None else (devices,),
        precision=precision,
        software=software,
        tokens=tokens,
        memory_reserve=memory_reserve,
        price=price,
        imbalance=imbalance,
        loads=loads,
        placement=placement,
        db=tuple(str(folder) for folder in db),
        overrides=dict(overrides or {}),
    )
    request = resolve(model, cluster, options)
    whole = complete(parse_configuration(given), request.model, request.job, devices)
    device_numbers(request.cluster, whole.devices, None)
    found = estimate(request.model, request.cluster, request.job, whole)
    return Maker.of(request).plan(found)


def _numbers(devices: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if devices is None or isinstance(devices, int):
        return None if devices is None else (devices,)
    return tuple(devices)
