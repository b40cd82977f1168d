"""`alexkern train`: images decoded and augmented on one core, and the step against torch's own modules."""

from alexkern.bench.comparison import compares
from alexkern.bench.training import pipeline, trainer_step


@compares(pipeline)
def bench_pipeline(report):
    report()


@compares(trainer_step)
def bench_trainer_step(report):
    report()
