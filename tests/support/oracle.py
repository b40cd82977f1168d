"""What an operator has to compute, in plain torch and differentiable by torch, in any dtype.

The backward is the derivative of the forward that was taken: the ReLU's mask and the winners of pooling windows are the
operator's own (they may differ between dtypes where values nearly tie), and so are dropout's zeros.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern import dispatch
from alexkern.accuracy import assert_accurate
from alexkern.backends.torch import philox
from alexkern.geometry import CLIPPED
from alexkern.ops import seed as seeds
from support.cases import Case, Tensors, each, leaves_of

Arguments = dict[str, Any]


@dataclass
class Choices:
    """What the forward decided."""

    output: Tensor
    keep: Tensor | None = None
    winners: Tensor | None = None  # flat index h * W + w of every window's winner


def plain(case: Case, tensors: Tensors, keep: Tensor | None) -> Tensor:
    """The forward, as a user would write it in torch."""
    if case.operator not in PLAIN:
        raise LookupError(f"tests/support/oracle.py: PLAIN has to say what {case.operator} computes")
    return PLAIN[case.operator](tensors, case.arguments, keep)


def differentiable(case: Case, tensors: Tensors, choices: Choices) -> Tensor:
    """The forward along the choices made, for torch to differentiate."""
    if case.operator not in CHOSEN:
        return plain(case, tensors, choices.keep)
    return CHOSEN[case.operator](tensors, case.arguments, choices)


def choices(case: Case, tensors: Tensors, output: Tensor, backend: str) -> Choices:
    """What a backend chose for these tensors: `output` is what it returned (after torch.manual_seed(0), see keep)."""
    result = Choices(output.detach(), keep(case, tensors))
    if "max_pool2d" in case.operator:
        result.winners = winners(case, tensors, backend)
    return result


def judge(
    case: Case, tensors: Tensors, output: Tensor, backend: str, grad: Tensor, scaled: bool = False
) -> Callable[[Tensor, Tensors, str], None]:
    """Holds outputs, and gradients of these tensors for `grad`, to the accuracy rule along what `backend` chose.

    scaled: by the sums of the terms' magnitudes, which are those of the tensors' magnitudes.
    """
    made = choices(case, tensors, output, backend)

    def torchs(dtype: torch.dtype, given: Tensors) -> Tensors:
        *own, incoming = each(lambda tensor: tensor.to(dtype), given)
        leaves = leaves_of(own)
        there = [leaf for leaf in leaves if leaf is not None]
        found = iter(torch.autograd.grad(differentiable(case, leaves, made), there, incoming))
        return [plain(case, leaves, made.keep).detach(), *each(lambda _: next(found), leaves)]

    given = [*tensors, grad]
    results = [torchs(torch.float64, given), torchs(grad.dtype, given)]
    results += [torchs(torch.float64, each(torch.abs, given)) if scaled else [None] * len(given)]

    def hold(output: Tensor, grads: Tensors, what: str = "") -> None:
        names = ("output", "input's gradient", "weight's gradient", "bias's gradient")[: len(given)]
        for name, ours, *wanted in zip(names, [output, *grads], *results, strict=True):
            assert (ours is None) == (wanted[0] is None), name
            if ours is not None:
                assert_accurate(ours, wanted[0], wanted[1], name + what, wanted[2])

    return hold


def keep(case: Case, tensors: Tensors) -> Tensor | None:
    """What dropout keeps when torch.manual_seed(0) comes right before the call; None where it is not active."""
    p = case.arguments.get("p", 0.5)
    if "dropout" not in case.operator or not case.arguments.get("training", True) or p == 0:
        return None
    input = tensors[0]
    assert input is not None
    torch.manual_seed(0)
    seed = seeds.draw(input.device)
    like = input if case.operator == "dropout" else F.linear(*tensors)  # type: ignore[arg-type]
    return philox.keep(seed, p, tuple(like.shape), torch.empty_like(like).stride())


def winners(case: Case, tensors: Tensors, backend: str) -> Tensor:
    """The backend's own offsets, as flat indices into the image that is pooled; any for what its ReLU clipped."""
    detached = each(lambda tensor: tensor.detach().resolve_neg(), tensors)
    recorded: list[Tensor] = []

    def record(*args: Any) -> Any:
        """In place of the operator, on its direct route."""
        values, offsets = dispatch.resolve(case.operator, args[0]).forward(*args[:-1], True)
        recorded.extend((offsets, values))
        return values

    module = importlib.import_module(f"alexkern.ops.{case.operator}")
    with mock.patch.object(module, "OPERATOR", record), dispatch.backend(backend):
        case.call(*detached)
    offsets, values = recorded
    get = case.arguments.get
    if case.operator == "max_pool2d":
        image, size, dilation = detached[0], get("kernel_size"), _pair(get("dilation", 1))
        kernel_size, stride, padding = map(_pair, (size, get("stride") or size, get("padding", 0)))
    else:
        image, dilation = F.conv2d(*detached, **_convolution(case.arguments)), (1, 1)  # type: ignore[arg-type]
        kernel_size, stride, padding = map(_pair, _window(case.arguments))
    assert image is not None
    clipped = torch.zeros_like(offsets, dtype=torch.bool)
    if case.operator == "conv2d_relu_max_pool2d":
        clipped = offsets == CLIPPED[offsets.dtype]
        assert torch.equal(clipped, values <= 0), "only what the ReLU clipped has no winner"
    offsets = offsets.to(torch.int64)
    h = torch.arange(offsets.shape[-2], device=offsets.device).unsqueeze(1) * stride[0] - padding[0]
    w = torch.arange(offsets.shape[-1], device=offsets.device) * stride[1] - padding[1]
    h = h + offsets // kernel_size[1] * dilation[0]
    w = w + offsets % kernel_size[1] * dilation[1]
    inside = (h >= 0) & (h < image.shape[-2]) & (w >= 0) & (w < image.shape[-1])
    assert bool((inside | clipped).all()), "a winner in the padding"
    return (h * image.shape[-1] + w).masked_fill(clipped, 0).reshape(*image.shape[:-2], *offsets.shape[-2:])


