"""A snapshot's convolution on a CPU: in tiles by csrc/cpu/winograd, or by oneDNN, with filters in its blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexkern.backends import cpu
from alexkern.backends.cpu import winograd
from alexkern.backends.cpu.conv2d_relu_max_pool2d import by_image
from alexkern.backends.cpu.crossovers import in_tiles, least_tiles
from alexkern.backends.cpu.huge_pages import in_huge_pages
from alexkern.backends.cpu.max_pool2d import Window
from alexkern.backends.way import Way
from alexkern.geometry import convolution

# Pixels of images from which on oneDNN reads the same blocks for all sizes: below 11 some layers' are others, and to
# bring them into order takes up to 45 ms a call. In bfloat16 they are others for one or two images than for more, and
# 80 ms are lost on AlexNet's third layer. And for how many sizes there are blocks at a time.
LARGE, MOST_SIZES = 17, 4


class _OneDnn(Way):
    """What InTiles and InBlocks share: the pooling behind a convolution of 4-D images, channels_last or contiguous."""

    def __init__(self, step: Any, weight: Tensor):
        super().__init__(step, weight)
        self.pool = step.pool

    def __call__(self, images: Tensor, channels_last: bool = True) -> Tensor | None:
        if self.pool is None:
            return self.convolved(images, self.relu, channels_last)
        value = self.convolved(images, False, channels_last)
        if value is None:
            return None
        # The largest value survives the ReLU wherever it is applied: a quarter of the work behind the pooling.
        pooled = self.pool(value)
        return pooled.relu_() if self.relu else pooled

    def convolved(self, images: Tensor, relu: bool, channels_last: bool) -> Tensor | None:
        raise NotImplementedError


class InTiles(_OneDnn):
    """In fewer products (csrc/cpu/winograd), where that pays."""

    def __init__(self, step: Any, filters: dict[int, winograd.Filters]):
        super().__init__(step, filters[2].packed)
        self.filters = filters  # by the outputs of a tile a side
        self.words = f"for {' and '.join(one.describe() for one in filters.values())}"
        self.window: Window | None = step.window
        if self.window is not None and any(
            2 * pad > size for pad, size in zip(self.window[2], self.window[0], strict=True)
        ):
            self.window = None  # torch's error

    @classmethod
    def pack(cls, step: Any, weight: Tensor) -> InTiles | None:
        if not cpu.onednn_serves(weight) or cpu.missing("cpu", weight.dtype) is not None:
            return None
        one_pixel = torch.empty((1, step.channels, 1, 1), device="meta")
        of = convolution(one_pixel, weight, step.stride, step.padding, step.dilation, step.groups)
        sizes = [M for M in (2, 4) if least_tiles("packed", of, weight.dtype, True, M) is not None]
        filters = {M: winograd.pack(weight, of, M) for M in sizes}
        if not filters:
            return None
        return cls(step, {M: one._replace(packed=in_huge_pages(one.packed)) for M, one in filters.items()})

    def serves(self, images: Tensor, channels_last: bool = True) -> bool:
        return self.tile(images, channels_last) > 0

    def tile(self, images: Tensor, channels_last: bool) -> int:
        return in_tiles("packed", self.filters[2].over(images), images.dtype, channels_last)

    def __call__(self, images: Tensor, channels_last: bool = True) -> Tensor | None:
        if self.window is not None and channels_last:
            filters = self.filters[self.tile(images, True)]
            found = by_image(images, filters, self.bias, self.window, True, relu=self.relu, save_offsets=False)
            if found is not None:
                return found[0]
        return super().__call__(images, channels_last)

    def convolved(self, images: Tensor, relu: bool, channels_last: bool) -> Tensor | None:
        filters = self.filters[self.tile(images, channels_last)]
        return winograd.convolve(images, filters, self.bias, relu, channels_last)


class InBlocks(_OneDnn):
    """By oneDNN, with filters in the blocks that its kernels read for channels_last images of the sizes that come."""

    words, serves_all = "in oneDNN blocks", True

    def __init__(self, step: Any, weight: Tensor):
        super().__init__(step, weight)
        self.geometry = (step.padding, step.stride, step.dilation, step.groups)
        self.packed: dict[tuple[int, ...], Tensor] = {}  # by the sizes of images, where they matter

    @classmethod
    def pack(cls, step: Any, weight: Tensor) -> InBlocks | None:
        return cls(step, weight) if cpu.onednn_serves(weight) else None

    def convolved(self, images: Tensor, relu: bool, channels_last: bool) -> Tensor:
        padding, stride, dilation, groups = self.geometry
        if not channels_last:
            value = torch.conv2d(images, self.weight, self.bias, stride, padding, dilation, groups)
            return value.relu_() if relu else value
        by_batch = self.weight.dtype == torch.bfloat16
        sizes = (max(len(images), 1) if by_batch else 1, *images.shape[1:])
        key = sizes if by_batch or min(sizes[2:]) < LARGE else ()
        packed = self.packed.get(key)
        if packed is None:
            of = convolution(images, self.weight, stride, padding, dilation, groups)
            right = sizes if of.P > 0 and of.Q > 0 else None  # of too few pixels torch says so below
            packed = torch.ops.aten.mkldnn_reorder_conv2d_weight(self.weight.to_mkldnn(), *self.geometry, right)
            # A new dictionary: another thread may be looking through the old one.
            self.packed = dict([*self.packed.items()][1 - MOST_SIZES :]) | {key: packed}
        # oneDNN's own ReLU would turn NaN into 0: attr "none", and ReLU in place.
        value = torch.ops.mkldnn._convolution_pointwise(images, packed, self.bias, *self.geometry, "none", [], "")
        return value.relu_() if relu else value


WAYS = (InTiles, InBlocks)
