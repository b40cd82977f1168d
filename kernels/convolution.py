"""What the kernels of convolutions share: the problem, its launch, and which of them go through space_to_depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from alexkern.cost.model import cdiv
from alexkern.geometry import Pair, output_size

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Problem:
    """One convolution. C and K count all groups; precision is tl.dot's input_precision."""

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
    dtype: torch.dtype
    precision: str

    @property
    def P(self) -> int:
        return output_size(self.H, self.R, self.stride[0], self.padding[0], self.dilation[0])

    @property
    def Q(self) -> int:
        return output_size(self.W, self.S, self.stride[1], self.padding[1], self.dilation[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """What tuned tables know the problem by."""
        sizes = (self.N, self.C, self.H, self.W, self.K, self.R, self.S)
        return (*sizes, *self.stride, *self.padding, *self.dilation, self.groups)


@dataclass(frozen=True)
class Config:
    """depth is space_to_depth's factor, 1 for none."""

    BLOCK_M: int
    BLOCK_N: int
    TAIL_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    depth: int = 1


@dataclass(frozen=True)
class Launch:
    """Everything about a launch but its pointers, prepared once for a problem and a device."""

    problem: Problem
    config: Config
    grid: tuple[int, ...]
    sizes: tuple[int, ...]
    constants: dict[str, Any]


def depth_factor(problem: Problem) -> int:
    """The stride, where blocks of stride x stride pixels make enough channels for wide loads and waste little of K."""
    factor = problem.stride[0]
    fits = problem.stride == (factor, factor) and problem.dilation == (1, 1) and problem.groups == 1
    if not fits or not 2 <= factor <= min(problem.R, problem.S) or not 1 <= problem.C <= 4:
        return 1
    return factor if factor * factor * problem.C % 4 == 0 else 1


def in_depth(problem: Problem, factor: int) -> Problem:
    """The same convolution over space_to_depth's images: stride 1, padding taken in, as large as it needs."""
    if factor == 1:
        return problem
    R, S = cdiv(problem.R, factor), cdiv(problem.S, factor)
    return replace(
        problem, C=problem.C * factor * factor, H=problem.P + R - 1, W=problem.Q + S - 1, R=R, S=S,
        stride=(1, 1), padding=(0, 0),
    )  # fmt: skip


Key = tuple[torch.device, torch.dtype, str, tuple[int, ...], tuple[int, ...], Pair, Pair, Pair, int]


def key_of(
    input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int, precision: str
) -> Key:
    """What a convolution's launch and its gradients' are cached by: plain tuples are quickly made and hashed."""
    shapes = (tuple(input.shape), tuple(weight.shape))
    pairs = ((stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]))
    return (input.device, input.dtype, precision, *shapes, *pairs, groups)


def problem_of(key: Key) -> Problem:
    _, dtype, precision, (N, C, H, W), (K, _, R, S), stride, padding, dilation, groups = key
    return Problem(N, C, H, W, K, R, S, stride, padding, dilation, groups, dtype, precision)


def index_type(problem: Problem) -> Any:
    """The type of places within one image or in the filters, which are all that the inner loops add up."""
    image = problem.C * (problem.H + 2 * problem.padding[0]) * (problem.W + 2 * problem.padding[1])
    output = problem.K * problem.P * problem.Q
    filters = problem.K * (problem.C // problem.groups) * problem.R * problem.S
    return tl.int64 if max(image, output, filters) > INT32_MAX - 2**16 else tl.int32


def nhwc(tensor: Tensor) -> Tensor:
    """A tensor (N, C, H, W) whose memory is dense NHWC: itself where it lies so, else a copy."""
    return tensor.contiguous(memory_format=torch.channels_last)  # torch returns the tensor itself where it can
