"""What a chat service needs as it grows: how many devices, and what its slow requests see."""

from __future__ import annotations

import planner

SERVICE = {
    "max_devices": 32,
    "trace": "azure-conversation",
    "ttft": 1.0,
    "tpot": 0.05,
    "percentile": 95.0,
    "architecture": "aggregated",
    "top": 1,
}

print(f"{'requests/s':>10} {'devices':>7} {'tp':>3} {'p95 TTFT':>9} {'p95 TPOT':>9} {'$/1M':>6}")
for rate in (5.0, 10.0, 20.0, 40.0):
    found = planner.plan_serving("llama-3.1-70b", "hgx-h200", rate=rate, **SERVICE)  # type: ignore[arg-type]
    best = found.plan(1)
    late = best["ttft_percentile"], best["tpot_percentile"]
    print(
        f"{rate:10.0f} {best['devices']:7.0f} {best['tp']:3} {late[0]:8.2f}s {late[1]:8.3f}s"
        f" {best['price_per_million_tokens']:6.2f}"
    )

replayed = planner.plan_serving("llama-3.1-70b", "hgx-h200", rate=20.0, check=True, **SERVICE)  # type: ignore[arg-type]
print(*replayed.plan(1).notes, sep="\n")
