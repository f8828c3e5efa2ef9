"""A placement as the files that serving systems read.

SGLang: ``--init-expert-location`` takes JSON with ``physical_to_logical_map`` of every layer of
the model, those without experts too.  vLLM: the state of its expert load balancer, the layers with
experts only, with their sizes.  TensorRT-LLM: the YAML of ``moe_config.load_balancer``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.specs.folders import near

Ints = NDArray[np.int64]

SYSTEMS = {"sglang": ".json", "vllm": ".json", "tensorrt-llm": ".yaml"}
"""Systems, and the ending of their files."""


def check_system(system: str) -> None:
    """Refuse a system that is not known.

    Raises
    ------
    PlannerError
        Naming those that are.
    """
    if system not in SYSTEMS:
        raise PlannerError(
            f"export: found {system!r}{near(system, SYSTEMS)}; expected one of"
            f" {', '.join(SYSTEMS)}."
        )


def export_text(
    system: str, slots: Ints, experts: int, layers: Sequence[int], model_layers: int | None = None
) -> str:
    """The file of a system.

    Parameters
    ----------
    slots : (L, S)
        Expert of every slot; a device has S / G neighbouring slots.
    layers
        Number of each layer in the model.
    model_layers
        Layers of the model, those without experts included; by default up to the last with some.
    """
    check_system(system)
    rows = slots.tolist()
    if system == "tensorrt-llm":
        lines = [f"num_slots: {slots.shape[1]}", "initial_global_assignments:"]
        lines += [f"  {layer}: {row}" for layer, row in zip(layers, rows, strict=True)]
        return "\n".join([*lines, "layer_updates_per_iter: 0"]) + "\n"
    if system == "sglang":
        count = max(layers) + 1 if model_layers is None else model_layers
        every = np.tile(np.arange(slots.shape[1]) % experts, (count, 1))
        every[list(layers)] = slots
        return json.dumps({"physical_to_logical_map": every.tolist()}) + "\n"
    state = {
        "num_moe_layers": len(rows),
        "num_logical_experts": experts,
        "num_physical_experts": slots.shape[1],
        "physical_to_logical_map": rows,
    }
    return json.dumps(state) + "\n"
