"""What a call is predicted to take on a chip that is not here: its floor by published ceilings, in whole rounds.

The model is the roofline of work.py with one loss added: a matrix product's programs are spread over the chip's
multiprocessors, and the one with the most of them decides. Launches, the way to the caches, passes over memory that
a kernel needs beyond its operands, and the rounds that a persistent kernel makes by itself are not in it, so it is what
the tiles allow at best, and no measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from alexkern.arithmetic import ARITHMETIC
from alexkern.bench.ceilings import published
from alexkern.bench.work import Part, floor, layer_work
from alexkern.cost.chips import Chip
from alexkern.tools.sass import Launched
from alexkern.tools.workloads import BACKWARD, FORWARD, Workload, layers

LEAST_FFMA = 16  # in the main loop of a product; a normalisation has a few


@dataclass(frozen=True)
class Prediction:
    """Seconds that a call takes at best, and the share of the limit (its floor over them)."""

    seconds: float
    share: float


def waves(launch: Launched, num_sms: int) -> float:
    """How many times the chip is filled by a launch's blocks; below 1 a part of it is idle."""
    return prod(launch.grid) / (max(launch.blocks, 1) * num_sms)


def balance(launch: Launched, num_sms: int) -> float:
    """The mean share of the work on a multiprocessor in that of the busiest one."""
    programs = prod(launch.grid)
    return programs / (num_sms * -(-programs // num_sms)) if programs else 1.0


def work_of(workload: Workload, call: str) -> Part:
    """What a workload's call cannot do without: one of workload.calls' names."""
    layer = next(layer for layer in layers(workload.operator, workload.model) if layer.name == workload.layer)
    itemsize = ARITHMETIC[workload.arithmetic][0].itemsize
    parts = layer_work(workload.operator, layer, workload.batch, itemsize, backward=call != FORWARD)
    return parts[1] if call == BACKWARD else parts[0]


def predict(workload: Workload, call: str, launches: Sequence[Launched], chip: Chip) -> Prediction:
    """For a call that makes these launches."""
    work, ceilings = work_of(workload, call), published(chip, workload.arithmetic)
    products = [launch for launch in launches if is_product(launch)]
    # Several products in a call, those of a backward pass, have the same number of operations.
    loss = sum(1 / balance(launch, chip.num_sms) for launch in products) / len(products) if products else 1.0
    least = floor((work,), ceilings)
    seconds = max(work.flops / ceilings.flops * loss, work.bytes / ceilings.bytes)
    return Prediction(seconds, least / seconds)


def is_product(launch: Launched) -> bool:
    """Whether a launch multiplies matrices: on tensor cores or, in float32, in a loop of fused multiply-adds."""
    return launch.products > 0 or launch.main_loop.get("FFMA", 0) >= LEAST_FFMA
