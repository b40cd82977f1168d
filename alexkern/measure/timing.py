"""Timing that can be trusted: warm calls, a synchronised clock, interleaved variants, medians with their spread."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from alexkern.measure.gpu import Gpu

Call = Callable[[], object]

SAMPLE_S = 2e-3  # a sample on the CPU lasts at least this long: short calls are repeated inside it
LONG_S = 0.05  # a call this long outlives what a warm call would have warmed, and runs without one
CERTAIN_S = 1.0  # whether a call this long is a first one makes no difference
SETTLE_S = 0.1  # thread pools of other runtimes stop spinning within this time
ROUNDS = (2, 50)  # at least, at most
DECIDING = 5  # rounds; fewer decide nothing
ENOUGH = 6  # rounds that judge a row, whichever sample is an outlier
ISSUE_FACTOR, LONGEST_WAIT_S = 1.5, 0.05  # how long a GPU is kept busy while the host issues a call


@dataclass(frozen=True)
class Samples:
    """Seconds per call, one number a round.

    On a GPU `seconds` is the device's time and `latency` the host's from the call to its finished result; `graph` says
    whether that was the replay of a CUDA graph, or the call itself where it cannot be captured. `kernel` is what ran
    on a CPU, where somebody asked.
    """

    seconds: tuple[float, ...]
    latency: tuple[float, ...] = ()
    graph: bool = False
    kernel: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower one without the largest sample, the upper one without the smallest; of a single one, twice itself.

        Whichever sample is left out, the quartiles of the others lie between these two: none of them alone narrows the
        range.
        """
        ordered = sorted(self.seconds)
        return _quartiles(ordered[:-1] or ordered)[0], _quartiles(ordered[1:] or ordered)[1]

    def differs_from(self, other: Samples) -> bool:
        """Whether the samples of the two decide which is less."""
        return differ(self.quartiles, other.quartiles, min(len(self.seconds), len(other.seconds)))


def differ(one: tuple[float, float], other: tuple[float, float], rounds: int) -> bool:
    """Whether two calls' quartiles lie apart, in rounds enough to decide: else the two are level."""
    return (one[1] < other[0] or other[1] < one[0]) and rounds >= DECIDING


def _quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    if len(seconds) < 2:
        return seconds[0], seconds[0]
    lower, _, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return lower, upper


@dataclass(frozen=True)
class Plan:
    """How one variant is sampled: calls per sample, and whether an untimed call goes before.

    `probe` is what the call took when this was found out, where that is as good as a sample. On a GPU there are also
    the seconds that the host takes to issue a call, and the replay of its CUDA graph where it has one.
    """

    calls: int = 1
    warm: bool = True
    probe: float | None = None
    issue: float = 0.0
    replay: Call | None = None


class CpuTimer:
    """Time of calls that return when their work is done."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.now = clock
        self._sleep = sleep

    def settle(self) -> None:
        self._sleep(SETTLE_S)

    def plan(self, call: Call, took: float = 0.0) -> Plan:
        """took: seconds of the call before, where that was like those to come."""
        once = took if took >= CERTAIN_S else self.sample(call, Plan(warm=False))
        if once >= LONG_S:
            return Plan(warm=False, probe=once)
        return Plan(calls=max(1, math.ceil(SAMPLE_S / max(once, 1e-7))))

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

    def latency(self, call: Call, plan: Plan) -> float | None:
        """None: on a CPU a sample is the latency."""
        return None


class CudaTimer:
    """Device time between two events with a cold L2, as a layer inside a network finds it, and latency.

    The device is kept busy while the host issues a call: otherwise a short call's time would be that of its launches.
    With `graphs`, the latency is that of a CUDA graph's replay, where the call can be captured; without, none is taken.
    """

    def __init__(
        self,
        device: torch.device,
        gpu: Gpu | None = None,
        clock: Callable[[], float] = time.perf_counter,
        graphs: bool = False,
    ) -> None:
        self._gpu = gpu or Gpu(device)
        self._clock = clock
        self._graphs = graphs

    def now(self) -> float:
        self._gpu.synchronize()
        return self._clock()

    def settle(self) -> None:
        self._gpu.synchronize()

    def plan(self, call: Call, took: float = 0.0) -> Plan:
        start = self.now()
        call()
        issue = self._clock() - start
        return Plan(issue=issue, replay=self._gpu.capture(call) if self._graphs else None)

    def sample(self, call: Call, plan: Plan) -> float:
        """Seconds per call on the device."""
        if plan.warm:
            call()
        self._gpu.flush()
        self._gpu.wait(min(ISSUE_FACTOR * plan.issue, LONGEST_WAIT_S))
        start = self._gpu.mark()
        call()
        end = self._gpu.mark()
        return self._gpu.elapsed(start, end)

    def latency(self, call: Call, plan: Plan) -> float | None:
        """Seconds from the host's call to the end of its work."""
        if not self._graphs:
            return None
        once = plan.replay or call
        once()
        start = self.now()
        once()
        return self.now() - start


Timer = CpuTimer | CudaTimer
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timer_for(device: torch.device, clock: str = "wall", graphs: bool = True) -> Timer:
    return CudaTimer(device, graphs=graphs) if device.type == "cuda" else CpuTimer(CLOCKS[clock])


def measure(
    calls: Mapping[str, Call],
    timer: Timer,
    budget_s: float,
    *,
    enough_s: float = 0.0,
    took: Mapping[str, float] | None = None,
    restless: Collection[str] = (),
    rng: random.Random | None = None,
    rounds: tuple[int, int] = ROUNDS,
) -> dict[str, Samples | Exception]:
    """Times `calls` in rounds: each samples every call once, in a new random order, so that drift hits all alike.

    Rounds go on until the next one would outlast `budget_s` seconds, or `enough_s` where that is more and they are not
    ENOUGH yet, within the two bounds of `rounds`. `restless` are the calls whose thread pools go on spinning when they
    return: with one of them present, every sample waits first. The calls have run before, when their results were
    checked, and `took` so long. One that raises now is left out of the rounds that follow, and its exception stands in
    place of its samples.
    """
    rng = rng or random.Random(0)
    start = timer.now()
    plans: dict[str, Plan] = {}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    latencies: dict[str, list[float]] = {name: [] for name in calls}
    failures: dict[str, Exception] = {}
    for name in rng.sample(list(calls), len(calls)):
        if restless:
            timer.settle()
        try:
            plans[name] = timer.plan(calls[name], (took or {}).get(name, 0.0))
        except Exception as error:
            failures[name] = error
    probes = {name: plan.probe for name, plan in plans.items() if plan.probe is not None}
    first = len(probes) == len(plans)  # where all calls are long, that was the first round
    if first:
        seconds |= {name: [probe] for name, probe in probes.items()}
    least, most = rounds
    for taken in range(int(first), most):
        began = timer.now()
        live = [name for name in calls if name not in failures]
        for name in rng.sample(live, len(live)):
            if restless:
                timer.settle()
            try:
                seconds[name].append(timer.sample(calls[name], plans[name]))
                latency = timer.latency(calls[name], plans[name])
                if latency is not None:
                    latencies[name].append(latency)
            except Exception as error:
                failures[name] = error
        now = timer.now()
        limit = budget_s if taken + 1 >= ENOUGH else max(budget_s, enough_s)
        if taken + 1 >= least and now - start + (now - began) > limit:
            break
    taken_of = {
        name: Samples(tuple(seconds[name]), tuple(latencies[name]), plans[name].replay is not None)
        for name in calls
        if name not in failures
    }
    return {name: failures[name] if name in failures else taken_of[name] for name in calls}
