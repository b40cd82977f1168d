"""What an operator has to compute, in plain torch and differentiable by torch, in any dtype.

The backward is the derivative of the forward that was taken: the ReLU's mask and the winners of pooling windows are the
operator's own (they may differ between dtypes where values nearly tie), and so are dropout's zeros.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern import dispatch
from alexkern.backends.torch import philox
from alexkern.geometry import CLIPPED
from alexkern.ops import seed as seeds
from support.cases import Case

Tensors = list[Tensor | None]
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
    result = Choices(output.detach())
    if "dropout" in case.operator:
        result.keep = keep(case, tensors)
    if "max_pool2d" in case.operator:
        result.winners = winners(case, tensors, backend)
    return result


def keep(case: Case, tensors: Tensors) -> Tensor | None:
    """What dropout keeps when torch.manual_seed(0) comes right before the call; None where it is not active."""
    p = case.arguments.get("p", 0.5)
    if not case.arguments.get("training", True) or p == 0:
        return None
    input = tensors[0]
    assert input is not None
    torch.manual_seed(0)
    seed = seeds.draw(input.device)
    like = input if case.operator == "dropout" else F.linear(*tensors)  # type: ignore[arg-type]
    return philox.keep(seed, p, tuple(like.shape), torch.empty_like(like).stride())


def winners(case: Case, tensors: Tensors, backend: str) -> Tensor:
    """The backend's own offsets, as flat indices into the image that is pooled; any for what its ReLU clipped."""
    detached = [None if tensor is None else tensor.detach().resolve_neg() for tensor in tensors]
    recorded: list[Tensor] = []

    def record(module: Any, *args: Any) -> Any:
        values, offsets = module.forward(*args[:-1], True)
        recorded.extend((offsets, values))
        return values

    with _calling(case.operator, record), dispatch.backend(backend):
        case.call(*detached)
    offsets, values = recorded
    arguments = case.arguments
    if case.operator == "max_pool2d":
        kernel_size = _pair(arguments["kernel_size"])
        stride = _pair(arguments.get("stride") or kernel_size)
        padding, dilation = _pair(arguments.get("padding", 0)), _pair(arguments.get("dilation", 1))
        image = detached[0]
    else:
        kernel_size, stride, padding = (_pair(value) for value in _window(arguments))
        dilation = (1, 1)
        image = F.conv2d(*detached, **_convolution(arguments))  # type: ignore[arg-type]
    assert image is not None
    if case.operator == "conv2d_relu_max_pool2d":
        clipped = offsets == CLIPPED[offsets.dtype]
        assert torch.equal(clipped, values <= 0), "only what the ReLU clipped has no winner"
    else:
        clipped = torch.zeros_like(offsets, dtype=torch.bool)
    offsets = offsets.to(torch.int64)
    h = torch.arange(offsets.shape[-2], device=offsets.device).unsqueeze(1) * stride[0] - padding[0]
    w = torch.arange(offsets.shape[-1], device=offsets.device) * stride[1] - padding[1]
    h = h + offsets // kernel_size[1] * dilation[0]
    w = w + offsets % kernel_size[1] * dilation[1]
    inside = (h >= 0) & (h < image.shape[-2]) & (w >= 0) & (w < image.shape[-1])
    assert bool((inside | clipped).all()), "a winner in the padding"
    return (h * image.shape[-1] + w).masked_fill(clipped, 0).reshape(*image.shape[:-2], *offsets.shape[-2:])


class _calling:
    """Within the block an operator's direct route goes to `function` instead of the backend."""

    def __init__(self, operator: str, function: Any):
        self.module = importlib.import_module(f"alexkern.ops.{operator}")
        self.function = function

    def __enter__(self) -> None:
        operator, function = self.module.OPERATOR, self.function
        self.operator = operator

        def call(*args: Any) -> Tensor:
            result: Tensor = function(dispatch.resolve(operator.name, args[0]), *args)
            return result

        self.module.OPERATOR = call

    def __exit__(self, *_: Any) -> None:
        self.module.OPERATOR = self.operator


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
