"""The memory of a training step: at its peak, and kept from its forward pass for its backward pass."""

from alexkern.bench.comparison import compares
from alexkern.bench.memory import peak_memory, saved_for_backward

bench_peak_memory = compares(peak_memory, counts=True)
bench_saved_for_backward = compares(saved_for_backward, counts=True)
