"""Whole networks: inference and a training step against every peer, and torch.compile of ours and not."""

from alexkern.bench.comparison import compares
from alexkern.bench.networks import compiled, inference, training

bench_inference = compares(inference)
bench_training_step = compares(training)
bench_compiled = compares(compiled)
