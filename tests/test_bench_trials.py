"""What the bench's comparisons make of their variants, on networks and files that are small."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import os
import random
import subprocess
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import fx, nn

from alexkern import optional
from alexkern.backends import extension
from alexkern.bench import (
    bench_any_network,
    bench_input,
    bench_overhead,
    bench_space_to_depth,
    history,
    machine,
    memory,
    networks,
    session,
    training,
)
from alexkern.bench.budget import UNLIMITED
from alexkern.bench.checks import WrongResult, check_close, check_gradient_norms, check_kept
from alexkern.bench.comparison import Failure, Kind, Trial, compare, kernel_of
from alexkern.bench.layers import LAYERS, Convolution, Dropout, Linear, Normalization, Pooling, Target
from alexkern.bench.operators import CUDNN, PASSES, _expression, _trial
from alexkern.bench.ours import contenders
from alexkern.bench.peers.eager import EAGER
from alexkern.bench.storage import make_no_empty_folder
from alexkern.bench.work import layer_work
from alexkern.measure.timing import CpuTimer, Samples
from alexkern.ops.registry import OPERATORS
from support import bench_records, comparisons
from support.backends import DEVICE, serving
from support.bench_records import CPU, HALF, comparison, options
from support.pinned import hold
from support.tiny import tiny

RUNNERS = [*contenders(CPU), *EAGER]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights for everybody, as `build` has them."""

    def build(model, target):
        torch.manual_seed(0)
        return tiny()

    for module in (history, memory, networks, training):
        monkeypatch.setattr(module, "build", build)


@pytest.mark.parametrize("target", [CPU, HALF], ids=["float32", "bfloat16"])
def test_networks_are_checked_before_they_are_timed(target, small):
    trial = networks._inference_trial("alexnet", 3, RUNNERS, target)
    for runner in RUNNERS:
        result = trial.prepare(runner.name)()
        trial.check(runner.name, result)
        assert result.shape == (3, 1000) and result.dtype == target.dtype and not result.requires_grad
        with pytest.raises(WrongResult):
            trial.check(runner.name, result + 1)


def test_a_training_step_updates_its_own_network(small):
    runners = [one for one in RUNNERS if one.trains]
    trial = networks._training_trial("alexnet", 3, runners, CPU)
    losses = {}
    for runner in runners:
        step = trial.prepare(runner.name)
        losses[runner.name] = [step().item() for _ in range(30)]
        trial = networks._training_trial("alexnet", 3, runners, CPU)
        trial.prepare(runner.name)()
        trial.check(runner.name, None)
    for first, *_, last in losses.values():
        assert 6.5 < first < 7.5 and last < first  # of a thousand classes


def test_memory_is_counted_for_each_contender(small):
    """Of which the images are 1.8 MB. Where ours pools, the peak lacks torch's indices of 64 bits: half of it."""
    runners = [one for one in RUNNERS if one.trains]
    for make, low, high in ((memory._peak_trial, 5e5, 1.8e6), (memory._saved_trial, 1.8e6, 2.5e6)):
        trial = make("alexnet", 3, runners, CPU)
        counts = {runner.name: trial.prepare(runner.name) for runner in runners}
        found = {name: count() for name, count in counts.items()}
        for name, count in found.items():
            trial.check(name, count)
            assert low < count < high and counts[name]() == pytest.approx(count, rel=0.05), (name, count)
        assert found["alexkern"] < found["torch"] or make is memory._peak_trial
        for wrong in (0, -1, None):
            with pytest.raises(AssertionError):
                trial.check("alexkern", wrong)


@pytest.mark.parametrize("target", [CPU, HALF], ids=["float32", "bfloat16"])
def test_the_trainers_step_is_that_of_torchs_modules(target, small):
    trial = training._step_trial("alexnet", 2, target)
    for name in ("alexkern", "alexkern torch", training.TORCHS_MODULES):
        trial.prepare(name)()
        trial.check(name, None)
    for parameter in step_of(trial, "alexkern").model.parameters():
        parameter.grad.mul_(4)
    with pytest.raises(WrongResult):
        trial.check("alexkern", None)


def step_of(trial, name):
    return next(cell.cell_contents for cell in trial.prepare.__closure__ if isinstance(cell.cell_contents, dict))[name]


