"""Whole networks: inference and a training step against every peer."""

from alexkern.bench.comparison import compares
from alexkern.bench.networks import inference, training

bench_inference = compares(inference)
bench_training_step = compares(training)
