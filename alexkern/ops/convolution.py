"""What conv2d_relu and conv2d_relu_max_pool2d share: checks, autocast, output shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.ops import checks
from alexkern.ops.autocast import to_autocast_dtype
from alexkern.ops.errors import argument_error

Pair = tuple[int, int]


def output_size(size: int, kernel_size: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1


def convolved_size(input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """(P, Q), the convolution's output."""
    P, Q = (
        output_size(input.shape[axis], weight.shape[axis], stride[axis], padding[axis], dilation[axis])
        for axis in (-2, -1)
    )
    return P, Q


def convolution_arguments(
    operator: str, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[Any, ...]:
    """The arguments as the kernels want them: autocast applied, a batch of images, pairs of ints."""
    checks.floating(operator, "input", input)
    checks.floating(operator, "weight", weight)
    if torch._C._is_any_autocast_enabled():
        input, weight, bias = to_autocast_dtype(input, weight, bias)
    checks.image(operator, input)
    checks.like_input(operator, "weight", weight, input)
    if weight.dim() != 4:
        raise argument_error(operator, "weight", f"shape {tuple(weight.shape)}", "(K, C // groups, R, S)")
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f"alexkern.{operator}: groups must be an int, got {groups!r}")
    if groups < 1:
        raise argument_error(operator, "groups", groups, "at least 1")
    K, group_channels, R, S = weight.shape
    C, H, W = input.shape[-3:]
    if C != group_channels * groups:
        raise argument_error(
            operator,
            "input's channels",
            f"{C} in shape {tuple(input.shape)}",
            f"weight.shape[1] * groups = {group_channels} * {groups} (weight {tuple(weight.shape)})",
        )
    if K % groups != 0 or K == 0:
        raise argument_error(operator, "weight.shape[0]", K, f"a positive multiple of groups ({groups})")
    if R == 0 or S == 0:
        raise argument_error(operator, "weight", f"shape {tuple(weight.shape)}", "a filter of at least 1x1")
    if bias is not None:
        checks.like_input(operator, "bias", bias, input)
        if bias.dim() != 1 or bias.shape[0] != K:
            raise argument_error(operator, "bias", f"shape {tuple(bias.shape)}", f"({K},), one value per filter")
    stride = checks.pair(operator, "stride", stride, 1)
    dilation = checks.pair(operator, "dilation", dilation, 1)
    if isinstance(padding, str):
        input, padding = _named_padding(operator, input, (R, S), stride, padding, dilation)
        H, W = input.shape[-2:]
    else:
        padding = checks.pair(operator, "padding", padding, 0)
    for axis, size, kernel in ((0, H, R), (1, W, S)):
        if size + 2 * padding[axis] < dilation[axis] * (kernel - 1) + 1:
            raise argument_error(
                operator,
                "input",
                f"shape {tuple(input.shape)} with padding {padding}",
                f"at least as large as the dilated {R}x{S} filter (dilation {dilation})",
            )
    return input, weight, bias, stride, padding, dilation, groups


def _named_padding(
    operator: str, input: Tensor, kernel_size: Pair, stride: Pair, padding: str, dilation: Pair
) -> tuple[Tensor, Pair]:
    """torch's "valid" and "same". An odd total goes to the right and the bottom, and needs an explicit pad."""
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise argument_error(operator, "padding", repr(padding), "'same', 'valid' or ints")
    if stride != (1, 1):
        raise argument_error(operator, "padding", f"'same' with stride {stride}", "'same' with stride 1 only")
    total = [dilation[axis] * (kernel_size[axis] - 1) for axis in (0, 1)]
    if total[0] % 2 or total[1] % 2:
        input = F.pad(input, (0, total[1] % 2, 0, total[0] % 2))
    return input, (total[0] // 2, total[1] // 2)
