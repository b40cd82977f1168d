"""max_pool2d: the maximum of every window, and one byte that says where it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from alexkern.errors import argument_error
from alexkern.geometry import Pair, pooling
from alexkern.ops import checks
from alexkern.ops.description import IMAGE, Example
from alexkern.ops.layer import Layer
from alexkern.ops.operator import Operator
from alexkern.ops.pooling import Window, rounded_up, unbatched, window_arguments
from alexkern.plan import Spec, is_channels_last, nchw, pooled
from alexkern.references.max_pool2d import REFERENCE

WINDOW = "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode"  # of a schema


def max_pool2d(
    input: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Max-pooling with a backward that needs one byte per output.

    The arguments are those of :func:`torch.nn.functional.max_pool2d` without return_indices. With kernel_size 3 and
    stride 2 the windows overlap: the paper's section 3.4. NaN wins a window (the last one does), otherwise the first of
    equal values; a window of -inf alone has its first position.

    Args:
        input: shape (N, C, H, W) or (C, H, W); float32, float16, bfloat16 or, on the torch backend, float64.
        kernel_size, stride, padding, dilation: in pixels, one int for both directions or a (vertical, horizontal)
            pair; stride is kernel_size where None; padding is at most half of kernel_size.
        ceil_mode: round the output size up instead of down.

    Returns:
        Tensor of shape (N, C, P, Q) or (C, P, Q), channels_last if input is, else contiguous.

    Saved for backward: one window offset per output, uint8 (int32 for windows of over 256 pixels).

    Raises:
        TypeError: an argument of the wrong type.
        ArgumentError: (a ValueError and a RuntimeError) a shape, dtype or number that does not fit.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(max_pool2d, (input,), input, kernel_size, stride, padding, dilation, ceil_mode)
    checks.floating("max_pool2d", "input", input)
    checks.image("max_pool2d", input.shape)
    window = window_arguments("max_pool2d", kernel_size, stride, padding, dilation)
    args = checks.remembered(_checked_shape, input, (input.shape, window, bool(ceil_mode)))
    if input.dim() == 3:
        # Unbatched results are contiguous in torch, whatever the input's strides.
        return unbatched(OPERATOR(input.contiguous().unsqueeze(0), *args))
    return OPERATOR(input, *args)


def _checked_shape(shape: tuple[int, ...], window: Window, ceil_mode: bool) -> tuple[Any, ...]:
    """What the operator takes behind images, once their shape and the windows are found to fit."""
    C, H, W = shape[-3:]
    if C == 0:
        raise argument_error("max_pool2d", "input", f"shape {tuple(shape)}", "of at least one channel")
    rounded_up("max_pool2d", (H, W), *window, ceil_mode)
    return *window, ceil_mode, False


def read(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Layer:  # fmt: skip
    settings = {"kernel_size": kernel_size, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    stride = kernel_size if stride is None or stride in ((), []) else stride
    return Layer(kind=nn.MaxPool2d, stride=stride, return_indices=return_indices, **settings)


class MaxPool2d(Operator):
    name = "max_pool2d"
    schema = f"Tensor input, {WINDOW}, bool save_offsets"
    backward_schema = f"Tensor offsets, SymInt[4] input_shape, bool channels_last, {WINDOW}"
    layers = ((nn.MaxPool2d,),)
    spellings = {F.max_pool2d: read, torch.max_pool2d: read}
    reference = REFERENCE
    example = Example((IMAGE,), (3, 2), ((3, 3), (2, 2), (0, 0), (1, 1), False, False))

    def misfit(self, *modules: Any) -> str | None:
        return "return_indices" if modules[0].return_indices else None

    def arguments(self, *modules: Any) -> dict[str, Any]:
        (pool,) = modules
        return {"kernel_size": pool.kernel_size, "stride": pool.stride, "padding": pool.padding,
                "dilation": pool.dilation, "ceil_mode": pool.ceil_mode}  # fmt: skip

    def gains(self, backend: Any, images: Sequence[int], *modules: Any) -> bool:
        return bool(backend.gains(images))

    def plan(self, *args: Any) -> tuple[Spec, ...]:
        input, *window, ceil_mode, save_offsets = args
        return pooled(pooling(input.shape, *window), input.dtype, is_channels_last(input), ceil_mode, save_offsets)

    def plan_backward(self, grad: Tensor, *args: Any) -> tuple[Spec, ...]:
        _, input_shape, channels_last, *_ = args
        return (nchw(input_shape, grad.dtype, channels_last),)

    def save(self, args: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        input, *window, _ = args
        return (outputs[1],), (input.shape, is_channels_last(input), *window)


OPERATOR = MaxPool2d()
