"""What a training step's forward pass keeps for its backward pass, parameters aside."""

from alexkern.bench.comparison import compares
from alexkern.bench.networks import saved_for_backward


@compares(saved_for_backward)
def bench_saved_for_backward(count):
    count()
