"""What conv2d_relu and conv2d_relu_max_pool2d share: checks, autocast, output shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern.errors import argument_error
from alexkern.geometry import Geometry, Pair
from alexkern.ops import checks
from alexkern.ops.autocast import autocast
from alexkern.ops.layer import Layer, example
from alexkern.ops.pooling import rounded_up, window_arguments

Shape = tuple[int, ...]
Pooling = tuple[Any, Any, Any, bool]  # kernel_size, stride, padding, ceil_mode
SETTINGS = "int[2] stride, int[2] padding, int[2] dilation, int groups"  # of a schema


def convolution_of(conv: nn.Conv2d) -> dict[str, Any]:
    """The arguments of a convolution that has a layer's weight and settings."""
    parameters = conv._parameters  # where torch's __getattr__ finds them too, in three times as long
    return {"weight": parameters["weight"], "bias": parameters["bias"], "stride": conv.stride,
            "padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups}  # fmt: skip


def read(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Layer:
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": "zeros"}
    parameters = {"weight": weight, "bias": bias}
    return Layer(kind=nn.Conv2d, _parameters=parameters, in_channels=example(weight).shape[1] * groups, **settings)


SPELLINGS = {torch.conv2d: read, F.conv2d: read}


def geometry_of(images: Sequence[int], conv: Any) -> Geometry:
    """Of a layer over images of a shape; padding "same" as if it were symmetric."""
    N, C, H, W = images if len(images) == 4 else (1, *images)
    K, _, R, S = conv.weight.shape
    stride, dilation = (checks.pair("conv2d", name, getattr(conv, name), 1) for name in ("stride", "dilation"))
    padding = conv.padding if conv.padding != "valid" else 0
    padding = (dilation[0] * (R - 1) // 2, dilation[1] * (S - 1) // 2) if padding == "same" else padding
    return Geometry(N, C, H, W, K, R, S, stride, checks.pair("conv2d", "padding", padding, 0), dilation, conv.groups)


def misfit_of(conv: nn.Conv2d) -> str | None:
    """What keeps a layer from being one of the operators' convolutions; without channels in, torch's has none out."""
    return "padding_mode" if conv.padding_mode != "zeros" else None if conv.in_channels else "in_channels"


def convolution_arguments(
    operator: str, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any,
    pooling: Pooling | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """The arguments as the kernels want them: autocast applied, pairs of ints.

    pooling: of what follows, for which the output has to be large enough; it comes last in the result, ceil_mode as
    whether it makes a difference.
    """
    if torch._C._is_any_autocast_enabled():
        checks.floating(operator, "input", input)
        input, weight, bias = autocast(input, weight, bias)
    checks.operands(operator, input, weight, bias)
    # Numbers that can be looked up as they are, the usual ones, become pairs where they are first seen.
    if not type(stride) is type(padding) is type(dilation) is type(groups) is int:
        groups = checks.integer(operator, "groups", groups)
        stride = checks.pair(operator, "stride", stride, 1)
        dilation = checks.pair(operator, "dilation", dilation, 1)
        if type(padding) is str:
            input, padding = _named_padding(operator, input, weight, stride, padding, dilation)
        else:
            padding = checks.pair(operator, "padding", padding, 0)
    if pooling is not None and not type(pooling[0]) is type(pooling[1]) is type(pooling[2]) is int:
        pooling = *window_arguments(operator, *pooling[:3], 1, prefix="pool_")[:3], pooling[3]
    filters = weight.shape
    key = (
        operator,
        input.shape,
        filters,
        None if bias is None else bias.shape,
        pooling,
        stride,
        padding,
        dilation,
        groups,
    )
    checked = checks.remembered(_checked_numbers, input, key)
    if filters[1] == 0:  # no products: the bias alone, as of one channel of zeros a group
        input, weight = F.pad(input, (0, 0, 0, 0, 0, groups)), F.pad(weight, (0, 0, 0, 0, 0, 1))
    return input, weight, bias, *checked


def _checked_numbers(
    operator: str, input: Shape, weight: Shape, bias: Shape | None, pooling: Pooling | None, *numbers: Any
) -> tuple[Any, ...]:
    """The numbers, as pairs and groups, once they and the shapes are found to fit."""
    stride, padding, dilation, groups = numbers
    stride = checks.pair(operator, "stride", stride, 1)
    padding = checks.pair(operator, "padding", padding, 0)
    dilation = checks.pair(operator, "dilation", dilation, 1)
    checks.image(operator, input)
    if len(weight) != 4:
        raise argument_error(operator, "weight", f"shape {tuple(weight)}", "(K, C // groups, R, S)")
    if groups < 1:
        raise argument_error(operator, "groups", groups, "at least 1")
    K, group_channels, R, S = weight
    C, H, W = input[-3:]
    if C != group_channels * groups:
        raise argument_error(
            operator,
            "input's channels",
            f"{C} in shape {tuple(input)}",
            f"weight.shape[1] * groups = {group_channels} * {groups} (weight {tuple(weight)})",
        )
    if K % groups != 0 or K == 0:
        raise argument_error(operator, "weight.shape[0]", K, f"a positive multiple of groups ({groups})")
    if R == 0 or S == 0:
        raise argument_error(operator, "weight", f"shape {tuple(weight)}", "a filter of at least 1x1")
    if bias is not None and (len(bias) != 1 or bias[0] != K):
        raise argument_error(operator, "bias", f"shape {tuple(bias)}", f"({K},), one value per filter")
    geometry = Geometry(1, C, H, W, K, R, S, stride, padding, dilation, groups)
    if geometry.P < 1 or geometry.Q < 1:
        raise argument_error(
            operator,
            "input",
            f"shape {tuple(input)} with padding {padding}",
            f"at least as large as the dilated {R}x{S} filter (dilation {dilation})",
        )
    if pooling is None:
        return stride, padding, dilation, groups
    window = window_arguments(operator, *pooling[:3], 1, prefix="pool_")
    larger = rounded_up(operator, (geometry.P, geometry.Q), *window, pooling[3])
    return stride, padding, dilation, groups, *window[:3], larger


def _named_padding(
    operator: str, input: Tensor, weight: Tensor, stride: Pair, padding: str, dilation: Pair
) -> tuple[Tensor, Pair]:
    """torch's "valid" and "same". An odd total goes to the right and the bottom, and needs an explicit pad."""
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise argument_error(operator, "padding", repr(padding), "'same', 'valid' or ints")
    if stride != (1, 1):
        raise argument_error(operator, "padding", f"'same' with stride {stride}", "'same' with stride 1 only")
    total = [dilation[axis] * (size - 1) for axis, size in enumerate(weight.shape[2:])]
    if total[0] % 2 or total[1] % 2:
        input = F.pad(input, (0, total[1] % 2, 0, total[0] % 2))
    return input, (total[0] // 2, total[1] // 2)
