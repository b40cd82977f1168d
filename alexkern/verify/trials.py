"""What is tried of an operator, and one trial: values and gradients of a backend against float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from alexkern.accuracy import error_and_allowed
from alexkern.arithmetic import ARITHMETIC, precision
from alexkern.augmentation import Policy
from alexkern.ops.description import Description
from alexkern.references.reference import Case, Reference

SIMULATED = ("cuda", "triton")  # on a CPU, where they run in an emulator and an interpreter
TENSORS = ("input", "weight", "bias")


@dataclass(frozen=True)
class Trial:
    case: Case
    arithmetic: str
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.case.label} in {self.arithmetic}{', channels_last' if self.channels_last else ''}"


def arithmetics(device: torch.device) -> list[str]:
    return [name for name in ARITHMETIC if name != "tf32" or device.type == "cuda"]


def trials(reference: Reference, device: torch.device, simulated: bool, thorough: bool) -> list[Trial]:
    """Every case in memory formats by turns. On a GPU, where each is compiled anew, an arithmetic each, and the layers:
    the one that is timed in all. Thorough: everything that there is, but no layer where kernels are simulated, and on a
    CPU, where 16 bits take minutes, layers in float32 alone."""
    names, gpu = arithmetics(device), device.type == "cuda"
    cases = list(enumerate(reference.cases))
    layers = [] if simulated or not (gpu or thorough) else list(reference.layers)
    if thorough:
        pairs = [(case, name) for case in reference.cases for name in names]
        pairs += [(layer, name) for layer in layers for name in (names if gpu else ["float32"])]
        return [Trial(case, name, last) for case, name in pairs for last in (False, True)]
    found = [
        Trial(case, name, (index + number) % 2 == 1)
        for index, case in cases
        for number, name in enumerate([names[index % len(names)]] if gpu else names)
    ]
    found += [Trial(layer, name, True) for layer in layers[:1] for name in names]
    return found + [Trial(layer, "bfloat16", True) for layer in layers[1:]]


@dataclass(frozen=True)
class Call:
    """A backend's forward and backward pass as autograd calls them."""

    operator: Description
    module: ModuleType
    args: tuple[Any, ...]

    def forward(self) -> tuple[Tensor, ...]:
        outputs: Any = self.module.forward(*self.args)
        return tuple(outputs) if self.operator.has_offsets else (outputs,)

    def backward(self, outputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, params = self.operator.save(self.args, outputs)
        needs = tuple(tensor is not None for tensor in self.args[: self.operator.num_differentiable])
        return tuple(self.module.backward(grad, *saved, *params, needs))


def check(call: Call, reference: Reference, arithmetic: str) -> Iterator[tuple[str, float, float]]:
    """(what, its largest error, the allowed one) of the output, then of every gradient; NaN is an infinite error.

    Raises:
        ValueError: a result of the wrong shape or dtype, or none, or a maximum outside of its image.
    """
    count, dtype, tf32 = call.operator.num_differentiable, ARITHMETIC[arithmetic][0], arithmetic == "tf32"
    with precision(arithmetic):
        outputs = call.forward()
    doubles, torchs = converted(call.args, torch.float64), converted(call.args, dtype, tf32)
    with precision("float32"), torch.no_grad():
        yield compare("output", outputs[0], reference.forward(*doubles), reference.forward(*torchs))
    if count == 0:
        return
    grad = gradient_like(outputs[0])
    (rounded,) = converted((grad,), dtype, tf32)
    with precision("float32"):  # before the backend's backward, which trusts the places of the maxima
        wanted = gradients(reference, outputs, doubles, count, grad.double())
        allowed = gradients(reference, outputs, torchs, count, rounded)
    with precision(arithmetic):
        grads = call.backward(outputs, grad)
    for index, name in enumerate(TENSORS[:count]):
        if wanted[index] is not None:
            yield compare(f"{name}'s gradient", grads[index], wanted[index], allowed[index])


def gradient_like(output: Tensor) -> Tensor:
    """Normal values, laid out as the output."""
    values = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return torch.empty_like(output).copy_(values)


def converted(args: tuple[Any, ...], dtype: torch.dtype, truncated: bool = False) -> tuple[Any, ...]:
    """Copies in another dtype of the tensors of numbers, and of what they become; `truncated` to the 10 bits behind the
    point that TF32 has."""

    def convert(value: Any) -> Any:
        if isinstance(value, Policy):
            return replace(value, dtype=dtype)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        copy = value.detach().to(dtype, copy=True)
        return copy.view(torch.int32).bitwise_and_(-1 << 13).view(dtype) if truncated else copy

    return tuple(convert(value) for value in args)


def gradients(
    reference: Reference, outputs: tuple[Tensor, ...], args: tuple[Any, ...], count: int, grad: Tensor
) -> list[Any]:
    leaves = [tensor for tensor in args[:count] if tensor is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    found = iter(torch.autograd.grad(reference.chosen(outputs, *args), leaves, grad))
    return [None if tensor is None else next(found) for tensor in args[:count]]


def compare(what: str, ours: Tensor | None, wanted: Tensor, torchs: Tensor) -> tuple[str, float, float]:
    came = None if ours is None else (tuple(ours.shape), ours.dtype)
    if ours is None or came != (tuple(wanted.shape), torchs.dtype):
        raise ValueError(f"{what} is {came or 'missing'}, wanted {(tuple(wanted.shape), torchs.dtype)}")
    error, allowed = error_and_allowed(ours, wanted, torchs)
    return what, error if math.isfinite(error) else math.inf, allowed
