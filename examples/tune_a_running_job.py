"""A job runs today with a known step time: what would be faster, and why."""

from __future__ import annotations

import planner

ranking = planner.plan_training(
    "llama-3.1-8b",
    "dgx-h100",
    devices=64,
    seq_len=8192,
    global_batch=256,
    baseline="tp=8,micro_batch=2",
    measured=7.0,
    top=3,
)
for plan in ranking:
    print(f"{plan.rank}: {plan['step_time']:.2f} s, {plan['gain']:+.0%}")
print(ranking.frame()[["tp", "pp", "dp", "micro_batch", "step_time", "mfu"]])
print(ranking.explain(1))
print("launch with:", *ranking.plan(1).flags)
