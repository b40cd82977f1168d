"""`alexkern train`: the step against torch's own modules."""

from alexkern.bench.comparison import compares
from alexkern.bench.training import trainer_step

bench_trainer_step = compares(trainer_step)
