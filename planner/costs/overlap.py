"""What hiding communication behind computation costs: the multiprocessors that it takes.

Communication kernels run on the same device, so work that hides a transfer slows down while the
transfer lasts.
"""

from __future__ import annotations

import numpy as np

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

STOLEN = 0.15
"""Share of a device's multiprocessors that a transfer keeps busy: 20 of 132 on Hopper (DeepEP
README, normal kernels, 20 to 24; NCCL's default of 16 to 32 channels)."""


@term(
    "max(work + 0.15 min(work, transfer), transfer)",
    Ref("DeepEP README; NCCL documentation, NCCL_MAX_CTAS", "multiprocessors for communication"),
)
def behind_work(work: Seconds, transfer: Seconds) -> Seconds:
    """Time of work and a transfer that run at once [s], equal to ``work`` without a transfer."""
    return np.maximum(work + STOLEN * np.minimum(work, transfer), transfer)
