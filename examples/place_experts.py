"""From recorded loads to a deployed placement: which experts are busy, what replicas gain, what to
hand to the engine, and when to do it again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

import planner
from planner.placement.generate import PRESETS, generate
from planner.placement.loads_formats import read_loads

MODEL, CLUSTER, DEVICES = "deepseek-r1", "h800-ib", 64
folder = Path(tempfile.mkdtemp())

# What SGLang's recorder would leave: counts of every window, layer and expert.  Here they are made.
made = generate(planner.find_model(MODEL), PRESETS[MODEL], tokens=200_000, windows=8, seed=1)
assert made.windows is not None
record = folder / "expert_distribution.npy"
np.save(record, made.windows)
loads = read_loads(record, planner.find_model(MODEL))
print(f"{len(loads.layers)} layers from {loads.layers[0]}, drift {loads.drift:.2f} a window")

# How many slots are worth their memory?
step = {"model": MODEL, "phase": "decode", "tokens": 64}
for slots in (256, 320, 384):
    found = planner.plan_placement(
        loads, CLUSTER, devices=DEVICES, slots=slots, method="lpt", **step
    )
    assert found.layer_time_after_s is not None
    print(
        f"{slots} slots: busiest device {found.balance_after:.3f} times the mean"
        f" (bound {found.bound:.3f}), {found.drift.balance:.3f} a window later,"
        f" {1e6 * found.layer_time_after_s:.0f} us a layer"
    )

# Deploy: the file that SGLang starts from.
chosen = planner.plan_placement(loads, CLUSTER, devices=DEVICES, slots=320, **step)
running = folder / "placement.json"
running.write_text(chosen.export("sglang"), encoding="utf-8")
rows = json.loads(running.read_text(encoding="utf-8"))["physical_to_logical_map"]
print(f"wrote {len(rows)} layers of {len(rows[0])} slots")

# A day later the loads have moved: few experts follow.
later = generate(planner.find_model(MODEL), PRESETS[MODEL], tokens=200_000, windows=10, seed=1)
assert later.windows is not None
today = later.windows[-2:].sum(axis=0)
again = planner.plan_placement(
    today, CLUSTER, devices=DEVICES, slots=320, current=running, window=600.0, **step
)
assert again.moved_bytes is not None and again.move_time_s is not None
print(
    f"{again.balance_before:.3f} -> {again.balance_after:.3f} by moving {again.moved_experts}"
    f" experts, {again.moved_bytes / 1e9:.0f} GB in {again.move_time_s:.2f} s ({again.method})"
)
