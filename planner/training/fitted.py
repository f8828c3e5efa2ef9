"""The fitted parameters of the training model: few, named, and each with what it was fitted on."""

STRAGGLER_PER_DOUBLING = 0.004
"""Share of a step lost for each doubling of the number of nodes."""

LINK_SLOWDOWN = 1.3
"""Transfer time inside a training job over that of an isolated benchmark on the same links."""
