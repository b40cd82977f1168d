"""Space to depth by csrc/cuda/space_to_depth: a convolution of stride 4 over few channels as one of stride 1 over
16 times as many, with the images' cast and normalisation in the same pass.

AlexNet's first layer (11 x 11, 3 channels) becomes 3 x 3 over 48 channels. `pays` says which convolutions go this way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alexkern.backends.cuda import chip_of, compiled, launch, sm90, strides
from alexkern.cost.sm80 import FACTOR, first_layer_times
from alexkern.geometry import Geometry
from alexkern.plan import Spec, contiguous_strides, empty

Pair = tuple[int, int]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # of bytes, a mean and a deviation a channel, in 0 to 1

MOST_CHANNELS = 4  # 16 times as many fill a step of the products
SOURCES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


class Deep(NamedTuple):
    """Memory of (N, *size, 16 C), and marks of (N, size[0], marks), 1 where a line has an infinity or a NaN."""

    memory: Tensor
    marks: Tensor


def allows(channels: int, geometry: Geometry) -> bool:
    """Whether a convolution can go this way."""
    # Pairs of numbers that may be lists, from the dispatcher.
    if set(geometry.stride) != {FACTOR} or set(geometry.dilation) != {1} or geometry.groups != 1:
        return False
    return 0 < channels <= MOST_CHANNELS


def pays(input: Tensor, filters: int, output_size: Pair, geometry: Geometry, gradient: bool, in_place: bool) -> bool:
    """Whether a convolution with so many filters, or its weight gradient, is to go this way.

    csrc/cuda/sm90 has no other for it; elsewhere alexkern.cost.sm80 says. `in_place`: the images need no
    padding.
    """
    channels = input.shape[1]
    if not allows(channels, geometry) or 0 in (*input.shape, *output_size):
        return False
    seen = deep_geometry(geometry)
    size = deep_size(output_size, seen.kernel_size)
    if sm90.serves(input, size, output_size, FACTOR**2 * channels, seen):
        return True
    shapes = (tuple(input.shape), filters, tuple(geometry.kernel_size), tuple(output_size))
    padded, deep = first_layer_times(input.dtype.itemsize, *shapes, gradient, in_place, chip_of(input))
    return deep < padded


def kernel_size_in_depth(kernel_size: Pair) -> Pair:
    R, S = (-(-size // FACTOR) for size in kernel_size)
    return R, S


def deep_geometry(geometry: Geometry) -> Geometry:
    """The same convolution over the images in depth: stride 1, and the padding taken in."""
    size = kernel_size_in_depth(geometry.kernel_size)
    return geometry._replace(kernel_size=size, stride=(1, 1), padding=(0, 0))


def deep_size(output_size: Pair, kernel_size: Pair) -> Pair:
    """Of the images in depth: as large as the outputs need, for filters of so many pixels in depth."""
    return output_size[0] + kernel_size[0] - 1, output_size[1] + kernel_size[1] - 1


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
        tuple(source.shape),
        strides(source),
        memory.data_ptr(),
        marks.data_ptr(),
        size,
        padding,
        *_line(normalisation),
    )
    return Deep(memory, marks)


def _line(normalisation: Normalisation | None) -> tuple[list[float], list[float]]:
    """Factors and summands that do the same to a byte, of as many channels as there may be."""
    if normalisation is None:
        return [1.0] * MOST_CHANNELS, [0.0] * MOST_CHANNELS
    mean, std = normalisation
    missing = [0.0] * (MOST_CHANNELS - len(mean))
    scale = [1 / (255 * deviation) for deviation in std]
    return [*scale, *missing], [*(-m / s for m, s in zip(mean, std, strict=True)), *missing]


def amend(images: Deep, filters: Tensor, bias: Tensor | None, output: Tensor, kernel_size: Pair, relu: bool) -> None:
    """Give the outputs near an infinity or a NaN what their own windows make of them.

    `images` and `filters` are what the convolution has read, `output` (N, K, P, Q) is what it has written, and
    kernel_size that of the convolution of stride 4.
    """
    launch(
        "space_to_depth_amend",
        output,
        images.memory.data_ptr(),
        filters.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        images.marks.data_ptr(),
        output.data_ptr(),
        tuple(output.shape),
        strides(output),
        images.memory.shape[3] // FACTOR**2,
        kernel_size,
        relu,
    )


def back(filters: Tensor, into: Tensor) -> None:
    """into (K, C, R, S) = the filters that `relayout` would bring to (K, ceil(R / 4), ceil(S / 4), 4 * 4 * C)."""
    K, C, R, S = into.shape
    _, rows, columns, _ = filters.shape
    blocks = filters.view(K, rows, columns, FACTOR, FACTOR, C).permute(0, 5, 1, 3, 2, 4)
    into.copy_(blocks.reshape(K, C, FACTOR * rows, FACTOR * columns)[:, :, :R, :S])