@pytest.mark.parametrize("route", bench_overhead.ROUTES)
@pytest.mark.parametrize("name", OPERATORS)
def test_overheads_are_of_calls_that_give_what_the_backend_gives(name, route):
    trial = bench_overhead._trial(name, route, CPU)
    variants = ["alexkern", bench_overhead.ALONE] + [bench_overhead.TORCH] * (route != "dispatcher")
    for variant in variants:
        result = trial.prepare(variant)()
        trial.check(variant, result)
        output = bench_overhead._first(result)
        for wrong in (output.detach().requires_grad_(not output.requires_grad), output[:0]):
            with pytest.raises(WrongResult, match="^shape .*, requires_grad (True|False)$"):
                trial.check(variant, wrong)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("route", bench_overhead.ROUTES[:2])
def test_a_tiny_network_is_compiled_by_both_backends(route, monkeypatch):
    asked = []

    def compiled(network, backend, dynamic):
        def call(images):
            asked.append((backend, dynamic, torch.is_grad_enabled(), torch.get_num_threads()))
            return network(images)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    trial = bench_overhead._compiled(route, CPU)
    for variant, backend in (("alexkern", "alexkern"), (bench_overhead.INDUCTOR, "inductor")):
        result = trial.prepare(variant)()
        assert result.shape == (1, 4)
        trial.check(variant, result)
        assert asked[-2:] == [(backend, False, route == "grad", 1)] * 2
        for wrong in (result + 0.1, result.detach().requires_grad_(route != "grad")):
            with pytest.raises(WrongResult, match="^off by "):
                trial.check(variant, wrong)


def test_comparisons_are_those_that_are_pinned():
    """What is measured, of whom, for how long, and what comes first."""
    hold("comparisons", comparisons.lines())


def told(node: fx.Node) -> str:
    """What a line of a traced network does, but to which values."""
    target = node.target if isinstance(node.target, str) else node.target.__name__
    rest = [argument for argument in node.args if not isinstance(argument, fx.Node)]
    return f"{node.op} {target} {rest} { {key: node.kwargs[key] for key in sorted(node.kwargs)} }"


@pytest.mark.parametrize("name", bench_any_network.NETWORKS)
def test_networks_of_any_style_are_as_pinned(name):
    build, size = bench_any_network.NETWORKS[name]
    with torch.device("meta"):
        network, images = build(), torch.empty(2, 3, size, size)
        assert network(images).shape == (2, 1000)
    lines = [
        f"{size} pixels",
        *repr(network).replace(", bias=True, track", ", track").splitlines(),
    ]  # which some torch have
    if name == "layers as attributes":
        for mode in (True, False):
            lines += map(told, fx.symbolic_trace(network.train(mode)).graph.nodes)
    hold(name, lines)


def test_networks_of_any_style_are_tried_as_they_train_or_infer(monkeypatch):
    asked = []
    for name in ("inference_trial", "training_trial"):
        monkeypatch.setattr(bench_any_network, name, lambda *of, name=name: asked.append((name, *of)))
    with torch.device("meta"):
        network = nn.Linear(1, 1)
    monkeypatch.setitem(bench_any_network.NETWORKS, "32 pixels", (lambda: network, 32))
    subjects = {one.what: one for one in bench_any_network.any_network(options())}
    for what, trains in (("inference", False), ("training step", True)):
        subject = subjects[f"32 pixels {what}, batch 16"]
        subject.setup()
        name, got, images, runners, target = asked.pop()
        assert (name.startswith("training"), got, target) == (trains, network, CPU)
        assert images.shape == (16, 3, 32, 32)
        assert [one.name for one in subject.variants] == [one.name for one in runners]


def test_files_become_the_same_batches_for_everybody(monkeypatch):
    monkeypatch.setattr(bench_input, "PHOTOGRAPHS", 3)
    monkeypatch.setattr(bench_input, "BATCH", 2)
    (alone,) = bench_input.inputs(options(clock="cpu"))
    trial = alone.setup()
    results = {}
    for variant in alone.variants:
        if variant.missing() is None:
            results[variant.name] = trial.prepare(variant.name)()
            trial.check(variant.name, results[variant.name])
    assert {"alexkern", "PIL and numpy"} <= results.keys()
    assert all(result.shape == (3, 3, 224, 224) for result in results.values())
    with pytest.raises(WrongResult):
        trial.check("alexkern", results["alexkern"].flip(3))


