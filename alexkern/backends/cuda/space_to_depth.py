"""Space to depth by csrc/cuda/space_to_depth: a convolution of stride 4 over few channels as one of stride 1 over
16 times as many, with the images' cast and normalisation in the same pass.

AlexNet's first layer (11 x 11, 3 channels) becomes 3 x 3 over 48 channels. `pays` says which convolutions go this way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alexkern.backends.cuda import chip_of, compiled, launch, sm90
from alexkern.backends.cuda.layout import copy_bytes_of, is_packed
from alexkern.backends.cuda.wide import Wide
from alexkern.cost.sm80 import FACTOR, first_layer_times
from alexkern.geometry import Geometry, Pair
from alexkern.plan import Spec, contiguous_strides, empty, strides

WIDE = (Wide(r"relayout_kernel<[\w ]+, \w+>", None, frozenset({8}), runs=True),)  # a mark is a byte

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # of bytes, a mean and a deviation a channel, in 0 to 1

MOST_CHANNELS = 4  # 16 times as many fill a step of the products
SOURCES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


class Deep(NamedTuple):
    """Memory of (N, *size, 16 C), and marks of (N, size[0], marks), 1 where a line has an infinity or a NaN."""

    memory: Tensor
    marks: Tensor


def allows(geometry: Geometry) -> bool:
    """Whether a convolution can go this way."""
    if geometry.stride != (FACTOR, FACTOR) or geometry.dilation != (1, 1) or geometry.groups != 1:
        return False
    return 0 < geometry.C <= MOST_CHANNELS


def pays(input: Tensor, geometry: Geometry, gradient: bool = False) -> bool:
    """Whether a convolution, or its weight gradient, is to go this way.

    csrc/cuda/sm90 has no other for it; elsewhere alexkern.cost.sm80 says.
    """
    if not allows(geometry) or input.numel() == 0 or geometry.GEMM_M == 0:
        return False
    if sm90.serves(input, geometry.in_depth(FACTOR)):
        return True
    in_place = is_packed(input, 1, copy_bytes_of(geometry.C, input.dtype))
    padded, deep = first_layer_times(input.dtype.itemsize, geometry, gradient, in_place, chip_of(input))
    return deep < padded


def relayout(
    source: Tensor,
    size: Pair,
    padding: Pair,
    dtype: torch.dtype | None = None,
    normalisation: Normalisation | None = None,
) -> Deep:
    """(N, C, H, W) of any strides to memory of (N, *size, 4 * 4 * C) in `dtype`, zeros outside.

    Of float32, float16, bfloat16 or, with a normalisation, uint8, which becomes (x / 255 - mean) / std; the zeros
    outside come after that.
    """
    N, C, _, _ = source.shape
    shape = (N, *size, FACTOR * FACTOR * C)
    memory = empty(Spec(shape, contiguous_strides(shape), dtype or source.dtype), source.device)
    module = compiled(source)
    lines = (N, size[0], module.space_to_depth_marks(size[1]))
    marks = empty(Spec(lines, contiguous_strides(lines), torch.uint8), source.device)
    launch(
        "space_to_depth_relayout",
        memory,
        module.space_to_depth_sources[str(source.dtype).removeprefix("torch.")],
        source.data_ptr(),
        source.shape,
        strides(source),
        memory.data_ptr(),
        marks.data_ptr(),
        size,
        padding,
        *_line(normalisation),
    )
    return Deep(memory, marks)


def _line(normalisation: Normalisation | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factors and summands that do the same to a byte, of as many channels as there may be."""
    if normalisation is None:
        return (1.0,) * MOST_CHANNELS, (0.0,) * MOST_CHANNELS
    mean, std = normalisation
    missing = (0.0,) * (MOST_CHANNELS - len(mean))
    scale = (1 / (255 * deviation) for deviation in std)
    return (*scale, *missing), (*(-m / s for m, s in zip(mean, std, strict=True)), *missing)


def amend(images: Deep, filters: Tensor, bias: Tensor | None, output: Tensor, geometry: Geometry) -> None:
    """Give the outputs near an infinity or a NaN what their own windows make of them.

    `images` and `filters` are what the convolution has read, `output` (N, K, P, Q) is what it has written; `geometry`
    is that of stride 4.
    """
    launch(
        "space_to_depth_amend",
        output,
        geometry,
        images.memory.data_ptr(),
        filters.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        images.marks.data_ptr(),
        output.data_ptr(),
        strides(output),
    )


def back(filters: Tensor, into: Tensor) -> None:
    """into (K, C, R, S) = the filters that `relayout` would bring to (K, ceil(R / 4), ceil(S / 4), 4 * 4 * C)."""
    K, C, R, S = into.shape
    _, blocks_r, blocks_s, _ = filters.shape
    blocks = filters.view(K, blocks_r, blocks_s, FACTOR, FACTOR, C).permute(0, 5, 1, 3, 2, 4)
    into.copy_(blocks.reshape(K, C, FACTOR * blocks_r, FACTOR * blocks_s)[:, :, :R, :S])
