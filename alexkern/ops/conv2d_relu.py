"""conv2d_relu: relu(conv2d(input, weight, bias)), one pass over the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_variadic

from alexkern.geometry import Pair
from alexkern.ops.convolution import SETTINGS, SPELLINGS, convolution_arguments, convolution_of, geometry_of, misfit_of
from alexkern.ops.description import FILTER, IMAGE, Example
from alexkern.ops.operator import Operator
from alexkern.plan import Spec, conv2d_relu_output
from alexkern.references.conv2d_relu import REFERENCE


def conv2d_relu(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution, bias and ReLU, fused.

    The arguments are those of :func:`torch.nn.functional.conv2d`; ReLU after every convolution is the paper's section
    3.1 (Krizhevsky, Sutskever, Hinton 2012). Products accumulate in float32 (float64 for float64), and there is one
    rounding, to the output's dtype, after bias and ReLU. NaN passes through and ReLU(-0.0) is -0.0, as in torch.

    Args:
        input: images of shape (N, C, H, W) or (C, H, W); float32, float16, bfloat16 or, on the torch backend, float64.
        weight: filters of shape (K, C // groups, R, S), in input's dtype.
        bias: shape (K,), in input's dtype, or None.
        stride, padding, dilation: in pixels, one int for both directions or a (vertical, horizontal) pair; padding
            may also be "valid" or, with stride 1, "same".
        groups: number of groups that channels and filters are split into.

    Returns:
        Tensor of shape (N, K, P, Q) or (K, P, Q), P = (H + 2 * padding - dilation * (R - 1) - 1) // stride + 1;
        channels_last if input or weight is, else contiguous.

    Saved for backward: input, weight and output (the ReLU mask is read off it).

    Raises:
        TypeError: an argument of the wrong type.
        ArgumentError: (a ValueError and a RuntimeError) a shape, dtype, device or number that does not fit.
    """
    of = (input, weight, bias, stride, padding, dilation, groups)
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(conv2d_relu, of[:3], *of)
    args = convolution_arguments("conv2d_relu", *of)
    if args[0].dim() == 3:
        return OPERATOR(args[0].unsqueeze(0), *args[1:]).squeeze(0)
    return OPERATOR(*args)


class Conv2dRelu(Operator):
    name = "conv2d_relu"
    schema = f"Tensor input, Tensor weight, Tensor? bias, {SETTINGS}"
    backward_schema = f"Tensor input, Tensor weight, Tensor output, {SETTINGS}"
    layers = ((nn.Conv2d, nn.ReLU),)
    spellings = SPELLINGS
    reference = REFERENCE
    example = Example((IMAGE, FILTER, (8,)), (), ((1, 1), (0, 0), (1, 1), 1))

    def misfit(self, *modules: Any) -> str | None:
        return misfit_of(modules[0])

    def arguments(self, *modules: Any) -> dict[str, Any]:
        return convolution_of(modules[0])

    def gains(self, backend: Any, images: Sequence[int], *modules: Any) -> bool:
        return bool(backend.gains(geometry_of(images, modules[0]), modules[0].weight.dtype))

    def plan(self, *args: Any) -> tuple[Spec, ...]:
        return (conv2d_relu_output(*args),)

    def save(self, args: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        input, weight, _, *params = args
        return (input, weight, outputs[0]), tuple(params)


OPERATOR = Conv2dRelu()