def test_images_come_as_their_source_has_them():
    layer, target = bench_space_to_depth.LAYERS["alexnet"].convolutions[0], HALF
    found = [source.images(2, layer, target) for source in bench_space_to_depth.SOURCES]
    assert all(images.shape == (2, 3, 224, 224) for images in found)
    assert [images.dtype for images in found] == [torch.bfloat16, torch.uint8, torch.float32]
    assert [images.is_contiguous() for images in found] == [False, False, True]
    assert found[1].max() == 255 and abs(found[2].mean()) < 0.01 and abs(found[0].float().std() - 1) < 0.01


@pytest.mark.skipif("cuda" not in serving("conv2d_relu"), reason="the CUDA kernels do not run here")
@pytest.mark.parametrize("source", bench_space_to_depth.SOURCES, ids=lambda source: source.name)
def test_a_first_layer_with_its_relayout_is_the_same_of_everybody(source, monkeypatch):
    torch.manual_seed(1)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda *args: torch.conv2d(*args).relu())  # it needs a GPU
    layer = Convolution("conv1", 3, 31, 8, 11, stride=4, padding=2)
    trial = bench_space_to_depth._trial(source, layer, 2, Target(DEVICE, torch.bfloat16))
    for name in ("alexkern cuda", *bench_space_to_depth.TORCH, bench_space_to_depth.CUDNN):
        result = trial.prepare(name)()
        trial.check(name, result)
        with pytest.raises(WrongResult):
            trial.check(name, (result[0] * 1.2,))


