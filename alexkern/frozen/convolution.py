"""A snapshot's convolution with what follows it, and the ways to run it: in tiles, in blocks, as it is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern import functional
from alexkern.backends.cpu import winograd
from alexkern.dispatch import is_direct
from alexkern.frozen import images as taken
from alexkern.frozen.step import FrozenStep, Way, onednn_serves
from alexkern.geometry import Pair, convolution
from alexkern.plan import is_channels_last


def symmetric_padding(conv: nn.Conv2d) -> Pair | None:
    """(vertical, horizontal) zero padding, "same" and "valid" resolved; None where it cannot be said so."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    return (top, left) if conv.padding_mode == "zeros" and (left, top) == (right, bottom) else None


class _OneDnn(Way):
    """What InTiles and InBlocks share: the pooling behind a convolution of 4-D images in channels_last."""

    def __init__(self, step: FrozenConvolution):
        self.bias, self.relu, self.window = step.bias, step.relu, step.window

    def __call__(self, images: Tensor) -> Tensor | None:
        if self.window is None:
            return self.convolved(images, self.relu)
        value = self.convolved(images, False)
        if value is None:
            return None
        # The largest value survives the ReLU wherever it is applied: a quarter of the work behind the pooling.
        pooled = F.max_pool2d(value, *self.window)
        return pooled.relu_() if self.relu else pooled

    def convolved(self, images: Tensor, relu: bool) -> Tensor | None:
        raise NotImplementedError


class InTiles(_OneDnn):
    """In fewer products (csrc/cpu/winograd): where that pays, and nothing but numbers is asked for."""

    def __init__(self, step: FrozenConvolution, filters: winograd.Filters):
        super().__init__(step)
        self.filters, self.weight = filters, filters.packed

    @classmethod
    def pack(cls, step: FrozenConvolution, weight: Tensor) -> InTiles | None:
        if not onednn_serves(weight):
            return None
        filters = winograd.pack(weight, step.stride, step.padding, step.dilation, step.groups)
        return None if filters is None else cls(step, filters)

    def serves(self, images: Tensor) -> bool:
        return is_direct(images) and winograd.pays(images, self.filters)

    def convolved(self, images: Tensor, relu: bool) -> Tensor | None:
        return winograd.convolve(images, self.filters, self.bias, relu)

    def describe(self) -> str:
        return f"for {self.filters.describe()}"


class InBlocks(_OneDnn):
    """By oneDNN, with filters in the blocks that its kernels read."""

    def __init__(self, step: FrozenConvolution, weight: Tensor):
        super().__init__(step)
        self.geometry = (step.padding, step.stride, step.dilation, step.groups)
        self.weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *self.geometry, step.input_size)

    @classmethod
    def pack(cls, step: FrozenConvolution, weight: Tensor) -> InBlocks | None:
        return cls(step, weight) if onednn_serves(weight) else None

    def convolved(self, images: Tensor, relu: bool) -> Tensor:
        # oneDNN's own ReLU would turn NaN into 0: attr "none", and ReLU in place.
        value: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, self.weight, self.bias, *self.geometry, "none", [], ""
        )
        return value.relu_() if relu else value

    def plain_weight(self) -> Tensor:
        return self.weight.to_dense()

    def describe(self) -> str:
        return "in oneDNN blocks"


class Plain(Way):
    """By alexkern.functional, with filters in channels_last."""

    def __init__(self, step: FrozenConvolution, weight: Tensor):
        self.bias, self.relu, self.window = step.bias, step.relu, step.window
        self.geometry = (step.stride, step.padding, step.dilation, step.groups)
        self.weight = weight.contiguous(memory_format=torch.channels_last)

    @classmethod
    def pack(cls, step: FrozenConvolution, weight: Tensor) -> Plain | None:
        return None if onednn_serves(weight) else cls(step, weight)

    def __call__(self, images: Tensor) -> Tensor:
        args = (images, self.weight, self.bias, *self.geometry)
        if not self.relu:
            return F.conv2d(*args)
        if self.window is None:
            return functional.conv2d_relu(*args)
        kernel_size, stride, padding = self.window
        return functional.conv2d_relu_max_pool2d(
            *args, pool_kernel_size=kernel_size, pool_stride=stride, pool_padding=padding
        )

    def describe(self) -> str:
        return "plain"


class FrozenConvolution(FrozenStep):
    """Conv2d[, ReLU[, MaxPool2d]] with a packed filter. Made by :func:`freeze`."""

    WAYS = (InTiles, InBlocks, Plain)

    def __init__(self, conv: nn.Conv2d, relu: bool, pool: nn.MaxPool2d | None, input_size: tuple[int, ...] | None):
        self.stride, self.dilation, self.groups = _pair(conv.stride), _pair(conv.dilation), conv.groups
        self.padding = symmetric_padding(conv) or (0, 0)
        self.channels, self.channels_last = conv.in_channels, is_channels_last(conv.weight)
        self.window = None if pool is None else (pool.kernel_size, pool.stride, pool.padding)
        self.input_size = None if input_size is None or len(input_size) != 4 else input_size
        self.images: taken.Images | None = None  # of the first convolution
        super().__init__(conv, relu)

    def take_images(self, bytes_to: taken.Normalisation | None) -> None:
        """Be the first: round float32 to the weight's dtype, and normalise bytes."""
        in_depth = None
        if self.relu and self.weight.dtype != torch.float64:
            weight = self.ways[-1].plain_weight()
            in_depth = taken.in_depth(weight, self.stride, self.padding, self.dilation, self.groups)
        self.images = taken.Images(self.weight.dtype, self.channels, bytes_to, in_depth)

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 3 and (self.images is not None or self.by_onednn):
            return self.forward(input.unsqueeze(0)).squeeze(0).contiguous()
        if self.images is not None:
            value = self.images.convolved(input, self.bias)
            if value is not None:
                return value if self.window is None else functional.max_pool2d(value, *self.window)
            input = self.images.prepared(input)
            if input.dim() == 4:
                input = input.contiguous(memory_format=torch.channels_last)
        if self.by_onednn:
            self.check(input, self.channels, -3)
        return self.run(input)

    def image_bytes(self, input: Tensor) -> int:
        """Of one image in front of the convolution or behind it, the larger."""
        of = convolution(input, self.weight, self.stride, self.padding, self.dilation, self.groups)
        return max(math.prod(input.shape[1:]), of.K * of.P * of.Q) * self.weight.dtype.itemsize

    def extra_repr(self) -> str:
        K, _, R, S = self.weight.shape
        text = f"{self.channels}, {K}, kernel_size=({R}, {S}), stride={self.stride}, padding={self.padding}"
        pool = "" if self.window is None else f", max_pool={self.window}"
        images = "" if self.images is None else self.images.describe()
        return f"{text}, {self.describe()}{pool}{images}"


def _pair(value: tuple[Any, ...]) -> Pair:
    return value[0], value[1]
