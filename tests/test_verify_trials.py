"""One trial of `alexkern verify`, in this process: what it tries, and that it sees every kind of error."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alexkern import dispatch
from alexkern.augmentation import Policy
from alexkern.ops.registry import served
from alexkern.references.reference import Case
from alexkern.verify import trials
from alexkern.verify.child import check_operator

CPU = torch.device("cpu")


def test_an_error_is_of_its_trial_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*args: Any) -> Tensor:
        if args[0].dtype == torch.float16:
            raise ValueError("no tile fits\nand more")
        return real(*args)

    module = dispatch.implementation("torch", "dropout")
    real = module.forward
    monkeypatch.setattr(module, "forward", raises)
    messages = list(check_operator(CPU, "dropout", "torch", ["float32", "float16"], thorough=False))
    failures = [message["failure"] for message in messages if "failure" in message]
    assert len(failures) == 4 and failures[0] == "classifier in float16, channels_last: ValueError: no tile fits"
    assert sum("error" in message for message in messages) == 8


def fake(operator: str, change: Callable[..., Any], gradients: bool = False) -> trials.Call:
    """A call of the torch backend whose results are changed."""
    real = dispatch.implementation("torch", operator)
    module: Any = types.SimpleNamespace(**vars(real))
    name = "backward" if gradients else "forward"
    setattr(module, name, lambda *args: change(getattr(real, name)(*args)))
    case = served()[operator].reference.cases[0]
    return trials.Call(served()[operator], module, case.draw(torch.float32, CPU))


def worst(call: trials.Call, arithmetic: str = "float32") -> float:
    found = trials.check(call, call.operator.reference, arithmetic)
    return max(error / allowed for _, error, allowed in found)


def nan(found: Any) -> Any:
    output = found[0] if isinstance(found, tuple) else found
    output.view(-1)[3] = float("nan")
    return found


@pytest.mark.parametrize("operator", served())
def test_a_trial_sees_errors_just_over_the_allowed(operator: str) -> None:
    several = served()[operator].has_offsets
    assert worst(fake(operator, lambda found: found)) <= 1
    assert worst(fake(operator, lambda found: (found[0] * 1.00001, found[1]) if several else found * 1.00001)) > 1
    if served()[operator].num_differentiable:
        assert worst(fake(operator, lambda found: (found[0] * 1.00001, *found[1:]), gradients=True)) > 1
    if operator in ("conv2d_relu", "linear_relu_dropout"):
        assert worst(fake(operator, nan)) == float("inf")
        assert worst(fake(operator, lambda found: (*found[:2], found[2] * 1.00001), gradients=True)) > 1


# By case of augment's: what is done to it otherwise than asked for, by a thousandth of a grey level and more.
FAULTS = {
    "centre crop": {"resize": 17},
    "random crop and colours": {"saturation": (0.6, 1.40001)},
    "turned": {"rotation": (-40.0, 50.01)},
    "no attempt fits": {"ratio": (0.6, 4 / 3)},
    "hue": {"hue": (-0.3, 0.30001)},
    "in depth": {"flip": 0.0},
}


@pytest.mark.parametrize("case", served()["augment"].reference.cases, ids=lambda case: case.label)
def test_a_trial_sees_a_policy_that_is_not_kept(case: Case) -> None:
    real = dispatch.implementation("torch", "augment").forward

    def planted(images: Tensor, sizes: Tensor, seed: Tensor, policy: Policy) -> Tensor:
        return real(images, sizes, seed, replace(policy, **FAULTS[case.label]))

    others = {
        "policy": planted,
        "seed": lambda images, sizes, seed, policy: real(images, sizes, seed + 1, policy),
        "sizes": lambda images, sizes, seed, policy: real(images, sizes - 1, seed, policy),
    }
    if case.label == "centre crop":  # has nothing to draw
        del others["seed"]
    for what, forward in others.items():
        module: Any = types.SimpleNamespace(forward=forward)
        assert worst(trials.Call(served()["augment"], module, case.draw(torch.float32, CPU))) > 1, what


def test_a_trial_sees_what_has_no_error() -> None:
    with pytest.raises(ValueError, match="input's gradient is missing, wanted"):
        worst(fake("dropout", lambda found: (None,), gradients=True))
    with pytest.raises(
        ValueError, match=r"output is \(\(4, 96\), torch.float64\), wanted \(\(4, 96\), torch.float32\)"
    ):
        worst(fake("dropout", lambda found: found.double()))
    with pytest.raises(ValueError, match="maximum outside of the image"):
        worst(fake("max_pool2d", lambda found: (found[0], found[1] + 9)))


def test_rounding_as_tf32_allows_more() -> None:
    def truncate(output: Tensor) -> Tensor:
        return output.view(torch.int32).bitwise_and(-1 << 13).view(torch.float32)

    assert worst(fake("conv2d_relu", truncate)) > 10
    assert worst(fake("conv2d_relu", truncate), "tf32") < 1.5


def test_a_call_does_not_change_the_settings() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with trials.precision("tf32"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_on_a_gpu_every_arithmetic_and_format_is_tried() -> None:
    gpu = torch.device("cuda")
    for operator, reference in ((name, each.reference) for name, each in served().items()):
        found = trials.trials(reference, gpu, simulated=False, thorough=False)
        assert {trial.arithmetic for trial in found} == set(trials.ARITHMETIC), operator
        assert {trial.channels_last for trial in found} == {True, False}
        assert {trial.case for trial in found} == {*reference.cases, *reference.layers}
        every = trials.trials(reference, gpu, simulated=False, thorough=True)
        assert len(every) == 8 * len({trial.case for trial in found}) and set(found) <= set(every)
        assert not {trial.case for trial in trials.trials(reference, CPU, True, True)} & {*reference.layers}


EVERYTHING = " ".join(f"{case}{name}{last}" for case in "ablm" for name in ("32", "t", "16", "b") for last in ("", "-"))


@pytest.mark.parametrize(
    ("device", "simulated", "thorough", "tried"),
    [
        ("cpu", False, False, "a32 a16- ab b32- b16 bb-"),
        ("cpu", True, False, "a32 a16- ab b32- b16 bb-"),
        ("cuda", False, False, "a32 bt- l32- lt- l16- lb- mb-"),
        ("cpu", True, True, "a32 a32- a16 a16- ab ab- b32 b32- b16 b16- bb bb-"),
        ("cpu", False, True, "a32 a32- a16 a16- ab ab- b32 b32- b16 b16- bb bb- l32 l32- m32 m32-"),
        ("cuda", False, True, EVERYTHING),
    ],
)
def test_what_is_tried(device: str, simulated: bool, thorough: bool, tried: str) -> None:
    """By case and arithmetic, - for channels_last; of two cases and two layers."""
    names = {"float32": "32", "tf32": "t", "float16": "16", "bfloat16": "b"}
    a, b, first, second = (Case(label, ((1,),), ()) for label in "ablm")
    reference = served()["dropout"].reference._replace(cases=(a, b), layers=(first, second))
    found = trials.trials(reference, torch.device(device), simulated, thorough)
    words = [f"{one.case.label}{names[one.arithmetic]}{'-' * one.channels_last}" for one in found]
    assert words == tried.split()
