"""A snapshot's convolution with what follows it, and the ways to run it: in tiles, in blocks, as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern import functional
from alexkern.backends import cpu
from alexkern.backends.cpu import max_pool2d, winograd
from alexkern.backends.cpu.conv2d_relu_max_pool2d import by_image
from alexkern.backends.cpu.crossovers import in_tiles, least_tiles
from alexkern.backends.cpu.huge_pages import in_huge_pages
from alexkern.frozen import images as taken
from alexkern.frozen.step import PackedRun, Way, onednn_serves
from alexkern.geometry import Pair, convolution
from alexkern.nn import Match, is_bare
from alexkern.ops.checks import pair
from alexkern.ops.convolution import convolution_of
from alexkern.plan import is_channels_last

# Pixels of images from which on oneDNN reads the same blocks for all sizes: below 11 some layers' are others, and to
# bring them into order takes up to 45 ms a call. And for how many sizes there are blocks at a time.
LARGE, MOST_SIZES = 17, 4


class Plan(NamedTuple):
    """What freeze was told."""

    head: str | None  # the child that is the model's first convolution, if it is here
    bytes_to: taken.Normalisation | None  # of what it takes


def symmetric_padding(conv: nn.Conv2d) -> Pair | None:
    """(vertical, horizontal) zero padding, "same" and "valid" resolved; None where it cannot be said so."""
    if conv.padding_mode != "zeros":
        return None
    if conv.padding == "valid":
        return 0, 0
    if conv.padding == "same":
        sizes, dilation = conv.weight.shape[2:], pair("freeze", "dilation", conv.dilation, 1)
        totals = [apart * (size - 1) for apart, size in zip(dilation, sizes, strict=True)]
        return None if totals[0] % 2 or totals[1] % 2 else (totals[0] // 2, totals[1] // 2)
    return pair("freeze", "padding", conv.padding, 0)


def folds(norm: nn.Module | None) -> bool:
    """Whether a module behind a convolution is a scale and a shift of its channels."""
    return type(norm) is nn.BatchNorm2d and is_bare(norm) and not norm.training and norm.running_var is not None


def folded(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution with the normalisation behind it, rounded once."""
    weight, bias = conv.weight.detach(), conv.bias
    if norm is None:
        return weight, bias
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = ((0 if bias is None else bias.double()) - norm.running_mean.double()) * scale
    shift = shift if norm.bias is None else shift + norm.bias
    return (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype), shift.to(weight.dtype)


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
        pooled = functional.max_pool2d(value, *self.window)
        return pooled.relu_() if self.relu else pooled

    def convolved(self, images: Tensor, relu: bool) -> Tensor | None:
        raise NotImplementedError


class InTiles(_OneDnn):
    """In fewer products (csrc/cpu/winograd), where that pays."""

    def __init__(self, step: FrozenConvolution, filters: winograd.Filters):
        super().__init__(step)
        self.filters, self.weight, self.words = filters, filters.packed, f"for {filters.describe()}"
        self.pooled: max_pool2d.Window | None = None
        if self.window is not None:
            kernel_size, stride, padding = (pair("freeze", "pool", number, 0) for number in self.window[:3])
            if all(2 * pad <= size for pad, size in zip(padding, kernel_size, strict=True)):  # else torch's error
                self.pooled = (kernel_size, stride, padding, (1, 1), self.window[4])

    @classmethod
    def pack(cls, step: FrozenConvolution, weight: Tensor) -> InTiles | None:
        if not onednn_serves(weight) or cpu.missing(weight.device.type, weight.dtype) is not None:
            return None
        one_pixel = torch.empty((1, step.channels, 1, 1), device="meta")
        of = convolution(one_pixel, weight, step.stride, step.padding, step.dilation, step.groups)
        if least_tiles("packed", of, True) is None:
            return None
        filters = winograd.pack(weight, of)
        return cls(step, filters._replace(packed=in_huge_pages(filters.packed)))

    def serves(self, images: Tensor) -> bool:
        return in_tiles("packed", self.filters.over(images), True)

    def __call__(self, images: Tensor) -> Tensor | None:
        if self.pooled is not None:
            found = by_image(images, self.filters, self.bias, self.pooled, True, relu=self.relu, save_offsets=False)
            if found is not None:
                return found[0]
        return super().__call__(images)

    def convolved(self, images: Tensor, relu: bool) -> Tensor | None:
        return winograd.convolve(images, self.filters, self.bias, relu, True)


