"""What the kernels of convolutions share: problem, launch, a step's gathering, and which go through space_to_depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.cost.chips import Chip
from alexkern.cost.triton import Tile, register_limit
from alexkern.geometry import Geometry, Pair, convolution
from alexkern.kernels import config


@dataclass(frozen=True)
class Problem:
    """One convolution; precision is tl.dot's input_precision."""

    geometry: Geometry
    dtype: torch.dtype
    precision: str

    @property
    def shape(self) -> tuple[int, ...]:
        """What tuned tables know the problem by."""
        *sizes, stride, padding, dilation, groups = self.geometry
        return (*sizes, *stride, *padding, *dilation, groups)


@dataclass(frozen=True)
class Config(Tile):
    """factor is space_to_depth's, 1 for none."""

    factor: int = 1


@dataclass(frozen=True)
class Launch:
    """Everything about a launch but its pointers, prepared once for a problem and a device."""

    problem: Problem
    config: Config
    grid: tuple[int, ...]
    sizes: tuple[int, ...]
    constants: dict[str, Any]


def constants_of(of: Geometry, config: Any, problem: Problem, device: Chip) -> dict[str, Any]:
    """What every kernel of a convolution is compiled for: its sizes, and the tile of its configuration."""
    tile = {name: value for name, value in vars(config).items() if name not in ("factor", "splits")}
    limit = register_limit(config, problem.dtype, problem.precision, device)
    return dict(
        K=of.K, GROUPS=of.groups, R=of.R, STRIDE_H=of.stride[0], STRIDE_W=of.stride[1], PAD_H=of.padding[0],
        PAD_W=of.padding[1], DILATION_H=of.dilation[0], DILATION_W=of.dilation[1], PRECISION=problem.precision, **tile,
        **limit,
    )  # fmt: skip


def depth_factor(of: Geometry) -> int:
    """The stride, where blocks of stride x stride pixels make enough channels for wide loads and waste little of K."""
    factor = of.stride[0]
    fits = of.stride == (factor, factor) and of.dilation == (1, 1) and of.groups == 1
    if not fits or not 2 <= factor <= min(of.R, of.S) or not 1 <= of.C <= 4 or index_type(of) != tl.int32:
        return 1
    return factor if factor * factor * of.C % 4 == 0 else 1


def in_depth(of: Geometry, factor: int) -> Geometry:
    """The same convolution over space_to_depth's images, where there is a factor."""
    return of if factor == 1 else of.in_depth(factor)


def runs(seen: Geometry) -> Pair:
    """RUN_C and RUN_S: channels side by side in memory, and such runs in a row of a filter's taps."""
    C, S = max(seen.C // seen.groups, 1), seen.S
    whole_row = seen.padding == (0, 0) and seen.dilation[1] == 1 and seen.groups == 1
    return (C * S, 1) if whole_row else (C, S)


Key = tuple[torch.device, torch.dtype, str, Geometry]


def key_of(
    input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int, precision: str
) -> Key:
    """What a convolution's launch and its gradients' are cached by: plain tuples are quickly made and hashed."""
    return (input.device, input.dtype, precision, convolution(input, weight, stride, padding, dilation, groups))


def problem_of(key: Key) -> Problem:
    _, dtype, precision, geometry = key
    return Problem(geometry, dtype, precision)


def padded_image(of: Geometry) -> int:
    """Numbers in an image with its padding, in which every tap lies, whatever the dilation."""
    return of.C * (of.H + 2 * of.padding[0]) * (of.W + 2 * of.padding[1])


def index_type(of: Geometry) -> Any:
    """The type of places within one image or in the filters, which are all that the inner loops add up.

    The data gradient goes from output pixel to output pixel as far as an image of its padded size would have them.
    """
    rows, columns = (
        (size + 2 * padding) // stride + 1
        for size, padding, stride in zip((of.H, of.W), of.padding, of.stride, strict=True)
    )
    return config.index_type(padded_image(of), of.K * rows * columns, of.K * of.GEMM_K)


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
    r, s = tl.cast(tap // RUN_S, INDEX), tl.cast(tap % RUN_S, INDEX)
    inner = (r * DILATION_H * W + s * DILATION_W) * PITCH + c  # [BLOCK_K]
    k_ok = tap < R * RUN_S
    ok = m_ok[:, None]
    if PADDED:
        h = h0[:, None] + r * DILATION_H  # [BLOCK_M, 1 or BLOCK_K]
        col = col0[:, None] + s * DILATION_W
        ok = ok & (h >= 0) & (h < H) & (col >= 0) & (col < W)
    if not STEP_IN_TAP:
        ok = ok & k_ok[None, :]
    return tl.load(x_pixels[:, None] + inner[None, :], mask=ok, other=0), k, k_ok
