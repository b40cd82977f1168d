"""max_pool2d: the maximum of every window."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.geometry import Pair
from alexkern.references.reference import Case, Reference, Shape


def take(
    image: Tensor, offsets: Tensor, counts: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """The values of `image` at the window offsets r * S + s, where `counts`; elsewhere any value.

    Raises:
        ValueError: an offset that counts lies outside of the image.
    """
    places = []
    for axis, steps in enumerate((offsets.long() // kernel_size[1], offsets.long() % kernel_size[1])):
        origins = torch.arange(offsets.shape[2 + axis], device=offsets.device) * stride[axis] - padding[axis]
        place = (origins.unsqueeze(1) if axis == 0 else origins) + steps * dilation[axis]
        if bool((counts & ((place < 0) | (place >= image.shape[2 + axis]))).any()):
            raise ValueError("an offset tells of a maximum outside of the image")
        places.append(place.clamp(0, image.shape[2 + axis] - 1))
    flat = (places[0] * image.shape[3] + places[1]).flatten(2)
    return image.flatten(2).gather(2, flat).view(offsets.shape)


def forward(input: Tensor, *args: Any) -> Tensor:
    *window, _ = args
    return F.max_pool2d(input, *window)


def along(outputs: tuple[Tensor, ...], input: Tensor, *args: Any) -> Tensor:
    *window, _, _ = args
    return take(input, outputs[1], torch.ones_like(outputs[1], dtype=torch.bool), *window)


def case(
    label: str, input: Shape, size: Pair, stride: Pair, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> Case:
    return Case(label, (input,), (size, stride, (padding, padding), (dilation, dilation), ceil_mode, True))


REFERENCE = Reference(
    cases=(
        case("first layer", (2, 16, 13, 13), (3, 3), (2, 2)),
        case("ragged", (2, 5, 8, 11), (2, 3), (3, 1), padding=1),
        case("dilated", (1, 3, 11, 9), (3, 3), (2, 2), padding=1, dilation=2),
        case("rounded up", (2, 4, 8, 10), (3, 3), (2, 2), ceil_mode=True),
        case("window of 289", (1, 2, 20, 19), (17, 17), (9, 9), padding=8),
        case("windows that touch", (2, 16, 6, 7), (2, 2), (2, 2)),
    ),
    layers=(
        case("alexnet pool1", (32, 64, 55, 55), (3, 3), (2, 2)),
        case("alexnet pool5", (32, 256, 13, 13), (3, 3), (2, 2)),
    ),
    forward=forward,
    along=along,
)
