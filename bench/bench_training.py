"""`alexkern train`: images decoded and augmented on one core, and the step against torch's own modules."""

from alexkern.bench.comparison import compares
from alexkern.bench.training import pipeline, trainer_step

bench_pipeline = compares(pipeline)
bench_trainer_step = compares(trainer_step)
