"""What the machine does at best, measured at the start of a run: multiply-adds and a large copy.

On a CPU in float32 by csrc/cpu/limits, which no library stands before: one may be slow on a processor that it was not
tuned for, and what it reached no limit. Elsewhere by torch's matrix product and copy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from alexkern.backends import cpu
from alexkern.bench.layers import Target
from alexkern.bench.work import Ceilings
from alexkern.cost.chips import Chip
from alexkern.measure.timing import Timer

PRODUCT = {"cpu": 2048, "cuda": 8192}  # rows and columns
COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}  # bytes
MULTIPLY_ADDS = 1 << 20  # of a register and a chain, in a piece of a thread's work
SAMPLES = 7


def published(chip: Chip, arithmetic: str) -> Ceilings:
    """Those of the data sheets."""
    return Ceilings(chip.flops(arithmetic), chip.memory)


def measure_ceilings(target: Target, timer: Timer) -> Ceilings:
    """The best of several samples, on random data: this is a limit, and not what is usual."""
    if target.dtype == torch.float32 and cpu.missing(target.device.type, target.dtype) is None:
        return _limits(timer)
    size, copied = PRODUCT[target.device.type], COPIED[target.device.type]
    a, b = target.randn(size, size), target.randn(size, size)
    source = torch.randint(256, (copied,), dtype=torch.uint8, device=target.device)
    destination = torch.empty_like(source)
    with target.precision(), torch.inference_mode():
        product = _best(lambda: torch.mm(a, b), timer)
        copy = _best(lambda: destination.copy_(source), timer)
    return Ceilings(flops=2 * size**3 / product, bytes=2 * copied / copy)


def _limits(timer: Timer) -> Ceilings:
    native, threads, count = cpu.native(), torch.get_num_threads(), COPIED["cpu"] // 4
    source, destination = torch.ones(count), torch.empty(count)
    addresses = source.data_ptr(), destination.data_ptr()
    operations = native.multiply_add(1, threads) * MULTIPLY_ADDS
    product = _best(lambda: native.multiply_add(MULTIPLY_ADDS, threads), timer)
    copy = _best(lambda: native.stream_through(*addresses, count, threads), timer)
    return Ceilings(flops=operations / product, bytes=2 * COPIED["cpu"] / copy)


def _best(call: Callable[[], object], timer: Timer) -> float:
    call()
    plan = timer.plan(call)
    return min(timer.sample(call, plan) for _ in range(SAMPLES))
