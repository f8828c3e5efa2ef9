"""What must fit into a device's memory for training: states, activations, buffers.

States follow ZeRO (arXiv 1910.02054, section 3): stage 1 shards the optimizer over the
data-parallel group, stage 2 the gradients too, stage 3 also the weights.  Megatron's distributed
optimizer is stage 1.
"""

from __future__ import annotations

from planner.costs.terms import Ref, term
from planner.costs.tree import Seconds

FRAMEWORK_BYTES = 1.0 * 2**30
"""Workspaces of cuBLAS and cuDNN and allocator slack; what ``torch.cuda`` counts as allocated but
no tensor of the model explains.  The context outside the allocator is in ``usable_memory``."""


@term(
    "w/[z>=3: d] + g/[z>=2: d] + o/[z>=1: d]",
    Ref("ZeRO, arXiv 1910.02054", "section 5, figure 1"),
)
def state_bytes(
    shards: Seconds, zero: int, weight: float, gradient: float, optimizer: float
) -> tuple[Seconds, Seconds, Seconds]:
    """Bytes of weight, gradient and optimizer state that a device keeps for each parameter.

    ``shards`` is the data-parallel group over which ZeRO stage ``zero`` (0 to 3) shards.
    """
    return (
        weight / (shards if zero >= 3 else 1.0),
        gradient / (shards if zero >= 2 else 1.0),
        optimizer / (shards if zero >= 1 else 1.0),
    )
