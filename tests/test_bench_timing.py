"""The comparison's clocks: what a sample is, in what order samples are taken, what a GPU's timer asks of the GPU."""

from __future__ import annotations

import gc
import random
import time

import pytest
import torch

from alexkern.bench.replay import ReplayClock
from alexkern.measure.gpu import Gpu
from alexkern.measure.memory import peak_bytes
from alexkern.measure.timing import ENOUGH, CpuTimer, CudaTimer, Plan, Samples, differ, measure, timer_for
from support import fake_cuda
from support.fake_time import FakeTime


def test_a_sample_is_seconds_per_call_without_the_warm_one():
    time = FakeTime()
    assert time.timer().sample(time.work("a", 0.25), Plan(calls=4)) == 0.25
    assert time.log == ["a"] * 5


def test_the_probe_of_long_calls_is_their_first_round_and_a_certain_time_needs_none():
    time = FakeTime()
    long = {"a": time.work("a", 0.5), "b": time.work("b", 2.0)}
    results = measure(long, time.timer(), 0.0, took={"a": 0.7, "b": 1.9}, rounds=(2, 20))
    assert sorted(time.log) == ["a", "a", "b"]
    assert results == {"a": Samples((0.5, 0.5)), "b": Samples((1.9, 2.0))}
    time.log.clear()
    mixed = {"a": time.work("a", 0.5), "b": time.work("b", 2**-12)}
    results = measure(mixed, time.timer(), 0.0, rounds=(2, 20))
    assert len(results["a"].seconds) == len(results["b"].seconds) == 2 and time.log.count("a") == 3


def test_every_round_samples_every_call_once_in_a_random_order():
    time = FakeTime()
    names = ["a", "b", "c"]
    results = measure({name: time.work(name, 1.0) for name in names}, time.timer(), 1e9, rounds=(3, 20))
    taken = [tuple(time.log[start : start + 3]) for start in range(0, len(time.log), 3)]
    assert len(taken) == 20
    assert all(sorted(order) == names for order in taken)
    assert len(set(taken)) > 3
    assert all(len(results[name].seconds) == 20 for name in names)


@pytest.mark.parametrize(("budget", "rounds"), [(0.0, 3), (10.5, 5), (1e9, 12)])
def test_rounds_stop_before_the_budget_within_their_bounds(budget, rounds):
    time = FakeTime()
    results = measure({"a": time.work("a", 1.0), "b": time.work("b", 1.0)}, time.timer(), budget, rounds=(3, 12))
    assert len(results["a"].seconds) == rounds


@pytest.mark.parametrize(("enough", "rounds"), [(0.0, 2), (9.0, 4), (1e9, ENOUGH)])
def test_rounds_go_on_beyond_the_budget_until_they_are_enough(enough, rounds):
    time = FakeTime()
    calls = {"a": time.work("a", 1.0), "b": time.work("b", 1.0)}
    assert len(measure(calls, time.timer(), 1.0, enough_s=enough)["a"].seconds) == rounds
    assert len(measure(calls, time.timer(), 20.0, enough_s=enough)["a"].seconds) == 10


def test_restless_threads_get_time_to_settle_before_every_sample():
    time = FakeTime()
    calls = {"a": time.work("a", 1.0), "b": time.work("b", 1.0)}
    measure(calls, time.timer(), 0.0, restless={"b"})
    assert time.log == [entry for name in time.log[1::2] for entry in ("sleep", name)]
    time.log.clear()
    measure(calls, time.timer(), 0.0)
    assert "sleep" not in time.log


def test_a_call_that_raises_leaves_the_others_their_samples():
    time = FakeTime()
    left = iter(range(4))

    def failing() -> None:
        next(left)

    results = measure({"a": time.work("a", 1.0), "b": failing}, time.timer(), 0.0, rounds=(5, 5))
    assert isinstance(results["b"], StopIteration)
    assert results["a"] == Samples((1.0,) * 5)


def test_median_and_quartiles():
    samples = Samples((4.0, 1.0, 2.0, 3.0, 100.0, 5.0, 6.0))
    assert samples.median == 4.0
    assert samples.quartiles == (2.25, 5.75)  # of 1 to 6, and of 2 to 6 and 100
    assert Samples((7.0,)).quartiles == (7.0, 7.0)
    assert Samples((7.0, 1.0)).quartiles == (1.0, 7.0)


def test_replayed_samples_reach_the_fixture_unrounded():
    class Fixture:
        """As much of pytest-benchmark's pedantic mode as the clock relies on."""

        durations: list[float] = []

        def pedantic(self, target, setup, rounds):
            for _ in range(rounds):
                setup()
                start = clock()
                target()
                self.durations.append(clock() - start)

    clock, fixture = ReplayClock(), Fixture()
    samples = [random.Random(0).random() * 1e-5 for _ in range(50)]
    clock.replay(fixture, samples)
    assert fixture.durations == samples


