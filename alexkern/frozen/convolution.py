"""A snapshot's convolution with what follows it, and the plain way to run it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern import functional
from alexkern.backends.way import Way
from alexkern.frozen import images as taken
from alexkern.frozen.step import PackedRun, with_norm
from alexkern.geometry import Pair, convolution
from alexkern.nn import Match
from alexkern.ops.checks import pair
from alexkern.ops.convolution import convolution_of
from alexkern.plan import is_channels_last

SMALL = 2**12  # values of an image of which oneDNN's blocks do not gain what its call costs


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


class Plain(Way):
    """By alexkern.functional, with filters in channels_last."""

    words, trusts, serves_all = "plain", False, True

    def __init__(self, step: FrozenConvolution, weight: Tensor):
        super().__init__(step, weight.contiguous(memory_format=torch.channels_last))
        found = step.found
        settings = convolution_of(step.modules[0]) if found is None else found.operator.arguments(*found.modules)
        self.settings = settings | {"weight": self.weight, "bias": step.bias}
        self.function: Callable[..., Tensor] = F.conv2d if found is None else found.operator.function

    def __call__(self, images: Tensor, channels_last: bool = True) -> Tensor:
        output = self.function(images, **self.settings)
        return output if channels_last else output.contiguous()


class FrozenConvolution(PackedRun):
    """Conv2d[, BatchNorm2d][, ReLU[, MaxPool2d]] with a packed filter, which the normalisation is folded into."""

    LAYER, PLAIN = "conv2d", Plain
    by_image = True
    last = True  # of those that work image by image, one behind the other

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None, found: Match | None, name: str, plan: Plan):
        self.stride = pair("freeze", "stride", conv.stride, 1)
        self.dilation, self.groups = pair("freeze", "dilation", conv.dilation, 1), conv.groups
        self.padding = symmetric_padding(conv) or (0, 0)
        self.channels, self.channels_last = conv.weight.shape[1] * conv.groups, is_channels_last(conv.weight)
        rest = () if found is None else found.modules[1:]
        pool: Any = next((layer for layer in rest if type(layer) is nn.MaxPool2d), None)
        self.pools = pool is not None
        self.numbers = (pool.kernel_size, pool.stride, pool.padding) if self.pools else ()
        pairs = [pair("freeze", "pool", number, 0) for number in self.numbers]
        self.window = window = (*pairs, (1, 1), pool.ceil_mode) if self.pools else None
        self.pool = None if window is None else lambda images: functional.max_pool2d(images, *window)
        weight, bias = with_norm(conv, norm)
        super().__init__(weight, bias, found, conv, *(() if norm is None else (norm,)), *rest)
        self.images: taken.Images | None = None  # of the model's first: float32 is rounded, and bytes are normalised
        if name == plan.head:
            deep = self.relu and weight.dtype != torch.float64
            in_depth = taken.in_depth(weight, self.stride, self.padding, self.dilation, self.groups) if deep else None
            self.images = taken.Images(weight.dtype, self.channels, plan.bytes_to, in_depth)

    def __call__(self, input: Tensor, channels_last: bool = True) -> Tensor:
        if input.dim() == 3 and (self.images is not None or self.trusting):
            return self(input.unsqueeze(0)).squeeze(0).contiguous()
        if self.images is not None:
            value = self.images.convolved(input, self.bias)
            if value is not None:
                return value if self.pool is None else self.pool(value)
            input = taken.prepared(input, self.images.dtype, self.images.bytes_to)
            if input.dim() == 4 and channels_last:
                input = input.contiguous(memory_format=torch.channels_last)
        if self.trusting:
            self.check(input, self.channels, -3)
        return self.run(input, channels_last)

    def stands_alone(self, input: Tensor) -> bool:
        """Whether neither what comes in nor what takes the output is channels_last, on a CPU: to bring float32 images
        there and back takes longer than any order of one layer's filters saves."""
        contiguous = input.dim() == 4 and input.is_cpu and not is_channels_last(input)
        by_itself = self.last and not (self.pools or self.channels_last)
        return contiguous and by_itself and self.weight.dtype == torch.float32

    def gains(self, input: Tensor) -> int:
        # What torch convolves without oneDNN, which takes a while to call: one image, filters of up to three rows.
        small = input.numel() < SMALL and input.dim() == 4 and len(input) == 1
        gains = not small or self.groups > 1 or min(self.weight.shape[2:]) > 3
        if gains and self.stands_alone(input):
            gains = len(self.modules) > 1 + self.relu or any(way.serves(input, False) for way in self.ways[:-1])
        return self.multiply_adds(input) if gains or input.dtype != self.weight.dtype else 0

    def multiply_adds(self, input: Tensor) -> int:
        """About so many, 1 at least."""
        images, pixels = math.prod(input.shape[:-3]), math.prod(input.shape[-2:])
        return max(images * pixels * self.weight.numel() // math.prod(self.stride), 1)

    def image_bytes(self, input: Tensor) -> int:
        """Of one image in front of the convolution or behind it, the larger."""
        of = convolution(input, self.weight, self.stride, self.padding, self.dilation, self.groups)
        return max(math.prod(input.shape[1:]), of.K * of.P * of.Q) * self.weight.dtype.itemsize

    def describe(self) -> str:
        pool = f", max_pool={self.numbers}" if self.pools else ""
        images = "" if self.images is None else self.images.describe()
        return f"{super().describe()}{pool}{images}"
