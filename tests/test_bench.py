"""The comparison's own machinery: what it times, what it refuses to time, what it says about it."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import alexkern.bench
from alexkern import models
from alexkern.bench.checks import WrongResult, check_close, check_gradient_norms
from alexkern.bench.comparison import Comparison, Failure, Kind, Trial, Variant, compare
from alexkern.bench.layers import LAYERS, Dropout, Normalization, Pooling, Target
from alexkern.bench.memory import SavedBytes
from alexkern.bench.networks import plain
from alexkern.bench.operators import Operator, _trial
from alexkern.bench.options import Options
from alexkern.bench.peers import PEERS, Peer
from alexkern.bench.replay import ReplayClock
from alexkern.bench.summary import render, rows, verdicts
from alexkern.bench.timing import CpuTimer, Plan, Samples, measure

BENCH = Path(alexkern.bench.__file__).parent
CPU = Target(torch.device("cpu"), torch.float32)


class FakeTime:
    """A clock that only `work` and `sleep` advance, on a machine that grows slower by `drift` a second."""

    def __init__(self, drift: float = 0.0) -> None:
        self.seconds = 0.0
        self.drift = drift
        self.log: list[str] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.log.append("sleep")
        self.seconds += seconds

    def work(self, name: str, seconds: float):
        def call() -> None:
            self.log.append(name)
            self.seconds += seconds * (1 + self.drift * self.seconds)

        return call

    def timer(self) -> CpuTimer:
        return CpuTimer(clock=self.now, sleep=self.sleep)


def comparison(kind=Kind.OPERATOR, section="conv, batch 8", what="conv1 forward", images=None, **calls) -> Comparison:
    """Of "alexkern" and further variants, whose calls return tensors that are checked against ones."""

    def check(name: str, result: object) -> None:
        check_close([result], [torch.ones(3)])

    variants = [Variant(name, ours=name.startswith("alexkern")) for name in calls]
    return Comparison(kind, section, what, tuple(variants), lambda: Trial(calls.__getitem__, check), 1.0, images)


# timing


def test_a_sample_is_seconds_per_call_without_the_warm_one():
    time = FakeTime()
    assert time.timer().sample(time.work("a", 0.25), Plan(calls=4)) == 0.25
    assert time.log == ["a"] * 5
    assert time.seconds == 1.25


def test_short_calls_are_repeated_and_long_ones_run_cold():
    time = FakeTime()
    assert time.timer().plan(time.work("a", 2**-12)) == Plan(calls=9, warm=True)
    assert time.timer().plan(time.work("a", 1.0)) == Plan(calls=1, warm=False)


def test_every_round_samples_every_call_once_in_a_random_order():
    time = FakeTime()
    names = ["a", "b", "c"]
    results = measure({name: time.work(name, 1.0) for name in names}, time.timer(), 1e9, rounds=(3, 20))
    sampled = time.log[len(names) :]  # after what the plans took
    taken = [tuple(sampled[start : start + 3]) for start in range(0, len(sampled), 3)]
    assert len(taken) == 20
    assert all(sorted(order) == names for order in taken)
    assert len(set(taken)) > 3
    assert all(len(results[name].seconds) == 20 for name in names)


def test_drift_hits_all_calls_alike():
    time = FakeTime(drift=0.05)
    results = measure({name: time.work(name, 0.5) for name in "abcd"}, time.timer(), 1e9, rounds=(3, 20))
    medians = [results[name].median for name in "abcd"]
    slowdown = results["a"].seconds[-1] / results["a"].seconds[0]
    assert slowdown > 5  # timed one after the other, the last would have seemed so much slower
    assert max(medians) / min(medians) < 1.3


@pytest.mark.parametrize(("budget", "rounds"), [(0.0, 3), (10.5, 5), (1e9, 12)])
def test_rounds_stop_before_the_budget_within_their_bounds(budget, rounds):
    time = FakeTime()
    results = measure({"a": time.work("a", 1.0), "b": time.work("b", 1.0)}, time.timer(), budget + 2, rounds=(3, 12))
    assert len(results["a"].seconds) == rounds


def test_restless_threads_get_time_to_settle_before_every_sample():
    time = FakeTime()
    calls = {"a": time.work("a", 1.0), "b": time.work("b", 1.0)}
    measure(calls, time.timer(), 0.0, restless={"b"})
    assert time.log[2:] == [entry for name in time.log[3::2] for entry in ("sleep", name)]
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


def test_median_and_spread():
    samples = Samples((4.0, 1.0, 2.0, 3.0, 100.0))
    assert samples.median == 3.0
    assert samples.spread == 2.0
    assert Samples((7.0,)).spread == 0.0


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


# what may be timed


def test_contenders_that_fail_or_are_wrong_or_absent_are_named_and_not_timed():
    def broken() -> None:
        raise RuntimeError("no such device\nand a long trace")

    calls = {"alexkern": lambda: torch.ones(3), "wrong": lambda: torch.zeros(3), "broken": broken}
    subject = comparison(**calls)
    absent = Variant("absent", missing=lambda: "not installed (pip install absent)")
    subject = Comparison(subject.kind, subject.section, subject.what, (*subject.variants, absent), subject.setup, 1.0)
    outcomes = compare(subject, [*calls, "absent"], CpuTimer(), 0.0)
    assert isinstance(outcomes["alexkern"], Samples)
    assert outcomes["broken"] == Failure("RuntimeError: no such device")
    assert outcomes["absent"] == Failure("not installed (pip install absent)")
    assert isinstance(outcomes["wrong"], Failure) and "off by 1.73" in outcomes["wrong"].reason


def test_checks_refuse_shapes_values_nan_and_lost_gradients():
    reference = torch.randn(4, 5)
    check_close([reference * 1.001], [reference])
    for wrong in (reference * 1.1, reference[:3], torch.where(reference == reference[0, 0], torch.nan, reference)):
        with pytest.raises(WrongResult):
            check_close([wrong], [reference])
    check_gradient_norms([reference * 1.5], [reference])
    for wrong in (None, reference * 0, reference * 3, reference * torch.nan):
        with pytest.raises(WrongResult):
            check_gradient_norms([wrong], [reference])


def normalized(layer, input):
    return F.local_response_norm(input, layer.size, layer.alpha, layer.beta, layer.k)


def pooled(layer, input):
    return F.max_pool2d(input, 3, 2)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("layer", "plain", "wrong"),
    [
        (Normalization("norm2", 16, 9), normalized, lambda layer, input: normalized(layer, 2 * input)),
        (Pooling("pool5", 16, 13), pooled, lambda layer, input: F.avg_pool2d(input, 3, 2)),
    ],
)
def test_an_operator_is_timed_only_where_it_is_right(layer, plain, wrong, backward):
    for ours, right in ((plain, True), (wrong, False)):
        trial = _trial(Operator("operator", lambda layers: (), ours, plain), layer, 2, backward, CPU)
        for name in ("torch", "torch channels_last"):
            trial.check(name, trial.prepare(name)())
        result = trial.prepare("alexkern")()
        assert len(result) == 1 + backward
        if right:
            trial.check("alexkern", result)
        else:
            with pytest.raises(WrongResult):
                trial.check("alexkern", result)


@pytest.mark.parametrize("backward", [False, True])
def test_dropout_is_held_to_its_share_its_scale_and_its_own_mask(backward):
    def trial(ours):
        expressions = (ours, lambda layer, input: F.dropout(input, 0.5), lambda layer, input: input.clone())
        return _trial(Operator("dropout", lambda layers: (), *expressions, p=0.5), Dropout("fc", 500), 8, backward, CPU)

    right = trial(lambda layer, input: F.dropout(input, 0.5))
    right.check("alexkern", right.prepare("alexkern")())
    others = F.alpha_dropout, lambda input, p: F.dropout(input, 0.3), lambda input, p: F.dropout(input, 0.3) * 1.4
    for wrong in (*others, lambda input, p: F.dropout(input, p) / 2):
        subject = trial(lambda layer, input, wrong=wrong: wrong(input, 0.5))
        with pytest.raises(WrongResult):
            subject.check("alexkern", subject.prepare("alexkern")())


# networks and peers


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_the_tables_of_layers_are_those_of_the_networks(name):
    with torch.device("meta"):
        network = plain(getattr(models, name)())
        images = torch.empty(2, 3, 224, 224)
    seen: list[tuple[nn.Module, tuple[int, ...]]] = []
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, inputs, _: seen.append((module, tuple(inputs[0].shape[1:]))))
    network(images)

    layers = LAYERS[name]
    convolutions = [(module, shape) for module, shape in seen if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == len(layers.convolutions)
    for (module, shape), layer in zip(convolutions, layers.convolutions, strict=True):
        assert shape == (layer.C, layer.H, layer.H)
        fields = layer.K, layer.R, layer.stride, layer.padding, layer.groups
        assert fields == (
            module.out_channels,
            *(value[0] for value in (module.kernel_size, module.stride, module.padding)),
            module.groups,
        )
    kinds = [type(module) for module, _ in seen]
    fused = [
        kinds[: index + 1].count(nn.Conv2d) - 1
        for index in range(len(kinds) - 2)
        if kinds[index : index + 3] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    ]
    assert layers.pooled_convolutions == tuple(layers.convolutions[index] for index in fused)

    def shapes(kind):
        return [shape for module, shape in seen if isinstance(module, kind)]

    assert shapes(nn.MaxPool2d) == [(layer.C, layer.H, layer.H) for layer in layers.poolings]
    assert shapes(nn.LocalResponseNorm) == [(layer.C, layer.H, layer.H) for layer in layers.normalizations]
    assert shapes(nn.Dropout) == [(layer.features,) for layer in layers.dropouts]
    hidden = [module for module, _ in seen if isinstance(module, nn.Linear)][:-1]
    assert [(m.in_features, m.out_features) for m in hidden] == [
        (layer.in_features, layer.out_features) for layer in layers.linears
    ]


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))


TORCH_PEERS = [peer for peer in PEERS if not peer.packages]


@pytest.mark.parametrize("peer", TORCH_PEERS, ids=lambda peer: peer.name)
def test_a_prepared_peer_computes_the_network_and_trains_its_own_parameters(peer, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # whose own work is not in question here
    network, example = small_network(), torch.randn(2, 3, 8, 8)
    expected = network(example)
    result = peer.prepare(network.eval(), example)()
    assert not result.requires_grad
    torch.testing.assert_close(result, expected.detach())
    if peer.trains:
        output = peer.prepare(network.train(), example)()
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_peer_says_what_is_missing():
    class Absent(Peer):
        name = "absent"
        packages = ("torch", "a_package_that_is_not_there")

        def prepare(self, model, example):
            raise NotImplementedError

    assert Absent().missing() == "not installed (pip install a_package_that_is_not_there)"
    assert all(peer.missing() is None for peer in TORCH_PEERS)


def test_plain_is_a_copy_without_anything_of_ours():
    network = models.alexnet(num_classes=2)
    twin = plain(network)
    assert type(network.features) is alexkern.nn.FusedSequential
    assert type(twin.features) is type(twin.classifier) is nn.Sequential
    assert twin.features[0].weight is not network.features[0].weight
    assert torch.equal(twin.features[0].weight, network.features[0].weight)


def test_saved_bytes_count_each_storage_once_and_parameters_never():
    weight = torch.randn(6, 5, requires_grad=True)
    input = torch.randn(4, 5, requires_grad=True)
    with SavedBytes(excluded=[weight]) as saved:
        hidden = F.linear(input, weight)  # saves both
        output = hidden.relu() * hidden  # the ReLU saves its output, the product saves that and hidden
    assert output.requires_grad
    assert saved.total == 4 * 5 * 4 + 2 * (4 * 6 * 4)
    with SavedBytes() as saved, torch.no_grad():
        F.linear(input, weight)
    assert saved.total == 0


# what is said about it


def outcomes(ours, peers):
    return {name: Samples(seconds) for name, seconds in {"alexkern": ours, **peers}.items()}


def test_a_row_whose_spread_exceeds_its_difference_is_flagged():
    subject = comparison(alexkern=None, torch=None)
    steady, near, wild = (1.0, 1.01, 1.02, 1.03), (1.2, 1.21, 1.22, 1.23), (0.5, 1.0, 1.4, 3.0)
    for ours, peer, noisy in ((steady, near, False), (steady, wild, True), (wild, near, True), (steady, steady, True)):
        (row,) = rows(subject, outcomes(ours, {"torch": peer}))
        assert row.noisy is noisy
    assert rows(subject, outcomes(steady, {"torch": near}))[0].ratio == pytest.approx(1.215 / 1.015)


def test_each_variant_of_ours_meets_the_best_of_the_others():
    variants = {"alexkern": (0.5,), "alexkern frozen": (0.25,), "slow": (2.0,), "fast": (1.0,)}
    subject = comparison(kind=Kind.NETWORK, images=16, **dict.fromkeys(variants))
    found = rows(subject, {name: Samples(seconds) for name, seconds in variants.items()})
    assert [(row.ratio, row.peer_name, row.per_second) for row in found] == [(2.0, "fast", 32.0), (4.0, "fast", 64.0)]
    assert verdicts(found) == [
        "whole networks: alexkern is ahead in 2, behind in 0, level in 0 of 2; geometric mean ratio 2.83"
    ]


def test_the_table_says_who_wins_by_how_much_and_who_is_missing():
    network = comparison(Kind.NETWORK, "whole networks", "alexnet inference, batch 16", 16, alexkern=None, torch=None)
    lost = comparison(what="conv1 forward", alexkern=None, torch=None)
    noisy = comparison(what="conv2 forward", alexkern=None, torch=None)
    failed = comparison(what="conv3 forward", alexkern=None, torch=None)
    alone = comparison(what="conv4 forward", alexkern=None, torch=None)
    saved = comparison(Kind.COUNT, "saved for backward", "alexnet", alexkern=None, torch=None)
    over = comparison(Kind.OVERHEAD, "host overhead per call", "conv, grad", alexkern=None, torch=None)
    reason = Failure("RuntimeError: [nothing] works")
    results = [
        (network, outcomes((0.1,), {"torch": (0.1234,)})),
        (lost, outcomes((0.004,), {"torch": (0.003,)})),
        (noisy, outcomes((0.001, 0.002, 0.003), {"torch": (0.002, 0.0021, 0.0022)})),
        (failed, {"alexkern": reason, "torch": Samples((0.5,))}),
        (alone, {"alexkern": Samples((0.5,)), "torch": reason}),
        (saved, outcomes((5e6,), {"torch": (1e7,)})),
        (over, outcomes((25e-6,), {"torch": (20.5e-6,)})),
    ]
    text = render(results, "a machine, 2 threads")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert max(map(len, text.splitlines())) <= 100
    for line in (
        "what alexkern images/s best peer its name ratio",
        "alexnet inference, batch 16 100 ms 160 123 ms torch 1.23",
        "conv1 forward 4.00 ms 3.00 ms torch 0.75",
        "conv2 forward 2.00 ms 2.10 ms torch 1.05 ~",
        "conv3 forward failed 500 ms torch",
        "conv4 forward 500 ms -",
        "alexnet 5.00 MB 10.0 MB torch 2.00",
        "conv, grad 25.0 us 20.5 us torch +4.50 us",
        "not compared: alexkern in conv, batch 8, conv3 forward: RuntimeError: [nothing] works",
        "not compared: torch in conv, batch 8, conv4 forward: RuntimeError: [nothing] works",
        "whole networks: alexkern is ahead in 1, behind in 0, level in 0 of 1; geometric mean ratio 1.23",
        "operators: alexkern is ahead in 0, behind in 1, level in 1 of 2; geometric mean ratio 0.89",
        "a machine, 2 threads",
    ):
        assert line in lines, text
    assert lines.count("conv, batch 8") == 1


def test_a_peer_that_fails_everywhere_is_one_line():
    calls = {"alexkern": None, "torch": None}
    results = [(comparison(what=what, **calls), {"torch": Failure("it broke")}) for what in ("conv1", "conv2")]
    assert "not compared: torch in 2 comparisons: it broke" in render(results, "")


# as pytest runs it

SYNTHETIC = """
import torch
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant, compares

