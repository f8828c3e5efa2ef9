"""Loads for who has no record: popularity, affinity and drift as published models show them.

The popularity of a layer's experts is log-normal, cut off where a token would need one twice.
Tokens follow it and, with weight ``affinity``, a few successors of the experts that they had in the
layer before.  From one window to the next the logarithm of the popularity takes a random step.
A preset names what was measured and its source; the numbers are fits to published figures, not
records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.placement.loads import Loads, moe_layers
from planner.specs.folders import near
from planner.specs.model import ModelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SUCCESSORS = 4
"""Experts of the next layer that those of a layer send their tokens to."""
CHUNK = 1 << 22
"""Numbers that are drawn at a time."""


@dataclass(frozen=True)
class Skew:
    """How unevenly a model's experts are used."""

    model: str
    """Name in the database."""
    sigma: float
    """Standard deviation of the logarithm of an expert's load."""
    gate: float
    """The same of the gate, where tokens are drawn: choices without replacement flatten it."""
    affinity: float
    drift: float
    """Standard deviation of the step of a load's logarithm from one window to the next."""
    source: str


SAME_DOMAIN = 0.12
"""Drift with which TensorRT-LLM's balanced DeepSeek-R1 is at 1.115 an interval later."""

PRESETS = {
    "deepseek-r1": Skew(
        "deepseek-r1", 1.08, 1.30, 0.3, SAME_DOMAIN,
        "TensorRT-LLM examples/ep_load_balancer: (max - mean) / mean of 32 ranks is 1.564",
    ),
    "deepseek-r1-sharegpt": Skew(
        "deepseek-r1", 1.80, 2.50, 0.3, SAME_DOMAIN,
        "one layer on ShareGPT: a fifth of the experts above the mean, the hottest 30 times it",
    ),
    "olmoe-chat": Skew("olmoe-1b-7b", 0.53, 0.60, 0.3, SAME_DOMAIN, "max/mean 3.1 on chat"),
    "olmoe-mixed": Skew("olmoe-1b-7b", 0.77, 0.90, 0.3, SAME_DOMAIN, "max/mean 4.7, mixed"),
    "olmoe-code": Skew("olmoe-1b-7b", 1.10, 1.80, 0.3, SAME_DOMAIN, "max/mean 6.7 on code"),
    "mixtral": Skew(
        "mixtral-8x7b-v0.1", 0.40, 0.50, 0.45, SAME_DOMAIN,
        "affinity by ExFlow's placements, which keep 43.6 % on 4 devices; sigma is assumed",
    ),
    "balanced": Skew(
        "qwen2-57b-a14b", 0.42, 0.45, 0.1, SAME_DOMAIN, "Qwen1.5-MoE on GSM8K: 5.876 of 6 bits"
    ),
}  # fmt: skip


def skew_of(name: str) -> Skew:
    """The preset of that name.

    Raises
    ------
    PlannerError
        If there is none; the message holds the nearest.
    """
    if name not in PRESETS:
        raise PlannerError(
            f"skew: found {name!r}{near(name, PRESETS)}; expected one of {', '.join(PRESETS)}."
        )
    return PRESETS[name]


def usual_skew(model: ModelSpec) -> Skew:
    """The preset for a model: its own family's, else one with about as many experts."""
    for skew in PRESETS.values():
        if model.name.split("-")[0] == skew.model.split("-")[0]:
            return skew
    experts = next(iter(moe_layers(model).values())).experts
    few, some = 16, 96
    return PRESETS["mixtral" if experts <= few else "olmoe-mixed" if experts <= some
                   else "deepseek-r1"]  # fmt: skip


def popularity(sigma: float, layers: int, experts: int, top_k: int, seed: int = 0) -> Floats:
    """Chance that a token goes to an expert, log-normal and at most 1, shape (L, E)."""
    random = np.random.default_rng(seed)
    return capped(np.exp(random.normal(0.0, sigma, (layers, experts))), top_k)


def capped(weights: Floats, top_k: int) -> Floats:
    """Weights scaled to ``top_k`` in sum; what is above 1 goes to the others in proportion."""
    chance = weights * (top_k / weights.sum(axis=-1, keepdims=True))
    for _ in range(top_k):
        sure = chance >= 1.0
        left = top_k - sure.sum(axis=-1, keepdims=True)
        rest = np.where(sure, 0.0, chance).sum(axis=-1, keepdims=True)
        chance = np.where(
            sure, 1.0, chance * np.where(rest > 0, left / np.maximum(rest, 1e-300), 1.0)
        )
    return np.asarray(chance)


