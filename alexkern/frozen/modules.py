"""A snapshot's Sequential, whose images stay channels_last from step to step, and the pooling before the classifier."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from alexkern.frozen.convolution import FrozenConvolution
from alexkern.nn import LocalResponseNorm, MaxPool2d, is_bare
from alexkern.plan import is_channels_last

# The images of a large batch go through the convolutions and poolings so many at a time that an activation has at most
# these bytes: what one layer wrote is then in the cache for the next, and no allocation reaches the size (32 MiB) from
# which the C library maps fresh pages, which the kernel clears one by one.
CHUNK_BYTES = 12 * 2**20

OURS: dict[type[nn.Module], type[nn.Module]] = {nn.MaxPool2d: MaxPool2d, nn.LocalResponseNorm: LocalResponseNorm}


class FrozenSequential(nn.Sequential):
    """The steps of a frozen Sequential. Made by :func:`freeze`."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and input.requires_grad:
            raise RuntimeError("alexkern.freeze: a frozen model has no gradients, and its input requires one")
        steps: list[Any] = list(self)
        leading = image_steps(steps) if input.dim() == 4 and len(input) > 1 and input.device.type == "cpu" else 0
        if leading:
            chunks = math.ceil(input.shape[0] * steps[0].image_bytes(input) / CHUNK_BYTES)
            if chunks > 1:
                input = torch.cat([self._run(steps[:leading], images) for images in input.chunk(chunks)])
                steps = steps[leading:]
        return self._run(steps, input)

    def _run(self, steps: list[Any], input: Tensor) -> Tensor:
        restore = False
        for step in steps:
            if isinstance(step, FrozenConvolution):
                if input.dim() == 4 and not is_channels_last(input):
                    restore = not step.channels_last
                    if step.images is None:
                        input = input.contiguous(memory_format=torch.channels_last)
            elif restore and type(step) not in OURS.values():
                input, restore = input.contiguous(), False
            input = step(input)
        return input.contiguous() if restore else input


def image_steps(steps: list[Any]) -> int:
    """How many steps, from a first convolution on, work image by image and end in a pooling, whose output is small."""
    length = 0
    for index, step in enumerate(steps):
        if isinstance(step, FrozenConvolution):
            pools = step.window is not None
        elif index > 0 and type(step) in OURS.values() and is_bare(step):
            pools = isinstance(step, MaxPool2d)
        else:
            break
        if pools:
            length = index + 1
    return length


class FrozenAdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """AdaptiveAvgPool2d that passes on an image of the size asked for, whose averages are those of single pixels."""

    def forward(self, input: Tensor) -> Tensor:
        wanted = self.output_size if isinstance(self.output_size, tuple) else (self.output_size, self.output_size)
        return input if tuple(input.shape[-2:]) == wanted else super().forward(input)
