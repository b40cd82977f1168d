"""Which comparisons come first: a run that is short of time, or cut off, has the most important ones."""

from __future__ import annotations

from alexkern.bench.layers import Target
from alexkern.bench.options import Options

# What a reader looks for first, at the main batches of the first network in the first arithmetic.
FIRST = {"inference": 0, "training": 1, "memory": 2, "operator": 3, "convnet-benchmarks": 4, "overhead": 5}
OTHER_ARITHMETIC, OTHER_BATCH, OTHER_MODEL = 10, 20, 40
LATE = 100  # on a CPU: what takes long there, and says little


def importance(of: str, options: Options, target: Target, model: str, main: bool = True) -> int:
    """The smaller, the sooner."""
    steps = FIRST[of]
    steps += OTHER_ARITHMETIC * options.targets.index(target)
    steps += 0 if main else OTHER_BATCH
    steps += 0 if model == options.models[0] or model not in options.models else OTHER_MODEL
    return steps