def generate(
    model: ModelSpec,
    skew: Skew,
    *,
    tokens: int,
    windows: int = 1,
    routed: bool = False,
    seed: int = 0,
) -> Loads:
    """Loads of a model's layers with experts.

    Parameters
    ----------
    tokens
        Tokens of a window.
    windows
        Windows, between which loads drift.
    routed
        Whether single tokens are drawn, with their affinity; else only the counts, which is fast.
    seed
        The same seed gives the same loads.

    Raises
    ------
    PlannerError
        If the layers differ in experts or a number is not positive.
    """
    parts = moe_layers(model)
    sizes = {(part.experts, part.top_k) for part in parts.values()}
    if len(sizes) > 1:
        raise PlannerError(f"{model.name}: found layers with other experts, expected all alike.")
    for name, value in (("tokens", tokens), ("windows", windows)):
        if value < 1:
            raise PlannerError(f"{name}: found {value}, expected a positive whole number.")
    ((experts, top_k),) = sizes
    random = np.random.default_rng(seed)
    sigma = skew.gate if routed else skew.sigma
    log = random.normal(0.0, sigma, (len(parts), experts))
    follow = _successors(random, len(parts), experts) if routed else None
    counts, chosen = [], []
    for window in range(windows):
        if window:
            log = log + random.normal(0.0, skew.drift, log.shape)
        chance = capped(np.exp(log), top_k)
        if follow is None:
            counts.append(random.poisson(chance * tokens))
            continue
        one = _drawn(random, chance / top_k, follow, skew.affinity, tokens, top_k)
        chosen.append(one)
        counts.append(np.array([np.bincount(layer.ravel(), minlength=experts) for layer in one]))
    history = np.array(counts, dtype=float)
    return Loads(
        history.sum(axis=0),
        tuple(parts),
        history if windows > 1 else None,
        np.concatenate(chosen, axis=1) if chosen else None,
        "generated loads",
    )


def _successors(random: np.random.Generator, layers: int, experts: int) -> Floats:
    """Where an expert's tokens go in the next layer, (L - 1, E, E), rows of sum 1."""
    few = min(SUCCESSORS, experts)
    order = random.random((layers - 1, experts, experts)).argpartition(few - 1, axis=2)[:, :, :few]
    follow = np.zeros((layers - 1, experts, experts))
    weights = random.dirichlet(np.ones(few), (layers - 1, experts))
    np.put_along_axis(follow, order, weights, axis=2)
    return follow


def _drawn(
    random: np.random.Generator,
    popular: Floats,
    follow: Floats,
    affinity: float,
    tokens: int,
    top_k: int,
) -> Ints:
    """Experts of every token, without replacement, (L, T, K): the first arrivals of a race."""
    layers, experts = popular.shape
    chosen = np.empty((layers, tokens, top_k), dtype=np.int64)
    rows = max(1, CHUNK // experts)
    for first in range(0, tokens, rows):
        part = slice(first, min(tokens, first + rows))
        for layer in range(layers):
            rate = np.broadcast_to(popular[layer], (part.stop - part.start, experts))
            if layer:
                before = chosen[layer - 1, part]
                rate = (1.0 - affinity) * rate + affinity * follow[layer - 1, before].mean(axis=1)
            arrival = random.standard_exponential(rate.shape) / np.maximum(rate, 1e-12)
            chosen[layer, part] = arrival.argpartition(top_k - 1, axis=1)[:, :top_k]
    return chosen


def write_text(loads: Loads, form: str, total_layers: int) -> str:
    """Loads as ``csv`` (one row a layer) or ``json`` (SGLang's logical_count of all layers)."""
    import json

    if form == "csv":
        header = ",".join(["layer", *(f"expert_{e}" for e in range(loads.experts))])
        rows = zip(loads.layers, loads.counts.astype(np.int64).tolist(), strict=True)
        return "".join(
            f"{line}\n" for line in [header, *(f"{n},{_joined(row)}" for n, row in rows)]
        )
    history = loads.counts[np.newaxis] if loads.windows is None else loads.windows
    every = np.zeros((len(history), total_layers, loads.experts), dtype=np.int64)
    every[:, list(loads.layers)] = history
    return json.dumps({"logical_count": every.tolist()}) + "\n"


def _joined(row: list[int]) -> str:
    return ",".join(map(str, row))
