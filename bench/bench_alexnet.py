"""Whole networks: inference and a training step against every peer."""

from alexkern.bench.comparison import compares
from alexkern.bench.networks import inference, training


@compares(inference)
def bench_inference(report):
    report()


@compares(training)
def bench_training_step(report):
    report()
