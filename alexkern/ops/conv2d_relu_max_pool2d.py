"""conv2d_relu_max_pool2d: max_pool2d(relu(conv2d(input, weight, bias))), which never keeps the convolution's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_variadic

from alexkern.geometry import Pair
from alexkern.ops.conv2d_relu import conv2d_relu
from alexkern.ops.convolution import SETTINGS, convolution_arguments, convolution_of, geometry_of, misfit_of
from alexkern.ops.description import FILTER, IMAGE, Example
from alexkern.ops.max_pool2d import max_pool2d
from alexkern.ops.operator import Operator
from alexkern.ops.pooling import unbatched
from alexkern.plan import Spec, conv2d_relu_max_pool2d_outputs
from alexkern.references.conv2d_relu_max_pool2d import REFERENCE

POOLING = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_ceil_mode")
WINDOW = "int[2] pool_kernel_size, int[2] pool_stride, int[2] pool_padding"


def conv2d_relu_max_pool2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    *,
    pool_kernel_size: int | Pair = 3,
    pool_stride: int | Pair = 2,
    pool_padding: int | Pair = 0,
    pool_ceil_mode: bool = False,
) -> Tensor:
    """2-D convolution, bias, ReLU and max-pooling, fused: AlexNet's layers 1, 2 and 5.

    ``max_pool2d(conv2d_relu(input, weight, bias, ...), pool_kernel_size, pool_stride, pool_padding)``, to the letter:
    values are rounded to the output's dtype first and compared then. Layers and overlapping windows are those of
    sections 3.4 and 3.5 of the paper (Krizhevsky, Sutskever, Hinton 2012). Where pool_ceil_mode makes the output larger
    it is those two operators, one after the other.

    Args:
        input, weight, bias, stride, padding, dilation, groups: as in :func:`conv2d_relu`.
        pool_kernel_size, pool_stride, pool_padding, pool_ceil_mode: as in :func:`max_pool2d`.

    Returns:
        Tensor of shape (N, K, P, Q) or (K, P, Q), the pooled sizes; channels_last if input or weight is, else
        contiguous.

    Saved for backward: input, weight, and one uint8 window offset per output (int32 for windows of over 255 pixels), of
    which one value says that the ReLU clipped the winner; never the convolution's output, nor the pooled one.

    Raises:
        TypeError: an argument of the wrong type.
        ArgumentError: (a ValueError and a RuntimeError) a shape, dtype, device or number that does not fit.
    """
    name, pooling = "conv2d_relu_max_pool2d", (pool_kernel_size, pool_stride, pool_padding, bool(pool_ceil_mode))
    of = (input, weight, bias, stride, padding, dilation, groups)
    if has_torch_function_variadic(input, weight, bias):
        keywords: dict[str, Any] = dict(zip(POOLING, pooling, strict=True))
        return handle_torch_function(conv2d_relu_max_pool2d, of[:3], *of, **keywords)
    args = convolution_arguments(name, *of, pooling)
    if args[-1]:  # windows that reach beyond the convolution's output are no kernel's
        return max_pool2d(conv2d_relu(*of), *pooling[:3], ceil_mode=True)
    if args[0].dim() == 3:
        return unbatched(OPERATOR(args[0].unsqueeze(0), *args[1:]))
    return OPERATOR(*args)  # whose last, save_offsets, is False as well


class Conv2dReluMaxPool2d(Operator):
    name = "conv2d_relu_max_pool2d"
    schema = f"Tensor input, Tensor weight, Tensor? bias, {SETTINGS}, {WINDOW}, bool save_offsets"
    backward_schema = f"Tensor input, Tensor weight, Tensor offsets, {SETTINGS}, {WINDOW}"
    layers = ((nn.Conv2d, nn.ReLU, nn.MaxPool2d), (nn.Conv2d, nn.MaxPool2d, nn.ReLU))  # ReLU is monotone
    reference = REFERENCE
    example = Example((IMAGE, FILTER, (8,)), (), ((1, 1), (0, 0), (1, 1), 1, (3, 3), (2, 2), (0, 0), False))

    def misfit(self, *modules: Any) -> str | None:
        conv, pool = _without_relu(*modules)
        if pool.dilation not in (1, (1, 1)) or pool.return_indices:
            return "the pooling's dilation or return_indices"
        return misfit_of(conv)

    def arguments(self, *modules: Any) -> dict[str, Any]:
        conv, pool = _without_relu(*modules)
        values = pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode
        return convolution_of(conv) | dict(zip(POOLING, values, strict=True))

    def gains(self, backend: Any, images: Sequence[int], *modules: Any) -> bool:
        return bool(backend.gains(geometry_of(images, modules[0]), modules[0].weight.dtype))

    def plan(self, *args: Any) -> tuple[Spec, ...]:
        return conv2d_relu_max_pool2d_outputs(*args)

    def save(self, args: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return (args[0], args[1], outputs[1]), args[3:-1]


def _without_relu(conv: Any, *behind: Any) -> tuple[Any, Any]:
    return conv, next(layer for layer in behind if "kernel_size" in vars(layer))  # hasattr takes twenty times as long


OPERATOR = Conv2dReluMaxPool2d()
