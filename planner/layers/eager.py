"""What plain PyTorch runs between the matrix products that an inference engine fuses.

An engine turns queries and keys, adds the residual and normalises in one or two kernels; plain code
launches one for each operation, and each reads and writes memory.  Counted from the operations, not
fitted: rotary embedding is a negation, a concatenation, two products and a sum for each of queries
and keys; sorting tokens by expert takes some twenty small kernels.
"""

from __future__ import annotations

from planner.costs.tree import Cost
from planner.layers.inference import Array, Runtime, Step
from planner.specs.model import GroupedQueryAttention, Layer, MixtureOfExperts

ELEMENT = 2.0
"""Bytes of an element."""
ROTARY = (5.0, 10.0)
"""Kernels, and elements moved for each that is turned: negate half (1), concatenate (2), two
products (2 each), sum (3)."""
SORTING = 20.0
"""Kernels that sort tokens by expert: softmax, top-k, a radix sort, counts, prefix sums, casts."""


def unfused(run: Runtime, layer: Layer, step: Step) -> list[Cost]:
    """Kernels of one layer beyond those that ``layers.inference`` has [s]."""
    spec, part = layer.attention, layer.feedforward
    tokens, hidden = step.tokens, float(run.hidden)
    found = [run.moved("residual sums", ELEMENT * tokens * 2.0 * hidden, 2.0)]
    if isinstance(spec, GroupedQueryAttention):
        kernels, each = ROTARY
        queries, keys = float(spec.heads * spec.head_dim), float(spec.kv_heads * spec.head_dim)
        moved = each * (queries + keys) + 2.0 * queries  # and heads put side by side again
        found.append(run.moved("rotary embedding", ELEMENT * tokens * moved, 2.0 * kernels))
        written = ELEMENT * step.decodes * 4.0 * keys
        found.append(run.moved("writing the cache", written, 2.0))
    if isinstance(part, MixtureOfExperts):
        copies: Array = tokens * part.top_k
        sent = copies * (7.0 * part.expert_hidden(run.hidden) + 2.0 * part.width)
        found.append(run.moved("sorting tokens by expert", ELEMENT * sent, SORTING))
    elif part is not None:
        found.append(run.moved("activation", ELEMENT * tokens * 2.0 * part.width, 1.0))
    return found
