"""What the kernels of convolutions share: problem, launch, a step's gathering, and which go through space_to_depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
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
    """factor is space_to_depth's, 1 for none."""

    BLOCK_M: int
    BLOCK_N: int
    TAIL_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    factor: int = 1


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


def runs(seen: Problem) -> Pair:
    """RUN_C and RUN_S: channels side by side in memory, and such runs in a row of a filter's taps."""
    C, S = max(seen.C // seen.groups, 1), seen.S
    whole_row = seen.padding == (0, 0) and seen.dilation[1] == 1 and seen.groups == 1
    return (C * S, 1) if whole_row else (C, S)


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


@triton.jit
def gather(
    x_pixels, h0, col0, m_ok,  # [BLOCK_M]: where each pixel's first tap lies, and whether there is such a pixel
    k0, H, W, RUN_C: tl.constexpr, PITCH: tl.constexpr, R: tl.constexpr, RUN_S: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, PADDED: tl.constexpr, INDEX: tl.constexpr,
    STEP_IN_TAP: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A step of the left operand: a [BLOCK_M, BLOCK_K], 0 outside of the image; k [BLOCK_K]; which k there are."""
    k = k0 + tl.arange(0, BLOCK_K)
    if STEP_IN_TAP:
        tap = k0 // RUN_C
        c = tl.multiple_of(k0 % RUN_C, BLOCK_K) + tl.arange(0, BLOCK_K)
    else:
        ALIGNED: tl.constexpr = RUN_C & -RUN_C if RUN_C & -RUN_C < BLOCK_K else BLOCK_K  # places side by side
        tap = k // RUN_C
        c = tl.max_contiguous(tl.multiple_of(k % RUN_C, ALIGNED), ALIGNED)
    r, s = tap // RUN_S, tap % RUN_S
    inner = (tl.cast(r, INDEX) * DILATION_H * W + s * DILATION_W) * PITCH + c  # [BLOCK_K]
    k_ok = tap < R * RUN_S
    ok = m_ok[:, None]
    if PADDED:
        h = h0[:, None] + r * DILATION_H  # [BLOCK_M, 1 or BLOCK_K]
        col = col0[:, None] + s * DILATION_W
        ok = ok & (h >= 0) & (h < H) & (col >= 0) & (col < W)
    if not STEP_IN_TAP:
        ok = ok & k_ok[None, :]
    return tl.load(x_pixels[:, None] + inner[None, :], mask=ok, other=0), k, k_ok
