"""The memory of a training step: at its peak, and kept from its forward pass for its backward pass."""

from alexkern.bench.comparison import compares
from alexkern.bench.memory import peak_memory, saved_for_backward


@compares(peak_memory)
def bench_peak_memory(count):
    count()


@compares(saved_for_backward)
def bench_saved_for_backward(count):
    count()
