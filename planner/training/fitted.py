"""The fitted parameters of the training model: few, named, and what they were fitted on.

The others are ``traffic`` and ``host`` of each software family in ``planner.specs.workload``.
``docs/validation.md`` shows the error of sources left out of the fit.
"""

STRAGGLER_PER_DOUBLING = 0.004
"""Share of a step lost for each doubling of the number of nodes."""

LINK_SLOWDOWN = 1.3
"""Transfer time inside a training job over that of an isolated benchmark on the same links.

NCCL inside training ran about 30 % slower than in isolated profiling (vTrain, arXiv 2312.12391);
the training tables prefer 1.3 to 1.5.
"""