def on(layer: object, input: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
    """The layer's modules, with these parameters, in float64."""
    first, *rest = (copy.deepcopy(module).double() for module in layer.modules())
    if more:
        first.weight, first.bias = (nn.Parameter(one.double()) for one in more)
    return nn.Sequential(first, *rest).eval()(input.double())


SMALL = {
    "conv2d_relu": Convolution("conv", 4, 9, 6, 3, 2, 1, 2),
    "conv2d_relu_max_pool2d": Convolution("conv", 4, 9, 6, 3, 1, 1, 2),
    "max_pool2d": Pooling("pool", 3, 9),
    "dropout": Dropout("before fc", 4000),
    "linear_relu_dropout": Linear("fc", 20, 4000),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_what_a_user_of_torch_writes_is_the_layer(name, monkeypatch):
    """And what it is held to, and cuDNN's form of it."""
    asked = []

    def convolved(input, weight, bias, stride, padding, dilation, groups):
        asked.append((stride, padding, dilation, groups))
        return torch.relu(torch.conv2d(input, weight, bias, stride, padding, dilation, groups))

    monkeypatch.setattr(torch, "cudnn_convolution_relu", convolved)
    module = importlib.import_module(f"alexkern.bench.bench_{name}")
    operator = getattr(module, f"bench_{name}").comparisons
    layer = SMALL.get(name, Normalization("norm", 7, 5, 3, 0.5, 0.6, 1.5))
    tensors = layer.inputs(3, CPU)
    wanted = on(layer, *tensors)
    if name.startswith("conv2d_relu_max"):
        wanted = torch.max_pool2d(wanted, 3, 2)
        low = operator.reference(layer, *tensors, torch.bfloat16)
        assert torch.equal(low, low.bfloat16().float()) and low.dtype == torch.float32 and operator.rounds
    elif operator.reference:
        torch.testing.assert_close(operator.reference(layer, *tensors).double(), wanted, rtol=1e-5, atol=1e-5)
        assert operator.reference(layer, *tensors) is not tensors[0] and operator.p == 0.5
    found = operator.plain(layer, *tensors).double()
    if operator.p:
        kept = found != 0
        assert 0.45 < kept.sum() / (wanted != 0).sum() < 0.55
        found, wanted = found * 0.5, wanted * kept
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (operator.cudnn is not None) == name.startswith("conv")
    if operator.cudnn:
        torch.testing.assert_close(operator.cudnn(layer, *tensors).double(), wanted, rtol=1e-5, atol=1e-5)
        assert asked == [((layer.stride,) * 2, (1, 1), (1, 1), 2)]
        assert _expression(operator, CUDNN) is operator.cudnn


@pytest.mark.parametrize("direction", PASSES)
def test_an_operators_call_can_be_repeated(direction):
    operator = importlib.import_module("alexkern.bench.bench_max_pool2d").bench_max_pool2d.comparisons
    trial = _trial(operator, LAYERS["alexnet"].poolings[-1], 1, direction, CPU)
    for name in ("alexkern", "torch", "torch channels_last"):
        call = trial.prepare(name)
        for _ in range(3):
            trial.check(name, call())


@pytest.mark.parametrize("tf32", [True, False])
def test_a_gpu_computes_in_its_targets_precision_and_then_as_before(tf32):
    settings = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [setting.allow_tf32 for setting in settings]
    for device, wanted in (("cuda", [tf32] * 2), ("cpu", before)):
        with pytest.raises(KeyError), Target(torch.device(device), torch.float32, tf32).precision():
            assert [setting.allow_tf32 for setting in settings] == wanted
            raise KeyError
        assert [setting.allow_tf32 for setting in settings] == before


def test_counts_are_what_calls_return_and_overheads_are_timed_on_one_thread(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    calls = {"alexkern": lambda: 12, "torch": lambda: 7}
    trial = Trial(lambda name: calls[name], lambda name, result: None)
    subject = dataclasses.replace(comparison(Kind.COUNT, **calls), setup=lambda: trial)
    assert compare(subject, [*calls], CpuTimer(), UNLIMITED) == {"alexkern": Samples((12.0,)), "torch": Samples((7.0,))}
    for kind in (Kind.COUNT, Kind.NETWORK, Kind.OVERHEAD):
        subject = dataclasses.replace(subject, kind=kind, target=None)
        assert compare(subject, ["torch"], CpuTimer(), UNLIMITED).keys() == {"torch"}
        assert asked == ([1, 5] if kind is Kind.OVERHEAD else [])


def test_a_call_that_fails_while_it_is_timed_says_why():
    left = iter(range(2))
    subject = comparison(alexkern=lambda: torch.ones(3), torch=lambda: (next(left), torch.ones(3))[1])
    found = compare(subject, ["torch", "alexkern"], CpuTimer(), UNLIMITED)
    assert [*found] == ["torch", "alexkern"] and found["torch"] == Failure("StopIteration")
    assert isinstance(found["alexkern"], Samples)


def test_without_our_kernels_nobody_can_tell_what_ran(monkeypatch):
    monkeypatch.setattr(extension.cpu, "module", None)
    assert kernel_of(lambda: 1) is None


@pytest.mark.parametrize("backward", [False, True])
def test_the_row_of_convnet_benchmarks_is_checked_in_both_passes(backward, small, monkeypatch):
    monkeypatch.setattr(history, "BATCH", 2)
    runners = [one for one in RUNNERS if one.trains]
    trial = history._trial(backward, runners, CPU)
    for runner in runners:
        output, *gradients = result = trial.prepare(runner.name)()
        trial.check(runner.name, result)
        assert output.shape == (2, 1000) and output.requires_grad
        assert len(gradients) == backward * len([*tiny().parameters()])
        again = trial.prepare(runner.name)()
        assert torch.equal(output, again[0])  # nothing is dropped
    assert list(history.convnet_benchmarks(options(models=("alexnet_2012",)))) == []


def test_figures_of_history_want_both_passes_of_somebody():
    made = bench_records.record()
    names = [figure.who for figure in history.figures(made)]
    assert names[0] == "alexkern, float32" and len(names) == 2 + len(history.HISTORY)
    entries = {one.what: one for one in made.entries if "convnet" in one.labels["pass"]}
    for lost in entries.values():
        others = tuple(one for one in entries.values() if one is not lost)
        assert history.figures(dataclasses.replace(made, entries=others)) == []
        gone = tuple(
            dataclasses.replace(variant, median=None) if variant.ours else variant for variant in lost.variants
        )
        found = history.figures(dataclasses.replace(made, entries=(*others, dataclasses.replace(lost, variants=gone))))
        assert [figure.who for figure in found][: -len(history.HISTORY)] == names[1:2]


NVIDIA_SMI = "#!/bin/sh\necho \"$@\" >> {asked}\necho '{says}'\n"
SAYS = "580.65, 1980, 2619 ,1981, 2620"


@pytest.mark.parametrize("says", [SAYS, f"{SAYS}, 5", "580.65, 1980", ""])
@pytest.mark.parametrize("index", [None, 2])
def test_the_facts_of_a_gpu(index, says, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI.format(asked=tmp_path / "asked", says=says))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA {device}")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    served = [SimpleNamespace(operator="dropout", dtypes=(), backend="cuda"),
              SimpleNamespace(operator="conv2d_relu", dtypes=("float32", "tf32"), backend="triton")]  # fmt: skip
    monkeypatch.setattr("alexkern.dispatch.explain", lambda operators, device: served)
    device = torch.device("cuda", index)
    facts = machine.machine_facts(dataclasses.replace(CPU, device=device))
    here = machine.machine_facts(CPU)
    own = {name: facts[name] for name in facts.keys() - here.keys()}
    assert {name: facts[name] for name in here} == here
    clocks = {"clocks.sm": "1980", "clocks.mem": "2619", "clocks.max.sm": "1981", "clocks.max.mem": "2620"}
    driver = {} if says != SAYS else {"driver": "580.65", "clocks_mhz": clocks}
    auto = {"dropout": "cuda", "conv2d_relu float32": "triton", "conv2d_relu tf32": "triton"}
    assert own == driver | {
        "gpu": f"NVIDIA {device}", "cuda": "13.0", "cudnn": "91002", "auto": auto, "triton": optional.version("triton"),
    }  # fmt: skip
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem --format=csv,noheader,nounits"
    assert (tmp_path / "asked").read_text() == f"--id={index or 0} {query}\n"


def test_a_program_that_fails_or_is_not_there_says_nothing():
    assert machine._output(["sh", "-c", "echo ' a '"]) == "a"
    assert machine._output(["sh", "-c", "echo a; exit 1"]) == machine._output(["no-such-program-anywhere"]) == ""


@pytest.mark.parametrize(("load", "busy"), [(2.0, False), (2.04, True)])
def test_a_busy_machine_is_said(load, busy, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 9.0, 0.0))
    words = "the machine was busy before this run (load 2.0 on 2 cores): expect noise, or use --clock=cpu"
    assert machine.describe_load() == (words if busy else None)


def test_a_machine_in_a_line():
    facts = {"cpu": "A CPU", "cpu_capability": "AVX2", "threads": 1, "torch": "3", "alexkern": "1", "date": "then"}
    assert machine.describe_machine(facts | {"commit": ""}) == "A CPU (AVX2), 1 thread, torch 3, alexkern 1, then"
    facts |= {"threads": 2, "commit": "0a"}
    assert machine.describe_machine(facts) == "A CPU (AVX2), 2 threads, torch 3, alexkern 1, commit 0a, then"
    assert machine.describe_machine(facts | {"gpu": "A GPU"}) == "A GPU, torch 3, alexkern 1, commit 0a, then"


def test_a_commit_says_whether_files_differ_from_it(tmp_path, monkeypatch):
    (tmp_path / "bench").mkdir()
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "bench" / "machine.py"))
    assert machine._commit() == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("a")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout[:12]
    (tmp_path / "another").write_text("a")
    assert machine._commit() == head
    (tmp_path / "file").write_text("b")
    assert machine._commit() == f"{head}+"