class FakeGpu:
    """A device that works off what the host issues, on one clock with it; every number is exact in binary."""

    LAUNCH = 2**-18  # seconds of the host for one kernel
    KERNEL = {"cold": 2**-14, "warm": 2**-15}  # seconds of the device

    def __init__(self, capturable: bool = True) -> None:
        self.host = self.free = 0.0  # now, and when the device has done its work
        self.cold = False
        self.capturable = capturable
        self.log: list[str] = []

    def kernels(self, number: int, *, launches: bool = True):
        """A call of so many kernels, which the host issues one by one, or all at once (a graph)."""

        def call() -> None:
            self.log.append("call" if launches else "replay")
            for _ in range(number):
                self.host += self.LAUNCH if launches else 0.0
                self.free = max(self.free, self.host) + self.KERNEL["cold" if self.cold else "warm"]
            self.cold = False

        call.kernels = number
        return call

    def synchronize(self) -> None:
        self.host = max(self.host, self.free)

    def flush(self) -> None:
        self.log.append("flush")
        self.free = max(self.free, self.host) + 2**-12
        self.cold = True

    def wait(self, seconds: float) -> None:
        self.free = max(self.free, self.host) + seconds

    def mark(self) -> float:
        return max(self.free, self.host)

    def elapsed(self, start: float, end: float) -> float:
        self.synchronize()
        return end - start

    def capture(self, call):
        return self.kernels(call.kernels, launches=False) if self.capturable else None

    def timer(self, graphs: bool = True) -> CudaTimer:
        return CudaTimer(torch.device("cuda"), self, clock=lambda: self.host, graphs=graphs)


@pytest.mark.parametrize("kernels", [1, 100])
def test_device_time_is_that_of_kernels_on_a_cold_cache_and_not_of_their_launches(kernels):
    gpu = FakeGpu()
    gpu.LAUNCH = 2**-12  # more than a kernel takes
    timer = gpu.timer()
    call = gpu.kernels(kernels)
    plan = timer.plan(call)
    gpu.log.clear()
    assert timer.sample(call, plan) == pytest.approx(kernels * gpu.KERNEL["cold"])
    assert gpu.log == ["call", "flush", "call"], "the first of them to warm"


def test_latency_is_that_of_the_graph_where_there_is_one():
    for capturable, expected in ((True, 10 * FakeGpu.KERNEL["warm"]), (False, 10 * 2**-10 + FakeGpu.KERNEL["warm"])):
        gpu = FakeGpu(capturable)
        gpu.LAUNCH = 2**-10  # more than a kernel takes
        timer = gpu.timer()
        call = gpu.kernels(10)
        plan = timer.plan(call)
        gpu.log.clear()
        assert (plan.replay is not None) == capturable
        assert timer.latency(call, plan) == pytest.approx(expected)
        assert gpu.log == 2 * ["replay" if capturable else "call"]


def test_a_gpu_reports_device_time_and_latency_and_a_cpu_one_time():
    gpu = FakeGpu()
    samples = measure({"a": gpu.kernels(4)}, gpu.timer(), 0.0)["a"]
    assert samples.seconds == pytest.approx((4 * gpu.KERNEL["cold"],) * 2)
    assert samples.latency == pytest.approx((4 * gpu.KERNEL["warm"],) * 2)
    assert samples.graph
    samples = measure({"a": gpu.kernels(4)}, gpu.timer(graphs=False), 0.0)["a"]
    assert (samples.latency, samples.graph) == ((), False)
    time = FakeTime()
    samples = measure({"a": time.work("a", 1.0)}, time.timer(), 0.0)["a"]
    assert (samples.latency, samples.graph) == ((), False)


def test_what_a_timer_asks_of_a_gpu(monkeypatch):
    """A mark is the length of the log, in milliseconds."""
    log = fake_cuda.install(monkeypatch)
    device = torch.device("cpu")
    gpu = Gpu(device)
    assert log == ["sleep 10000000"] * 2 and gpu._flush.shape == (4 * 25,) and gpu._flush.dtype == torch.uint8
    gpu.wait(2e-3)  # at 10 million cycles in a millisecond
    assert log.pop() == "sleep 20000000"
    start = gpu.mark()
    gpu.synchronize()
    gpu._flush.fill_(1)
    gpu.flush()
    assert gpu.elapsed(start, gpu.mark()) == 1e-3 and log.pop() == "synchronize" and not gpu._flush.any()
    log.clear()
    value, made = torch.ones(3), []

    def call():
        log.append("call")
        made.append(value + 1)

    replay = gpu.capture(call)
    around = ["side waits for current", "on side", *["call"] * 3, "off side", "current waits for side"]
    assert log == [*around, "capture", "call", "captured", "replay", "synchronize"]
    value.fill_(5)
    replay()
    assert made[-1].tolist() == [6] * 3 and made[-2].tolist() == [2] * 3 and len(made) == 4
    log.clear()
    assert gpu.capture(lambda: value.sum().item()) is None and log[-1] == "synchronize"


