"""What the comparison refuses to time, and what it counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alexkern import dispatch
from alexkern.backends import cpu
from alexkern.bench import bench_conv2d_relu_max_pool2d, checks
from alexkern.bench.budget import UNLIMITED
from alexkern.bench.checks import WrongResult
from alexkern.bench.comparison import Failure, Kind, Trial, Variant, compare, describe
from alexkern.bench.layers import LAYERS, Dropout, Normalization, Pooling, Target
from alexkern.bench.memory import SavedBytes, peak_bytes
from alexkern.bench.operators import PASSES, Operator, _trial
from alexkern.measure.timing import CpuTimer, Samples
from support.bench_records import CPU, comparison


def test_contenders_that_fail_or_are_wrong_or_absent_are_named_and_not_timed():
    def broken() -> None:
        raise RuntimeError("\x1b[96mno such\x1b[0m device\nand a long trace")

    calls = {"alexkern": lambda: torch.ones(3), "wrong": lambda: torch.zeros(3), "broken": broken}
    subject = comparison(**calls)
    absent = Variant("absent", missing=lambda: "not installed (pip install absent)")
    subject = dataclasses.replace(subject, variants=(*subject.variants, absent))
    outcomes = compare(subject, [*calls, "absent"], CpuTimer(), UNLIMITED)
    assert isinstance(outcomes["alexkern"], Samples)
    assert outcomes["broken"] == Failure("RuntimeError: no such device")
    assert outcomes["absent"] == Failure("not installed (pip install absent)")
    assert isinstance(outcomes["wrong"], Failure) and "off by 1.73" in outcomes["wrong"].reason


@pytest.mark.parametrize(("length", "end"), [(160, "xxx"), (161, "...")])
def test_what_failed_is_cut_to_the_length_of_a_row(length, end):
    said = describe(ValueError("x" * (length - len("ValueError: "))))
    assert said.startswith("ValueError: x") and said.endswith(end) and len(said) == 160


@pytest.mark.skipif(cpu.missing("cpu", torch.float32) is not None, reason="the cpu backend is not there")
def test_ours_names_the_kernels_that_ran():
    image = torch.ones(1, 3, 9, 9)
    drawn = torch.tensor((1, 2))

    def ours(operator: str, *arguments: object):
        return dispatch.implementation("cpu", operator).forward(image, *arguments)

    calls = {
        "torch": lambda: ours("dropout", drawn, 0.5),
        "pools": lambda: ours("max_pool2d", (3, 3), (2, 2), (0, 0), (1, 1), False, False),
        "both": lambda: (ours("dropout", drawn, 0.5), calls["pools"](), ours("dropout", drawn, 0.5)),
        "adds": lambda: image + 1,
    }
    subject = comparison(**dict.fromkeys(calls, lambda: torch.ones(3)))
    variants = tuple(Variant(name, ours=name != "torch") for name in calls)
    trial = Trial(lambda name: calls[name], lambda name, result: None)
    subject = dataclasses.replace(subject, kind=Kind.OPERATOR, target=CPU, variants=variants, setup=lambda: trial)
    outcomes = compare(subject, [*calls], CpuTimer(), UNLIMITED)
    isa = cpu.native().isa()
    pools = f"max_pool2d forward, NCHW, {isa}"
    names = {name: outcome.kernel for name, outcome in outcomes.items()}
    assert names == {"torch": None, "pools": pools, "both": f"dropout, {isa}; {pools}", "adds": "torch"}


def plain(layer, input):
    return nn.Sequential(*layer.modules())(input)


@pytest.mark.parametrize("direction", PASSES)
@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (Normalization("norm2", 16, 9), lambda layer, input: plain(layer, 2 * input)),
        (Pooling("pool5", 16, 13), lambda layer, input: F.avg_pool2d(input, 3, 2)),
    ],
)
def test_an_operator_is_timed_only_where_it_is_right(layer, wrong, direction):
    for ours, right in ((plain, True), (wrong, False)):
        trial = _trial(Operator("operator", lambda layers: (), ours, plain), layer, 2, direction, CPU)
        for name in ("torch", "torch channels_last"):
            trial.check(name, trial.prepare(name)())
        result = trial.prepare("alexkern")()
        assert len(result) == 1 + (direction != "forward")
        if right:
            trial.check("alexkern", result)
        else:
            with pytest.raises(WrongResult):
                trial.check("alexkern", result)


@pytest.mark.parametrize("direction", PASSES)
def test_every_contender_gets_images_and_gradients_in_its_own_layout(direction, monkeypatch):
    seen: list[torch.Tensor] = []

    def expression(layer, input):
        output = 2 * input
        seen.append(input)
        if output.requires_grad:
            output.register_hook(seen.append)
        return output

    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    operator = Operator("operator", lambda layers: (), expression, expression)
    trial = _trial(operator, Pooling("pool5", 16, 13), 2, direction, CPU)
    for name in ("torch", "compiled torch", "torch channels_last", "compiled torch channels_last", "alexkern"):
        seen.clear()
        trial.prepare(name)()
        last = torch.contiguous_format if name.endswith("torch") else torch.channels_last
        assert len(seen) == (1 if direction == "forward" else 2), name
        assert all(tensor.is_contiguous(memory_format=last) for tensor in seen), name


@pytest.mark.parametrize("direction", PASSES)
def test_dropout_is_held_to_its_share_its_scale_and_its_own_mask(direction):
    def trial(ours):
        expressions = (ours, lambda layer, input: F.dropout(input, 0.5), lambda layer, input: input.clone())
        return _trial(
            Operator("dropout", lambda layers: (), *expressions, p=0.5), Dropout("fc", 500), 8, direction, CPU
        )

    right = trial(lambda layer, input: F.dropout(input, 0.5))
    right.check("alexkern", right.prepare("alexkern")())
    others = F.alpha_dropout, lambda input, p: F.dropout(input, 0.3), lambda input, p: F.dropout(input, 0.3) * 1.4
    for wrong in (*others, lambda input, p: F.dropout(input, p) / 2):
        subject = trial(lambda layer, input, wrong=wrong: wrong(input, 0.5))
        with pytest.raises(WrongResult):
            subject.check("alexkern", subject.prepare("alexkern")())


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


def test_the_peak_is_over_what_was_there_and_counts_what_is_freed_again():
    kept = torch.randn(1000)

    def call():
        first = torch.empty(3000)  # 12,000 bytes
        second = torch.empty(5000)  # 20,000 more
        del first
        third = torch.empty(1000)
        return kept, second, third

    peak = peak_bytes(call, torch.device("cpu"))
    assert 32_000 <= peak < 34_000


def test_gradients_go_to_the_winners_among_rounded_values(monkeypatch):
    """In bfloat16 so many values of a window are equal that winners among unrounded ones are others: a wrong check."""
    operator = bench_conv2d_relu_max_pool2d.bench_conv2d_relu_max_pool2d.comparisons
    conv2, target = LAYERS["alexnet"].pooled_convolutions[1], Target(torch.device("cpu"), torch.bfloat16)
    torch.manual_seed(0)
    trial = _trial(operator, conv2, 1, "backward", target)
    monkeypatch.setitem(checks.TOLERANCE, torch.bfloat16, 0.05)
    for name in ("alexkern", "torch channels_last"):
        trial.check(name, trial.prepare(name)())
    torch.manual_seed(0)
    trial = _trial(dataclasses.replace(operator, reference=operator.plain, rounds=False), conv2, 1, "backward", target)
    with pytest.raises(WrongResult, match="tensor 1 is off"):
        trial.check("torch", trial.prepare("torch")())
