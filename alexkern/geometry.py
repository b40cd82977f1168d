"""The sizes of convolutions and of pooling windows: what all rooms stand on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int]  # (vertical, horizontal)


class Geometry(NamedTuple):
    """A convolution of images (N, C, H, W) with K filters, or the windows that pool them: K and groups are C then.

    csrc/geometry.h has the same fields: native code takes this tuple as it is.
    """

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def P(self) -> int:
        return (self.H + 2 * self.padding[0] - self.dilation[0] * (self.R - 1) - 1) // self.stride[0] + 1

    @property
    def Q(self) -> int:
        return (self.W + 2 * self.padding[1] - self.dilation[1] * (self.S - 1) - 1) // self.stride[1] + 1

    @property
    def GEMM_M(self) -> int:
        return self.N * self.P * self.Q

    @property
    def GEMM_N(self) -> int:
        return self.K // self.groups

    @property
    def GEMM_K(self) -> int:
        return self.R * self.S * (self.C // self.groups)

    def in_depth(self, factor: int) -> Geometry:
        """The same convolution over space to depth's images: stride 1, padding taken in, as large as it needs."""
        R, S = -(-self.R // factor), -(-self.S // factor)
        return self._replace(
            C=self.C * factor * factor, H=self.P + R - 1, W=self.Q + S - 1, R=R, S=S, stride=(1, 1), padding=(0, 0)
        )

    def turned(self) -> Geometry:
        """The data gradient of a convolution of stride 1: one again, over the gradient, the filters turned round."""
        N, C, _, _, K, R, S, stride, padding, dilation, groups = self
        outside = (dilation[0] * (R - 1) - padding[0], dilation[1] * (S - 1) - padding[1])
        return Geometry(N, K, self.P, self.Q, C, R, S, stride, outside, dilation, groups)


def convolution(input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Geometry:
    """That of a call."""
    N, C, H, W = input.shape
    K, _, R, S = weight.shape
    return Geometry(N, C, H, W, K, R, S, stride, padding, dilation, groups)


def pooling(shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Geometry:
    """That of windows over images of such a shape."""
    N, C, H, W = shape
    R, S = kernel_size
    return Geometry(N, C, H, W, C, R, S, stride, padding, dilation, C)


def pooled_size(windows: Geometry, ceil_mode: bool) -> Pair:
    """torch's (P, Q): in ceil_mode the last window must still start inside the image or its left padding."""
    if not ceil_mode:
        return windows.P, windows.Q
    (stride_h, stride_w), (padding_h, padding_w) = windows.stride, windows.padding
    rounded_up = windows._replace(H=windows.H + stride_h - 1, W=windows.W + stride_w - 1)
    P, Q = rounded_up.P, rounded_up.Q
    return (
        P - 1 if (P - 1) * stride_h >= windows.H + padding_h else P,
        Q - 1 if (Q - 1) * stride_w >= windows.W + padding_w else Q,
    )


# In place of the offset of a winner that its ReLU did not let pass: -1, which in a byte is the last number.
CLIPPED = {torch.uint8: 255, torch.int32: -1}


def offset_dtype(R: int, S: int, behind_relu: bool) -> torch.dtype:
    """The dtype of an offset r * S + s into an R x S window, or of one that may say CLIPPED."""
    return torch.uint8 if R * S + behind_relu <= 256 else torch.int32