@pytest.mark.parametrize("clock", ["wall", "cpu"])
@pytest.mark.parametrize("load", ["it was busy", None])
def test_what_stands_below_the_table(clock, load, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "describe_load", lambda: load)
    monkeypatch.setattr(session, "machine_facts", lambda target: bench_records.record().machine)
    for record in (None, tmp_path / "out"):
        run = session.Run(options(clock=clock, record=record))
        run.finish()  # nothing was measured
        lines = run.summary().splitlines()
        last = lines[next(place for place, line in enumerate(lines) if line.startswith("A CPU & more")) + 1 :]
        more = ["CPU time on one thread"] if clock == "cpu" else [load] if load else []
        later = f"the pictures are not drawn: the run was cut off; later: alexkern bench --report {record}"
        assert last == [*more, *([f"record: {record}", later] if record else [])]
        assert not (tmp_path / "out").exists()
        found = run.record.machine
        assert (found["seconds"], found["clock"], found["load"]) == (60.0, clock, load or "")


def unless(right: bool, words: str) -> AbstractContextManager[object]:
    """Whether a result is right decides whether its check says anything."""
    return nullcontext() if right else pytest.raises(WrongResult, match=words)


def test_what_is_checked_meets_its_bounds():
    expected = torch.tensor([3.0, 4.0])  # of norm 5
    for dtype, bound in ((torch.float32, 0.01), (torch.float16, 0.03), (torch.bfloat16, 0.12)):
        for off, right in ((0.9, True), (1.2, False), (math.nan, False)):
            result = (expected + torch.tensor([0.0, 5 * bound * off])).to(dtype)
            with unless(right, "^tensor 0 is off by .* in norm, allowed"):
                check_close([result], [expected])
    with pytest.raises(WrongResult, match="^1 tensors where 2 are expected$"):
        check_close([expected], [expected] * 2)
    with pytest.raises(WrongResult, match=r"^tensor 1 has shape \(1,\), expected \(2,\)$"):
        check_close([expected, expected[:1]], [expected] * 2)
    kept = torch.ones(100)
    for count, right in ((36, True), (44, True), (34, False), (46, False)):
        with unless(right, f"^dropout kept a share of 0.{count}0, expected 0.400$"):
            check_kept(torch.cat((kept[:count], 0 * kept[count:], kept)), torch.cat((kept, 0 * kept)), 0.6)
    for factor, right in ((0.0, False), (0.5, False), (0.51, True), (1.99, True), (2.0, False), (math.nan, False)):
        with unless(right, f"parameter 0 has {factor:g} times"):
            check_gradient_norms([factor * expected], [expected])
    with pytest.raises(WrongResult, match="^parameter 1 got no gradient$"):
        check_gradient_norms([expected, None], [expected] * 2)