class InBlocks(_OneDnn):
    """By oneDNN, with filters in the blocks that its kernels read for images of the sizes that come."""

    words = "in oneDNN blocks"

    def __init__(self, step: FrozenConvolution, weight: Tensor):
        super().__init__(step)
        self.weight = weight
        self.geometry = (step.padding, step.stride, step.dilation, step.groups)
        self.packed: dict[tuple[int, ...], Tensor] = {}  # by the sizes of small images

    @classmethod
    def pack(cls, step: FrozenConvolution, weight: Tensor) -> InBlocks | None:
        return cls(step, weight) if onednn_serves(weight) else None

    def convolved(self, images: Tensor, relu: bool) -> Tensor:
        size = tuple(images.shape[1:])
        key = size if min(size[1:]) < LARGE else ()
        packed = self.packed.get(key)
        if packed is None:
            padding, stride, dilation, groups = self.geometry
            of = convolution(images, self.weight, stride, padding, dilation, groups)
            sizes = (1, *size) if of.P > 0 and of.Q > 0 else None  # of too few pixels torch says so below
            packed = torch.ops.aten.mkldnn_reorder_conv2d_weight(self.weight.to_mkldnn(), *self.geometry, sizes)
            # A new dictionary: another thread may be looking through the old one.
            self.packed = dict([*self.packed.items()][1 - MOST_SIZES :]) | {key: packed}
        # oneDNN's own ReLU would turn NaN into 0: attr "none", and ReLU in place.
        value: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, packed, self.bias, *self.geometry, "none", [], ""
        )
        return value.relu_() if relu else value


class Plain(Way):
    """By alexkern.functional, with filters in channels_last."""

    words = "plain"

    def __init__(self, step: FrozenConvolution, weight: Tensor):
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        found = step.found
        settings = convolution_of(step.modules[0]) if found is None else found.operator.arguments(*found.modules)
        self.settings = settings | {"weight": self.weight, "bias": step.bias}
        self.function: Callable[..., Tensor] = F.conv2d if found is None else found.operator.function

    @classmethod
    def pack(cls, step: FrozenConvolution, weight: Tensor) -> Plain | None:
        return None if onednn_serves(weight) else cls(step, weight)

    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images, **self.settings)


class FrozenConvolution(PackedRun):
    """Conv2d[, BatchNorm2d][, ReLU[, MaxPool2d]] with a packed filter, which the normalisation is folded into."""

    ALONE = "conv2d"
    WAYS = (InTiles, InBlocks, Plain)
    by_image = True

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None, found: Match | None, name: str, plan: Plan):
        self.stride = pair("freeze", "stride", conv.stride, 1)
        self.dilation, self.groups = pair("freeze", "dilation", conv.dilation, 1), conv.groups
        self.padding = symmetric_padding(conv) or (0, 0)
        self.channels, self.channels_last = conv.weight.shape[1] * conv.groups, is_channels_last(conv.weight)
        rest = () if found is None else found.modules[1:]
        pool: Any = next((layer for layer in rest if type(layer) is nn.MaxPool2d), None)
        self.pools = pool is not None
        self.window = (pool.kernel_size, pool.stride, pool.padding, 1, pool.ceil_mode) if self.pools else None
        weight, bias = folded(conv, norm)
        super().__init__(weight, bias, found, conv, *(() if norm is None else (norm,)), *rest)
        self.images: taken.Images | None = None  # of the model's first: float32 is rounded, and bytes are normalised
        if name == plan.head:
            deep = self.relu and weight.dtype != torch.float64
            in_depth = taken.in_depth(weight, self.stride, self.padding, self.dilation, self.groups) if deep else None
            self.images = taken.Images(weight.dtype, self.channels, plan.bytes_to, in_depth)

    def __call__(self, input: Tensor) -> Tensor:
        if input.dim() == 3 and (self.images is not None or self.by_onednn):
            return self(input.unsqueeze(0)).squeeze(0).contiguous()
        if self.images is not None:
            value = self.images.convolved(input, self.bias)
            if value is not None:
                return value if self.window is None else functional.max_pool2d(value, *self.window)
            input = taken.prepared(input, self.images.dtype, self.images.bytes_to)
            if input.dim() == 4:
                input = input.contiguous(memory_format=torch.channels_last)
        if self.by_onednn:
            self.check(input, self.channels, -3)
        return self.run(input)

    def image_bytes(self, input: Tensor) -> int:
        """Of one image in front of the convolution or behind it, the larger."""
        of = convolution(input, self.weight, self.stride, self.padding, self.dilation, self.groups)
        return max(math.prod(input.shape[1:]), of.K * of.P * of.Q) * self.weight.dtype.itemsize

    def describe(self) -> str:
        pool = "" if self.window is None else f", max_pool={self.window[:3]}"
        images = "" if self.images is None else self.images.describe()
        return f"{super().describe()}{pool}{images}"
