"""Images and filters in the memory that csrc/cuda's products read: each group's channels side by side, whole copies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alexkern.backends.cuda import launch
from alexkern.plan import Spec, contiguous_strides, empty, strides

COPY_BYTES = 16  # of one cp.async: channels are padded to whole ones
SMALL_COPY_BYTES = 8  # for images of few 16-bit channels, where padding would be most of the work
PIXELS_PER_TILE = 64  # of the packing kernel


class Packed(NamedTuple):
    """Memory of (N, H, W, groups, channels), each group's channels padded with zeros."""

    memory: Tensor
    channels: int  # of a group


def operands(input: Tensor, weight: Tensor, groups: int) -> tuple[Packed, Packed]:
    """The images, and the filters as if of one group, as csrc/cuda/conv2d_relu's products read them."""
    copy_bytes = copy_bytes_of(weight.shape[1], input.dtype)
    return packed(input, groups, copy_bytes), packed(weight, 1, copy_bytes)


def packed(tensor: Tensor, groups: int, copy_bytes: int = COPY_BYTES) -> Packed:
    """`tensor`'s own memory where it lies as the products want it, else a copy."""
    N, C, H, W = tensor.shape
    channels = padded(C // groups, tensor.dtype, copy_bytes)
    if is_packed(tensor, groups, copy_bytes):
        return Packed(tensor, channels)
    memory = workspace((N, H, W, groups * channels), tensor)
    pack(tensor, memory, groups, channels, pixel_tiles(N * H * W))
    return Packed(memory, channels)


def is_packed(tensor: Tensor, groups: int, copy_bytes: int = COPY_BYTES) -> bool:
    """Whether `tensor`'s own memory lies as the products want it."""
    C = tensor.shape[1]
    whole = padded(C // groups, tensor.dtype, copy_bytes) * groups == C
    return whole and is_dense(tensor) and tensor.data_ptr() % COPY_BYTES == 0


def is_dense(tensor: Tensor) -> bool:
    """Whether (N, C, H, W) lies as (N, H, W, C) without gaps."""
    _, C, H, W = tensor.shape
    wanted = (H * W * C, 1, W * C, C)
    return all(size == 1 or own == want for size, own, want in zip(tensor.shape, tensor.stride(), wanted, strict=True))


def turned(weight: Tensor, groups: int) -> Packed:
    """The filters as the data gradient wants them, (groups, C, R, S, K): a filter for each channel of the input."""
    K, C, R, S = weight.shape
    if R > 1 and S > 1 and weight.stride(2) != S * weight.stride(3):
        weight = weight.contiguous()
    channels = padded(K // groups, weight.dtype, COPY_BYTES)
    memory = workspace((groups * C, R, S, channels), weight)
    step_K, step_C, step_R, step_S = weight.stride()
    view = weight.as_strided(
        (groups, K // groups, C, R * S), (K // groups * step_K, step_K, step_C, step_S if S > 1 else step_R)
    )
    pack(view, memory, 1, channels, pixel_tiles(groups * C * R * S))
    return Packed(memory, channels)


def pack(
    source: Tensor,
    memory: Tensor,
    groups: int,
    channels: int,
    chunks: int,
    mask: Tensor | None = None,
    sums: Tensor | None = None,
) -> None:
    """source (N, groups * C, H, W), 0 where `mask` <= 0, to (N, H, W, groups, channels), in so many chunks."""
    launch(
        "conv2d_relu_pack",
        source,
        source.data_ptr(),
        source.shape,
        strides(source),
        0 if mask is None else mask.data_ptr(),
        strides(source if mask is None else mask),
        memory.data_ptr(),
        0 if sums is None else sums.data_ptr(),
        groups,
        channels,
        chunks,
    )


def padded(channels: int, dtype: torch.dtype, copy_bytes: int | None = None) -> int:
    """So many channels, filled up to whole copies: those of images and filters, if no other size is given."""
    step = (copy_bytes or copy_bytes_of(channels, dtype)) // dtype.itemsize
    return max(-(-channels // step), 1) * step


def copy_bytes_of(channels: int, dtype: torch.dtype) -> int:
    few = dtype.itemsize == 2 and channels * dtype.itemsize <= SMALL_COPY_BYTES
    return SMALL_COPY_BYTES if few else COPY_BYTES


def pixel_tiles(pixels: int) -> int:
    return -(-pixels // PIXELS_PER_TILE)


def workspace(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return empty(Spec(shape, contiguous_strides(shape), dtype or like.dtype), like.device)