def test_work_is_of_layers_alone():
    with pytest.raises(TypeError, match="^layer_work: int is no layer of LAYERS$"):
        layer_work("dropout", 3, 1, 4, backward=False)


@pytest.mark.parametrize("option", ["save", "autosave", "compare", None])
def test_a_folder_is_made_where_runs_are_saved_or_read(option):
    config = SimpleNamespace(option=SimpleNamespace(), getoption=lambda name, default: name == f"benchmark_{option}")
    make_no_empty_folder(config)
    assert vars(config.option) == ({} if option else {"benchmark_storage": "file://."})


def test_a_run_measures_ceilings_once_and_each_comparison_on_its_own_clock(tmp_path, monkeypatch):
    gpu = dataclasses.replace(HALF, device=torch.device("cuda"))
    log, saved = [], []
    monkeypatch.setattr(session, "timer_for", lambda *of: of)
    monkeypatch.setattr(
        session, "measure_ceilings", lambda target, timer: log.append((target, timer)) or bench_records.CEILINGS
    )
    monkeypatch.setattr(session, "machine_facts", lambda target: bench_records.record().machine)
    monkeypatch.setattr(session.report, "write", lambda record, folder: saved.append((len(record.entries), folder)))
    monkeypatch.setattr(session, "compare", lambda *of: log.append(of) or {"alexkern": Samples((1.0,))})
    run = session.Run(options(targets=(gpu, CPU), clock="cpu", record=tmp_path))
    subjects = [
        dataclasses.replace(comparison(kind, what=what, alexkern=None), target=target, graphs=graphs)
        for kind, what, target, graphs in (
            (Kind.OPERATOR, "a", gpu, True), (Kind.OVERHEAD, "b", None, True), (Kind.NETWORK, "c", CPU, False),
            (Kind.OPERATOR, "d", gpu, True),
        )
    ]  # fmt: skip
    for subject in subjects:
        run.comparisons[subject.group] = subject
        run.selected[subject.group] = ["alexkern"]
    for subject in subjects[:3]:
        for _ in range(2):
            assert run.outcome(subject.group, "alexkern") == Samples((1.0,))
    assert log[:2] == [(gpu, (gpu.device, "cpu", False)), (CPU, (CPU.device, "cpu", False))]
    compared = [(of[0].what, of[1], of[2]) for of in log[2:]]
    assert compared == [
        ("a", ["alexkern"], (torch.device("cuda"), "cpu", True)),
        ("b", ["alexkern"], (torch.device("cpu"), "cpu", True)),
        ("c", ["alexkern"], (torch.device("cuda"), "cpu", False)),
    ]
    assert [of[4].random() for of in log[2:]] == [random.Random(subject.group).random() for subject in subjects[:3]]
    assert saved == [(1, tmp_path), (2, tmp_path), (3, tmp_path)] and set(run.ceilings) == {"bfloat16", "float32"}
    assert [entry.what for entry in run.entries] == ["a", "b", "c"]
    assert run.record.ceilings == dict.fromkeys(("bfloat16", "float32"), {"flops": 2e11, "bytes": 2e10})
    assert not run.record.complete and [entry.arithmetic for entry in run.entries] == ["bfloat16", "", "float32"]
