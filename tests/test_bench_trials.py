"""What the bench's comparisons make of their variants, on networks and files that are small."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import fx, nn

from alexkern.bench import (
    bench_any_network,
    bench_input,
    bench_overhead,
    bench_space_to_depth,
    memory,
    networks,
    training,
)
from alexkern.bench.checks import WrongResult
from alexkern.bench.ours import contenders
from alexkern.bench.peers.eager import EAGER
from alexkern.ops.registry import OPERATORS
from support.bench_records import CPU, HALF, options
from support.pinned import pinned
from support.tiny import tiny

RUNNERS = [*contenders(CPU), *EAGER]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights for everybody, as `build` has them."""

    def build(model, target):
        torch.manual_seed(0)
        return tiny()

    for module in (memory, networks, training):
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
    """Of which the images are 1.8 MB."""
    runners = [one for one in RUNNERS if one.trains]
    for make, low, high in ((memory._peak_trial, 8e5, 1.8e6), (memory._saved_trial, 1.8e6, 2.5e6)):
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
    assert lines == pinned(name)


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
        assert images.shape == (16, 3, 32, 32) and [one.name for one in subject.variants] == [
            one.name for one in runners
        ]


def test_files_become_the_same_batches_for_everybody(monkeypatch):
    monkeypatch.setattr(bench_input, "PHOTOGRAPHS", 3)
    monkeypatch.setattr(bench_input, "BATCH", 2)
    every = list(bench_input.inputs(options()))
    assert [one.what for one in every] == [
        "3 JPEG files of 500 x 375, one thread",
        "3 JPEG files of 500 x 375, 2 workers",
    ]
    assert list(bench_input.inputs(options(targets=(dataclasses.replace(CPU, device=torch.device("cuda")),)))) == []
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
