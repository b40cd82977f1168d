"""conv2d_relu_max_pool2d: max_pool2d(relu(conv2d(input, weight, bias)))."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from alexkern.geometry import Pair
from alexkern.references import conv2d_relu, max_pool2d
from alexkern.references.reference import Case, Reference, passes


def forward(*args: Any) -> Tensor:
    return F.max_pool2d(conv2d_relu.forward(*args[:7]), *args[7:10])


def along(outputs: tuple[Tensor, ...], *args: Any) -> Tensor:
    output, offsets, *_ = outputs
    passed = passes(output)
    kernel_size, stride, padding, _ = args[7:]
    return max_pool2d.take(F.conv2d(*args[:7]), offsets, passed, kernel_size, stride, padding, (1, 1)) * passed


def pooled(call: Case, size: Pair = (3, 3), stride: Pair = (2, 2), padding: Pair = (0, 0)) -> Case:
    return call._replace(arguments=(*call.arguments, size, stride, padding, True))


REFERENCE = Reference(
    cases=(
        pooled(conv2d_relu.case("first layer", (2, 3, 39, 39), (16, 3, 11, 11), stride=4, padding=2)),
        pooled(conv2d_relu.case("two groups", (2, 16, 9, 9), (32, 8, 5, 5), padding=2, groups=2)),
        pooled(conv2d_relu.case("vgg", (2, 3, 8, 7), (8, 3, 3, 3), padding=1), (2, 2)),
        pooled(
            conv2d_relu.case("ragged", (2, 4, 10, 12), (6, 2, 3, 2), stride=(1, 2), dilation=(2, 1), groups=2),
            (2, 3),
            (1, 2),
            (1, 0),
        ),
        pooled(conv2d_relu.without_bias(conv2d_relu.case("no bias", (1, 5, 9, 9), (7, 5, 3, 3)))),
    ),
    layers=(
        pooled(conv2d_relu.case("alexnet conv2", (32, 64, 27, 27), (192, 64, 5, 5), padding=2)),
        pooled(conv2d_relu.case("alexnet conv1", (32, 3, 224, 224), (64, 3, 11, 11), stride=4, padding=2)),
        pooled(conv2d_relu.case("alexnet conv5", (32, 256, 13, 13), (256, 256, 3, 3), padding=1)),
    ),
    forward=forward,
    along=along,
)
