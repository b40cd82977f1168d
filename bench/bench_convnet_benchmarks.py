"""The row of convnet-benchmarks, next to what it was ten years ago."""

from alexkern.bench.comparison import compares
from alexkern.bench.history import convnet_benchmarks

bench_convnet_benchmarks = compares(convnet_benchmarks)
