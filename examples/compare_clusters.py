"""Which cluster trains a model at the lowest price, and what a faster network would change."""

from __future__ import annotations

import planner

JOB = {"devices": 64, "seq_len": 4096, "global_batch": 512, "objective": "price", "top": 1}

print(f"{'cluster':12} {'step':>8} {'MFU':>7} {'$/1T tokens':>13}")
for cluster in ("dgx-a100", "dgx-h100", "hgx-h200"):
    (best,) = planner.plan_training("llama-3.1-70b", cluster, **JOB)  # type: ignore[arg-type]
    price = best.metrics["price_per_trillion_tokens"]
    shown = "no price" if price is None else f"{price:,.0f}"
    print(f"{cluster:12} {best['step_time']:7.2f}s {best['mfu']:7.1%} {shown:>13}")

faster = planner.plan_training(
    "llama-3.1-70b",
    "dgx-h100",
    overrides={"hardware.fabric.bandwidth": "100 GB/s"},
    **JOB,  # type: ignore[arg-type]
)
print(f"dgx-h100 with 100 GB/s a device between nodes: {faster.plan(1)['step_time']:.2f}s")