def broken():
    raise RuntimeError("does not work here")

CALLS = {"alexkern": lambda: torch.ones(3), "quick": lambda: None, "broken": broken}

def check(name, result):
    assert (result is None) == (name == "quick")

def source(options):
    assert options.batches == (2, 3)
    variants = [Variant(name, ours=name == "alexkern") for name in CALLS]
    for what in ("first", "second"):
        yield Comparison(Kind.OPERATOR, "nothing", what, tuple(variants), lambda: Trial(CALLS.get, check), 0.1)

@compares(source)
def bench_synthetic(report):
    report()
"""


def run_pytest(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alexkern.bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_variants_are_entries_of_pytest_benchmark(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(BENCH / "conftest.py", folder)
    (folder / "bench_synthetic.py").write_text(SYNTHETIC)
    record = tmp_path / "record.json"
    command = [sys.executable, "-m", "pytest", folder, "-c", "/dev/null", "-o", "python_files=bench_*.py"]
    command += ["-o", "python_functions=bench_*", "-p", "no:cacheprovider", "--import-mode=importlib", "--batches=2,3"]
    command += [f"--benchmark-json={record}", "--benchmark-group-by=param:variant"]
    # pytest-benchmark times nothing in a worker of pytest-xdist, and knows one by its environment.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed, 2 skipped" in done.stdout
    assert "not compared: broken in 2 comparisons: RuntimeError: does not work here" in done.stdout
    assert "variant=quick" in done.stdout  # pytest-benchmark's own table, by its own option

    written = json.loads(record.read_text())
    entries = {(entry["group"], entry["params"]["variant"]): entry for entry in written["benchmarks"]}
    groups = ("nothing, first", "nothing, second")
    assert set(entries) == {(group, name) for group in groups for name in ("alexkern", "quick")}
    for entry in entries.values():
        assert entry["stats"]["rounds"] == len(entry["stats"]["data"]) >= 3
        assert 0 < entry["stats"]["median"] < 1e-3
    assert written["machine_info"]["alexkern"]["torch"] == torch.__version__


def test_disabled_benchmarks_are_checked_but_not_timed():
    done = run_pytest("--benchmark-disable", "-q", "-k", "(overhead or pool5) and max_pool2d and not conv2d")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 passed" in done.stdout
    assert "who wins" not in done.stdout


def test_what_time_runs_out_for_is_left_out_and_not_ours_to_answer_for():
    spec = importlib.util.spec_from_file_location("bench_conftest", BENCH / "conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    options = Options(CPU, ("alexnet",), (), (1,), 32, 8, compile_operators=False, clock="wall", seconds=0.0)
    subject = comparison(alexkern=lambda: torch.ones(3), torch=lambda: torch.ones(3))

    def run(seconds):
        run = conftest.Run(replace(options, seconds=seconds))
        run.comparisons[subject.group], run.selected[subject.group] = subject, ["alexkern", "torch"]
        return run, run.outcome(subject.group, "alexkern")

    late, outcome = run(seconds=0.0)
    assert late.late == {subject.group}
    with pytest.raises(pytest.skip.Exception, match="time was up"):
        conftest._succeeded(late, subject, "alexkern", outcome)
    in_time, outcome = run(seconds=60.0)
    assert isinstance(outcome, Samples) and not in_time.late
    with pytest.raises(pytest.fail.Exception, match="it broke"):
        conftest._succeeded(in_time, subject, "alexkern", Failure("it broke"))


def test_a_wrong_option_is_one_clear_line():
    done = run_pytest("--peers=torch,turtle")
    assert done.returncode != 0
    assert "'turtle' is none of torch, torch channels_last" in done.stderr