def _convolution(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if not name.startswith("pool_")}


def _window(arguments: dict[str, Any]) -> tuple[Any, Any, Any]:
    get = arguments.get
    return get("pool_kernel_size", 3), get("pool_stride", 2), get("pool_padding", 0)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _take(image: Any, indices: Any) -> Tensor:
    return image.flatten(-2).gather(-1, indices.flatten(-2)).reshape(indices.shape)


def _drop(value: Any, keep: Tensor | None, arguments: dict[str, Any]) -> Tensor:
    if keep is None:
        return value
    p = arguments.get("p", 0.5)
    return value * (keep.to(value.dtype) * (1 / (1 - p) if p < 1 else 0.0))


def _passes(choices: Choices) -> Tensor:
    """Where the ReLU let a value through."""
    return ~(choices.output <= 0)


def _local_response_norm(input: Tensor, arguments: Arguments) -> Tensor:
    if input.device.type == "cpu" and input.dtype in (torch.float16, torch.bfloat16):
        # torch has no pooling in half precision on a CPU: float32 and one rounding is the strictest stand-in.
        return F.local_response_norm(input.float(), **arguments).to(input.dtype)
    return F.local_response_norm(input, **arguments)


PLAIN: dict[str, Callable[[Any, Arguments, Tensor | None], Tensor]] = {
    "conv2d_relu": lambda t, a, _: F.relu(F.conv2d(*t, **a)),
    "conv2d_relu_max_pool2d": lambda t, a, _: F.max_pool2d(F.relu(F.conv2d(*t, **_convolution(a))), *_window(a)),
    "max_pool2d": lambda t, a, _: F.max_pool2d(*t, **a),
    "dropout": lambda t, a, keep: _drop(*t, keep, a),
    "linear_relu_dropout": lambda t, a, keep: _drop(F.relu(F.linear(*t)), keep, a),
    "local_response_norm": lambda t, a, _: _local_response_norm(*t, a),
}
# Of the operators that choose along the way.
CHOSEN: dict[str, Callable[[Any, Arguments, Choices], Tensor]] = {
    "conv2d_relu": lambda t, a, c: F.conv2d(*t, **a) * _passes(c),
    "conv2d_relu_max_pool2d": lambda t, a, c: _take(F.conv2d(*t, **_convolution(a)), c.winners) * _passes(c),
    "max_pool2d": lambda t, a, c: _take(*t, c.winners),
    "linear_relu_dropout": lambda t, a, c: _drop(F.linear(*t) * _passes(c), c.keep, a),
}
