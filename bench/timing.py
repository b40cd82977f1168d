"""Timing that can be trusted: warm calls, a synchronised clock, interleaved variants, medians with their spread."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

Call = Callable[[], object]

SAMPLE_S = 2e-3  # a sample on the CPU lasts at least this long: short calls are repeated inside it
LONG_S = 0.25  # a call this long outlives what a warm call would have warmed, and runs without one
SETTLE_S = 0.1  # thread pools of other runtimes stop spinning within this time
ROUNDS = (3, 50)  # at least, at most


@dataclass(frozen=True)
class Samples:
    """Seconds per call, one number a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The distance between the quartiles (seconds); 0 for a single sample."""
        if len(self.seconds) < 2:
            return 0.0
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return upper - lower


class Timer(Protocol):
    def now(self) -> float: ...
    def settle(self) -> None: ...
    def plan(self, call: Call) -> Plan: ...
    def sample(self, call: Call, plan: Plan) -> float: ...


@dataclass(frozen=True)
class Plan:
    """How one variant is sampled: calls per sample, and whether an untimed call goes before."""

    calls: int = 1
    warm: bool = True


class CpuTimer:
    """Time of calls that return when their work is done."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.now = clock
        self._sleep = sleep

    def settle(self) -> None:
        self._sleep(SETTLE_S)

    def plan(self, call: Call) -> Plan:
        once = self.sample(call, Plan(warm=False))
        return Plan(calls=max(1, math.ceil(SAMPLE_S / max(once, 1e-7))), warm=once < LONG_S)

    def sample(self, call: Call, plan: Plan) -> float:
        """Seconds per call."""
        if plan.warm:
            call()
        collecting = gc.isenabled()
        gc.disable()
        try:
            start = self.now()
            for _ in range(plan.calls):
                call()
            return (self.now() - start) / plan.calls
        finally:
            if collecting:
                gc.enable()


class CudaTimer:
    """Device time between two events, every call with a cold L2, as a layer inside a network finds it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(4 * cache, dtype=torch.uint8, device=device)

    def now(self) -> float:
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def settle(self) -> None:
        torch.cuda.synchronize(self._device)

    def plan(self, call: Call) -> Plan:
        return Plan()

    def sample(self, call: Call, plan: Plan) -> float:
        """Seconds per call."""
        if plan.warm:
            call()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timer_for(device: torch.device, clock: str = "wall") -> Timer:
    return CudaTimer(device) if device.type == "cuda" else CpuTimer(CLOCKS[clock])


def measure(
    calls: Mapping[str, Call],
    timer: Timer,
    budget_s: float,
    *,
    restless: Collection[str] = (),
    rng: random.Random | None = None,
    rounds: tuple[int, int] = ROUNDS,
) -> dict[str, Samples | Exception]:
    """Times `calls` in rounds: each samples every call once, in a new random order, so that drift hits all alike.

    Rounds go on until the next one would outlast `budget_s` seconds, within the two bounds of `rounds`. `restless` are
    the calls whose thread pools go on spinning when they return: with one of them present, every sample waits first.
    The calls have run before, when their results were checked. One that raises now is left out of the rounds that
    follow, and its exception stands in place of its samples.
    """
    rng = rng or random.Random(0)
    start = timer.now()
    plans: dict[str, Plan] = {}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    failures: dict[str, Exception] = {}
    for name, call in calls.items():
        try:
            plans[name] = timer.plan(call)
        except Exception as error:
            failures[name] = error
    least, most = rounds
    for taken in range(most):
        began = timer.now()
        live = [name for name in calls if name not in failures]
        for name in rng.sample(live, len(live)):
            if restless:
                timer.settle()
            try:
                seconds[name].append(timer.sample(calls[name], plans[name]))
            except Exception as error:
                failures[name] = error
        now = timer.now()
        if taken + 1 >= least and now - start + (now - began) > budget_s:
            break
    return {name: failures[name] if name in failures else Samples(tuple(seconds[name])) for name in calls}