def test_which_timer_a_device_has(monkeypatch):
    fake_cuda.install(monkeypatch)
    monkeypatch.setattr("alexkern.measure.timing.Gpu", lambda device: device.type)
    for graphs in (True, False):
        timer = timer_for(torch.device("cuda"), graphs=graphs)
        assert (timer._gpu, timer._graphs, timer._clock) == ("cuda", graphs, time.perf_counter)
    assert timer_for(torch.device("cuda"))._graphs and not CudaTimer(torch.device("cuda"))._graphs
    clocks = [timer_for(torch.device("cpu"), *of).now for of in ((), ("wall",), ("cpu",))]
    assert clocks == [time.perf_counter, time.perf_counter, time.process_time]


def test_peak_memory_of_a_gpu_is_over_what_was_there(monkeypatch):
    log = fake_cuda.install(monkeypatch)
    figures = {"reset_peak_memory_stats": None, "memory_allocated": 100, "max_memory_allocated": 350}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name, value=value: log.append(name) or value)
    assert peak_bytes(lambda: log.append("call"), torch.device("cuda")) == 250
    names = [*figures]
    assert log == ["synchronize", *names[:2], "call", "synchronize", names[2]]


@pytest.mark.parametrize(
    ("took", "seconds", "plan", "ran"),
    [
        (0.0, 0.05, Plan(warm=False, probe=0.05), 1),
        (0.0, 0.0499, Plan(), 1),
        (0.0, 2e-3, Plan(), 1),
        (0.0, 1.99e-3, Plan(calls=2), 1),
        (0.0, 0.0, Plan(calls=20_000), 1),
        (1.0, 0.3, Plan(warm=False, probe=1.0), 0),
        (0.99, 0.3, Plan(warm=False, probe=0.3), 1),
    ],
)
def test_how_a_call_is_sampled_meets_its_bounds(took, seconds, plan, ran):
    time = FakeTime()
    assert time.timer().plan(time.work("a", seconds), took) == plan and time.log == ["a"] * ran


def test_collections_of_garbage_wait_while_a_sample_is_taken():
    states = []
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            CpuTimer().sample(lambda: states.append(gc.isenabled()), Plan(warm=False))
            assert gc.isenabled() is enabled and states.pop() is False
        finally:
            gc.enable()


@pytest.mark.parametrize(("issue", "wait"), [(0.0, 0.0), (2**-6, 1.5 * 2**-6), (1.0, 0.05)])
def test_a_gpu_is_kept_busy_while_the_host_issues_a_call(issue, wait):
    gpu, waits = FakeGpu(), []
    gpu.wait = waits.append
    for warm in (True, False):
        gpu.log.clear()
        gpu.timer().sample(gpu.kernels(1), Plan(issue=issue, warm=warm))
        assert gpu.log == ["call"] * warm + ["flush", "call"]
    assert waits == [wait] * 2


def test_settling_waits_for_spinning_threads_and_for_a_gpu():
    time = FakeTime()
    time.timer().settle()
    assert (time.seconds, time.log) == (0.1, ["sleep"])
    gpu = FakeGpu()
    gpu.free = 3.0
    gpu.timer().settle()
    assert gpu.host == 3.0


def test_a_latency_that_fails_is_the_calls_failure():
    gpu = FakeGpu()
    timer = gpu.timer()
    timer.latency = lambda call, plan: 1 / 0
    found = measure({"a": gpu.kernels(1)}, timer, 0.0)
    assert isinstance(found["a"], ZeroDivisionError)
    found = measure({"a": {}.popitem, "b": gpu.kernels(1)}, gpu.timer(), 0.0)
    assert isinstance(found["a"], KeyError) and isinstance(found["b"], Samples)


@pytest.mark.parametrize(
    ("one", "other", "rounds", "apart"),
    [((1, 2), (2, 3), 9, False), ((1, 2), (2.1, 3), 5, True), ((2.1, 3), (1, 2), 5, True), ((1, 2), (3, 4), 4, False)],
)
def test_calls_differ_where_their_quartiles_lie_apart(one, other, rounds, apart):
    assert differ(one, other, rounds) is differ(other, one, rounds) is apart
