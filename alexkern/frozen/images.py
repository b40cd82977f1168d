"""The first convolution of a frozen model: the images that it takes, and space to depth ahead of time.

`freeze` has this for it. Where the CUDA C++ kernels serve, images of any of their dtypes and of any strides become its
input in one pass (csrc/cuda/space_to_depth); elsewhere torch's operators say the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern import dispatch, functional
from alexkern.errors import argument_error
from alexkern.geometry import Geometry, Pair
from alexkern.plan import empty, nchw

FACTOR, MOST_CHANNELS = 4, 4  # as alexkern.backends.cuda.space_to_depth has them, which is loaded where it serves


class Normalisation(NamedTuple):
    """Of bytes: (x / 255 - mean) / std, a number for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def normalisation(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> Normalisation | None:
    """The arguments of `freeze`, checked."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        given, missing = ("std", "mean") if mean is None else ("mean", "std")
        raise argument_error("freeze", missing, "None", f"given where {given} is")
    for name, numbers in (("mean", mean), ("std", std)):
        want = f"{channels} finite numbers, one for each channel" + (", above 0" if name == "std" else "")
        good, least = isinstance(numbers, (tuple, list)) and len(numbers) == channels, 0 if name == "std" else -math.inf
        if not good or not all(isinstance(number, (int, float)) and least < number < math.inf for number in numbers):
            raise argument_error("freeze", name, repr(numbers), want)
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))


def prepared(images: Tensor, dtype: torch.dtype, bytes_to: Normalisation | None) -> Tensor:
    """Images as a convolution in `dtype` takes them: bytes normalised, float32 rounded, anything else as it is."""
    if images.dtype == torch.uint8 and bytes_to is not None:
        if images.dim() < 3 or images.shape[-3] != len(bytes_to.mean):
            want = f"of {len(bytes_to.mean)} channels"
            raise argument_error("freeze", "input", f"shape {tuple(images.shape)}", want)
        exact = torch.promote_types(dtype, torch.float32)
        columns = _columns if dispatch.is_direct(images) else _columns.__wrapped__  # fake tensors are not to be kept
        mean, std = columns(bytes_to, exact, images.device)
        return images.to(exact).div_(255).sub_(mean).div_(std).to(dtype)
    if images.dtype == torch.float32 and dtype in (torch.float16, torch.bfloat16):
        return images.to(dtype)
    return images


@lru_cache(maxsize=64)
def _columns(bytes_to: Normalisation, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (C, 1, 1): brought to a device once, so that a CUDA graph can be captured afterwards."""
    mean, std = (torch.tensor(row, dtype=dtype, device=device).view(-1, 1, 1) for row in bytes_to)
    return mean, std


class InDepth(NamedTuple):
    """A convolution with ReLU, of stride 4 over few channels, as one of stride 1 over 16 times as many."""

    filters: Tensor  # (K, ceil(R / 4), ceil(S / 4), 16 C), dense
    kernel_size: Pair
    padding: Pair

    @property
    def weight(self) -> Tensor:
        """Over images in depth: (K, 16 C, ceil(R / 4), ceil(S / 4)), channels_last."""
        return self.filters.permute(0, 3, 1, 2)


def in_depth(weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> InDepth | None:
    """The filters (K, C, R, S) brought to depth, where the convolution can go that way."""
    K, C, R, S = weight.shape
    if stride != (FACTOR, FACTOR) or dilation != (1, 1) or groups != 1 or C > MOST_CHANNELS:
        return None
    rows, columns = -(-R // FACTOR), -(-S // FACTOR)
    whole = F.pad(weight, (0, FACTOR * columns - S, 0, FACTOR * rows - R))
    blocks = whole.reshape(K, C, rows, FACTOR, columns, FACTOR).permute(0, 2, 4, 3, 5, 1)
    return InDepth(blocks.reshape(K, rows, columns, -1).contiguous(), (R, S), padding)


class Images(NamedTuple):
    """What a first convolution takes: images of `channels`, for arithmetic in `dtype`."""

    dtype: torch.dtype
    channels: int
    bytes_to: Normalisation | None
    in_depth: InDepth | None

    def convolved(self, images: Tensor, bias: Tensor | None) -> Tensor | None:
        """relu(convolution + bias) over images in depth, (N, K, P, Q) in channels_last; None where it is not done so.

        They may come in depth already. Those that are to be cast or normalised always go there: it is the same pass.
        """
        if self.in_depth is None or images.dim() != 4:
            return None
        if images.shape[1] == FACTOR**2 * self.channels:
            return functional.conv2d_relu(images, self.in_depth.weight, bias)
        filters, kernel_size, padding = self.in_depth
        readable = (self.dtype, torch.float32, self.dtype if self.bytes_to is None else torch.uint8)
        backend = _backend(images, filters)
        if images.shape[1] != self.channels or images.dtype not in readable or backend is None:
            return None
        N, C, H, W = images.shape
        of = Geometry(N, C, H, W, len(filters), *kernel_size, (FACTOR, FACTOR), padding, (1, 1), 1)
        if of.P < 1 or of.Q < 1:
            want = f"at least as large as the filter, {kernel_size}, with padding {padding}"
            raise argument_error("freeze", "input", f"shape {tuple(images.shape)}", want)
        if images.dtype == self.dtype and not backend.goes_deep(images, of):
            return None
        output = empty(nchw((of.N, of.K, of.P, of.Q), self.dtype, True), images.device)
        bias = None if bias is None else bias.contiguous()
        if of.N > 0:
            backend.convolve_in_depth(images, filters, bias, output, of, self.bytes_to)
        return output

    def describe(self) -> str:
        text = "" if self.in_depth is None else f", filters in depth={tuple(self.in_depth.filters.shape)}"
        return text if self.bytes_to is None else f"{text}, mean={self.bytes_to.mean}, std={self.bytes_to.std}"


def _backend(images: Tensor, filters: Tensor) -> Any | None:
    """The backend's module that convolves these in depth now, or None where the one that serves them does not."""
    if images.device != filters.device or not dispatch.is_direct(images):
        return None
    try:
        module = dispatch.resolve("conv2d_relu", filters)
    except dispatch.BackendUnavailable:
        return None
    return module if hasattr(module, "convolve_in_depth") else None
