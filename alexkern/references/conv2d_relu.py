"""conv2d_relu: relu(conv2d(input, weight, bias))."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from alexkern.references.reference import Case, Reference, Shape, passes


def case(
    label: str, input: Shape, weight: Shape, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Case:
    """A call with a bias, numbers as pairs."""
    pairs = ((value, value) if isinstance(value, int) else value for value in (stride, padding, dilation))
    return Case(label, (input, weight, (weight[0],)), (*pairs, groups))


def forward(*args: Any) -> Tensor:
    return F.relu(F.conv2d(*args))


def along(outputs: tuple[Tensor, ...], *args: Any) -> Tensor:
    return F.conv2d(*args) * passes(outputs[0])


def without_bias(call: Case) -> Case:
    return call._replace(shapes=(*call.shapes[:2], None))


REFERENCE = Reference(
    cases=(
        case("first layer", (2, 3, 31, 27), (16, 3, 11, 11), stride=4, padding=2),
        case("third layer", (2, 24, 6, 6), (40, 24, 3, 3), padding=1),
        case("two groups", (2, 16, 9, 9), (32, 8, 5, 5), padding=2, groups=2),
        case("ragged", (3, 5, 7, 9), (7, 5, 3, 3), stride=(2, 1), padding=(1, 0)),
        case("dilated, grouped", (2, 6, 11, 10), (4, 3, 3, 2), stride=2, padding=2, dilation=2, groups=2),
        without_bias(case("1x1, no bias", (2, 16, 5, 4), (24, 16, 1, 1))),
    ),
    layers=(
        case("alexnet conv3", (32, 192, 13, 13), (384, 192, 3, 3), padding=1),
        case("alexnet conv1", (32, 3, 224, 224), (64, 3, 11, 11), stride=4, padding=2),
        case("alexnet conv2", (32, 64, 27, 27), (192, 64, 5, 5), padding=2),
        case("alexnet_2012 conv2", (32, 96, 27, 27), (256, 48, 5, 5), padding=2, groups=2),
    ),
    forward=forward,
    along=along,
)
