"""A crop of a resized image, as torch resizes with antialias=True, near to the size of what it reads and gives."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

IntPair = tuple[int, int]  # (vertical, horizontal)
MOST_RESIZED = 32  # times the crop: a larger picture is not made as a whole, as a long and thin image's would be


def is_far_larger(whole: IntPair, size: IntPair) -> bool:
    """Whether an image resized to `whole` has far more pixels than a crop of it."""
    return whole[0] * whole[1] > MOST_RESIZED * size[0] * size[1]


def resized_crop(images: Tensor, whole: IntPair, first: IntPair, size: IntPair) -> Tensor:
    """The pixels from `first` on of images (N, C, H, W) resized to `whole`: (N, C, *size), float32, or float64 of such
    images."""
    dtype = images.dtype if images.dtype == torch.float64 else torch.float32
    if not is_far_larger(whole, size):
        crop = (..., slice(first[0], first[0] + size[0]), slice(first[1], first[1] + size[1]))
        # Channel by channel, for in float32 an image of bytes is four times as large. And copies: views would hold all.
        return torch.cat(
            [
                F.interpolate(one.to(dtype), size=whole, mode="bilinear", align_corners=False, antialias=True)[
                    crop
                ].contiguous()
                for one in images.split(1, dim=1)
            ],
            dim=1,
        )
    (rows, down), (columns, across) = (
        _taps(length, count, start, outputs)
        for length, count, start, outputs in zip(images.shape[-2:], whole, first, size, strict=True)
    )
    down, across = (weights.to(images.device, dtype) for weights in (down, across))
    return torch.einsum("pr,ncrs,qs->ncpq", down, images[..., rows, columns].to(dtype), across)


def _taps(length: int, count: int, start: int, outputs: int) -> tuple[slice, Tensor]:
    """Of `length` pixels resized to `count`: those that the outputs from `start` on see, and (outputs, pixels) weights:
    a triangle about an output's centre, as wide as its step where the image shrinks, else two pixels."""
    step = length / count
    reach = max(1.0, step)
    low, high = start * step - reach, (start + outputs) * step + reach
    seen = slice(max(math.floor(low), 0), min(math.ceil(high) + 1, length))
    pixels = torch.arange(seen.start, seen.stop, dtype=torch.float64) + 0.5
    centres = (torch.arange(start, start + outputs, dtype=torch.float64).view(-1, 1) + 0.5) * step
    weights = (1 - (pixels - centres).abs() / reach).clamp_(min=0)
    return seen, weights / weights.sum(1, keepdim=True).clamp_(min=1e-30)
