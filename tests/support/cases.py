"""The one source of conformance cases: every operator on every shape that has to work, for every backend.

A case names shapes and arguments only. Values, dtypes, layouts, backends and routes are the suite's. The registry gives
each operator's first case; the rest, and which of them the other tests take, stand in SUITES.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alexkern.ops.registry import OPERATORS

Shape = tuple[int, ...]
Tensors = list[Tensor | None]  # an operator's; None where one is left out


def each(of: Callable[[Tensor], Tensor], tensors: Iterable[Tensor | None]) -> Tensors:
    """Of those that are there."""
    return [None if tensor is None else of(tensor) for tensor in tensors]


def leaves_of(tensors: Iterable[Tensor | None]) -> Tensors:
    """Copies whose gradients are asked for."""
    return each(lambda tensor: tensor.detach().clone().requires_grad_(), tensors)


def channels_last(tensor: Tensor) -> Tensor:
    """Of images and filters; what has no channels stays as it is."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@dataclass(frozen=True)
class Case:
    operator: str
    label: str
    shapes: tuple[Shape | None, ...]  # of the tensor arguments; None where one is left out
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.operator}-{self.label}"

    def call(self, *tensors: Tensor | None) -> Tensor:
        return OPERATORS[self.operator].function(*tensors, **self.arguments)

    def draw(self, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensors:
        """Normal inputs; filters scaled so that outputs are about normal too."""
        tensors = [
            None if shape is None else torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in self.shapes
        ]
        if len(tensors) > 1:
            tensors[1] /= max(tensors[1][0].numel(), 1) ** 0.5
        return each(lambda tensor: tensor.to(dtype).to(device), tensors)


def _convolution(label: str, input: Shape, filters: Shape, bias: bool = True, **arguments: Any) -> Case:
    """filters is (K, R, S); the weight's channels follow from groups."""
    K, R, S = filters
    weight = (K, input[-3] // arguments.get("groups", 1), R, S)
    return Case("conv2d_relu", label, (input, weight, (K,) if bias else None), arguments)


# The five layers of the three networks, with fewer channels and smaller images, and the same filters, strides, padding
# and groups. The single tower's differ from torchvision's only in channels.
ALEXNET_CONVOLUTIONS = (
    _convolution("conv1", (2, 3, 39, 39), (16, 11, 11), stride=4, padding=2),
    _convolution("conv2", (2, 16, 9, 9), (24, 5, 5), padding=2),
    _convolution("conv3", (2, 24, 6, 6), (48, 3, 3), padding=1),
    _convolution("conv4", (2, 48, 6, 6), (32, 3, 3), padding=1),
    _convolution("conv5", (2, 32, 6, 6), (32, 3, 3), padding=1),
    _convolution("conv2_2012", (2, 16, 9, 9), (32, 5, 5), padding=2, groups=2),
    _convolution("conv4_2012", (2, 48, 6, 6), (48, 3, 3), padding=1, groups=2),
    _convolution("conv5_2012", (2, 48, 6, 6), (32, 3, 3), padding=1, groups=2),
)
RAGGED_CONVOLUTIONS = (
    _convolution("batch_0", (0, 3, 8, 8), (4, 3, 3)),
    _convolution("batch_1", (1, 5, 7, 9), (7, 3, 3), padding=1),
    _convolution("unbatched", (3, 7, 9), (5, 3, 3), padding=1),
    _convolution("channels_1", (3, 1, 6, 5), (1, 3, 3)),
    _convolution("channels_96", (1, 96, 5, 4), (96, 3, 3), padding=1),
    _convolution("no_bias", (2, 3, 8, 7), (6, 3, 3), bias=False),
    _convolution("image_1x1", (3, 8, 1, 1), (8, 1, 1)),
    _convolution("image_1x1_padded", (2, 8, 1, 1), (8, 3, 3), padding=1),
    _convolution("filter_1x1", (2, 16, 5, 5), (24, 1, 1)),
    _convolution("filter_1x1_stride", (2, 5, 6, 7), (3, 1, 1), stride=2),
    _convolution("filter_flat", (2, 3, 8, 9), (4, 1, 5), padding=(0, 2)),
    _convolution("stride_2_3", (2, 3, 11, 13), (5, 3, 3), stride=(2, 3), padding=(1, 0)),
    _convolution("stride_over_filter", (2, 3, 11, 10), (4, 2, 2), stride=3),
    _convolution("stride_4_first_layer", (1, 3, 31, 27), (8, 11, 11), stride=4, padding=2),
    _convolution("stride_4_no_padding", (2, 3, 24, 21), (8, 7, 7), stride=4),
    _convolution("dilation_2_1", (2, 4, 9, 8), (6, 3, 3), padding=(2, 1), dilation=(2, 1)),
    _convolution("dilation_stride", (1, 3, 12, 11), (4, 3, 2), stride=(2, 1), padding=(1, 2), dilation=(3, 2)),
    _convolution("padding_over_filter", (1, 2, 4, 4), (3, 2, 2), padding=3),
    _convolution("groups_3", (2, 9, 6, 6), (6, 3, 3), padding=1, groups=3),
    _convolution("depthwise", (2, 8, 6, 5), (16, 3, 3), padding=1, groups=8),
    _convolution("groups_stride_dilation", (2, 6, 11, 10), (4, 3, 3), stride=2, padding=2, dilation=2, groups=2),
    _convolution("padding_valid", (1, 3, 6, 6), (4, 3, 3), padding="valid"),
    _convolution("padding_same_even_height", (1, 3, 6, 7), (4, 2, 3), padding="same"),
    _convolution("padding_same_even_width", (1, 3, 6, 7), (4, 3, 2), padding="same"),
)


def _pooled(case: Case, **arguments: Any) -> Case:
    return Case("conv2d_relu_max_pool2d", case.label, case.shapes, case.arguments | arguments)


CONVOLUTIONS_WITH_POOL = (
    *(_pooled(case) for case in ALEXNET_CONVOLUTIONS if case.label in ("conv1", "conv2", "conv5", "conv2_2012")),
    *(_pooled(case) for case in RAGGED_CONVOLUTIONS if case.label in ("batch_0", "no_bias")),
    _pooled(_convolution("batch_1_odd", (1, 5, 8, 9), (7, 3, 3), padding=1)),
    _pooled(_convolution("unbatched", (3, 9, 11), (5, 3, 3))),
    _pooled(_convolution("row", (3, 16, 1, 11), (4, 1, 1), padding=1)),
    _pooled(_convolution("one_window", (2, 4, 3, 3), (8, 1, 1))),
    _pooled(_convolution("vgg", (2, 3, 8, 8), (8, 3, 3), padding=1), pool_kernel_size=2),
    _pooled(_convolution("padded_pool", (1, 3, 9, 9), (5, 3, 3)), pool_padding=1),
    *(
        _pooled(
            _convolution(f"pool_{window}_at_{stride}", (1, 8, 9, 10), (8, 3, 3)),
            pool_kernel_size=window,
            pool_stride=stride,
        )
        for window, stride in (((2, 3), 2), ((3, 2), 2), (3, (1, 2)), (3, (2, 1)))
    ),
    _pooled(
        _convolution("uneven", (2, 4, 10, 12), (6, 3, 2), stride=(1, 2), dilation=(2, 1), groups=2),
        pool_kernel_size=(2, 3),
        pool_stride=(1, 2),
        pool_padding=(1, 0),
    ),
)


def _pool(label: str, input: Shape, kernel_size: Any, **arguments: Any) -> Case:
    return Case("max_pool2d", label, (input,), {"kernel_size": kernel_size, **arguments})


POOLS = (
    _pool("pool1", (2, 16, 13, 13), 3, stride=2),
    _pool("pool2", (2, 24, 9, 9), 3, stride=2),
    _pool("pool5", (2, 32, 7, 7), 3, stride=2),
    _pool("batch_0", (0, 3, 5, 5), 3, stride=2),
    _pool("unbatched", (5, 7, 6), 3, stride=2),
    _pool("channels_1", (2, 1, 8, 7), 3, stride=2),
    _pool("one_channel", (1, 1, 13, 11), 3, stride=2, padding=1),
    _pool("row", (3, 16, 1, 11), 3, stride=2, padding=1),
    _pool("channels_5", (1, 5, 6, 9), 3, stride=2),
    _pool("channels_96", (1, 96, 5, 5), 3, stride=2),
    _pool("even_image", (2, 8, 8, 10), 3, stride=2),
    _pool("window_2", (2, 8, 6, 7), 2),
    _pool("window_1", (2, 3, 4, 4), 1),
    _pool("image_1x1", (3, 8, 1, 1), 1),
    _pool("overlapping_by_2", (1, 4, 7, 7), 3, stride=1, padding=1),
    _pool("uneven", (2, 3, 9, 11), (2, 5), stride=(3, 1), padding=(1, 2)),
    _pool("dilation", (1, 3, 11, 9), 3, stride=2, padding=1, dilation=(2, 1)),
    # 3x3 at stride 2 has code of its own in places: each of its numbers by itself is another one here.
    *(
        _pool(f"{kernel_size}_at_{stride}_by_{dilation}", (1, 8, 9, 8), kernel_size, stride=stride, dilation=dilation)
        for kernel_size, stride, dilation in (
            ((2, 3), 2, 1),
            ((3, 2), 2, 1),
            (3, (1, 2), 1),
            (3, (2, 1), 1),
            (3, 2, (2, 1)),
            (3, 2, (1, 2)),
        )
    ),
    _pool("ceil_mode", (2, 4, 8, 10), 3, stride=2, ceil_mode=True),
    _pool("ceil_mode_padded", (1, 3, 7, 8), (3, 2), stride=(2, 3), padding=1, ceil_mode=True),
    _pool("window_over_image", (1, 2, 3, 1), (3, 3), padding=1),
    _pool("window_289", (1, 2, 20, 19), 17, stride=3, padding=8),
)
DROPOUTS = (
    *(Case("dropout", label, (shape,), {}) for label, shape in (("fc", (4, 96)), ("odd", (3, 5, 7)), ("scalar", ()))),
    Case("dropout", "one", ((1,),), {"p": 0.3}),
    Case("dropout", "images", ((2, 5, 3, 4),), {"p": 0.1}),
    Case("dropout", "row", ((3, 16, 1, 11),), {"p": 0.3}),
    Case("dropout", "everything", ((2, 9),), {"p": 1.0}),
    Case("dropout", "nothing", ((2, 9),), {"p": 0.0}),
    Case("dropout", "evaluating", ((2, 9),), {"training": False}),
    Case("dropout", "empty", ((0, 4),), {}),
)


def _linear(label: str, input: Shape, out_features: int, bias: bool = True, **arguments: Any) -> Case:
    shapes = (input, (out_features, input[-1]), (out_features,) if bias else None)
    return Case("linear_relu_dropout", label, shapes, arguments)


LINEARS = (
    _linear("fc6", (4, 72), 48),
    _linear("fc7", (5, 48), 40, p=0.2),
    _linear("batch_0", (0, 6), 5),
    _linear("batch_1", (1, 33), 17),
    _linear("vector", (7,), 5),
    _linear("three_dimensions", (2, 3, 10), 7),
    _linear("no_bias", (3, 9), 11, bias=False),
    _linear("evaluating", (6, 20), 9, training=False),
    _linear("p_0", (3, 8), 8, p=0.0),
    _linear("p_1", (3, 8), 8, p=1.0),
    _linear("one_feature", (4, 1), 1),
    _linear("no_features", (3, 0), 4),
    _linear("no_features_p_0", (3, 0), 4, p=0.0),
    _linear("no_features_vector", (0,), 3),
    _linear("no_features_three_dimensions", (2, 3, 0), 3),
    _linear("no_rows", (2, 0, 5), 3),
)


def _norm(label: str, input: Shape, size: int, **arguments: Any) -> Case:
    return Case("local_response_norm", label, (input,), {"size": size, **arguments})


NORMS = (
    _norm("norm1", (2, 24, 5, 5), 5, alpha=5e-4, beta=0.75, k=2.0),
    _norm("norm2", (1, 32, 4, 3), 5, alpha=5e-4, beta=0.75, k=2.0),
    _norm("strong", (2, 7, 3, 4), 3, alpha=0.9, beta=0.6, k=0.5),
    _norm("even_size", (1, 9, 2, 5), 4, alpha=0.3),
    _norm("size_1", (2, 5, 3, 3), 1, alpha=0.5, beta=1.0),
    _norm("size_over_channels", (2, 3, 2, 2), 9, alpha=0.5, beta=0.5),
    _norm("sequences", (2, 6, 5), 3, alpha=0.4),
    _norm("volumes", (1, 4, 2, 3, 2), 3, alpha=0.4),
    _norm("channels_1", (2, 1, 3, 3), 5, alpha=0.5),
    _norm("one_channel", (1, 1, 13, 11), 5, alpha=0.5),
    _norm("row", (3, 16, 1, 11), 5, alpha=0.1),
    _norm("batch_0", (0, 4, 3, 3), 5),
)


@dataclass(frozen=True)
class Suite:
    """What the tests know of an operator: its cases, and by their labels those that a kind of test takes."""

    cases: tuple[Case, ...]
    small: tuple[tuple[Shape, ...], dict[str, Any]]  # shapes and arguments for finite differences
    keeps: tuple[str, ...]  # for backward: README's last column
    autograd: str
    compile: str
    func: str | None  # None: torch.func refuses its randomness
    sanitizers: tuple[str, ...]  # with ragged edges
    layouts: tuple[str, ...]

    def case(self, label: str) -> Case:
        return next(case for case in self.cases if case.label == label)


SUITES = {
    "conv2d_relu": Suite(
        (*ALEXNET_CONVOLUTIONS, *RAGGED_CONVOLUTIONS),
        small=(((1, 2, 4, 4), (2, 2, 3, 3), (2,)), {"padding": 1}),
        keeps=("input", "weight", "output"),
        autograd="stride_4_first_layer",
        compile="groups_stride_dilation",
        func="groups_3",
        sanitizers=("stride_2_3", "groups_3"),
        layouts=("conv1", "conv2_2012", "conv3", "unbatched", "filter_1x1", "image_1x1", "channels_1", "groups_3"),
    ),
    "conv2d_relu_max_pool2d": Suite(
        CONVOLUTIONS_WITH_POOL,
        small=(((1, 2, 5, 5), (2, 2, 3, 3), (2,)), {"padding": 1}),
        keeps=("input", "weight", "offsets"),
        autograd="uneven",
        compile="uneven",
        func="vgg",
        sanitizers=("batch_1_odd",),
        layouts=("conv1", "conv5", "batch_1_odd", "unbatched", "uneven"),
    ),
    "max_pool2d": Suite(
        POOLS,
        small=(((1, 2, 5, 5),), {"kernel_size": 3, "stride": 2}),
        keeps=("offsets",),
        autograd="pool1",
        compile="uneven",
        func="uneven",
        sanitizers=("pool1", "uneven"),
        layouts=("pool1", "channels_1", "channels_5", "unbatched", "image_1x1", "uneven"),
    ),
    "dropout": Suite(
        DROPOUTS,
        small=(((3, 4),), {}),
        keeps=("seed",),
        autograd="fc",
        compile="images",
        func=None,
        sanitizers=("odd",),
        layouts=("fc", "odd", "images"),
    ),
    "linear_relu_dropout": Suite(
        LINEARS,
        small=(((3, 4), (5, 4), (5,)), {}),
        keeps=("input", "weight", "mask", "seed"),
        autograd="fc6",
        compile="fc6",
        func="evaluating",
        sanitizers=("fc7",),
        layouts=("fc7", "three_dimensions", "vector"),
    ),
    "local_response_norm": Suite(
        NORMS,
        small=(((1, 5, 2, 2),), {"size": 3, "alpha": 0.5}),
        keeps=("input",),
        autograd="norm1",
        compile="norm1",
        func="even_size",
        sanitizers=("norm2", "even_size"),
        layouts=("norm1", "even_size", "sequences"),
    ),
}


def small(operator: str) -> Case:
    return Case(operator, "small", *SUITES[operator].small)


def cases(operator: str) -> tuple[Case, ...]:
    """The registry's example, then those of the operator's suite."""
    example = OPERATORS[operator].example
    bound = inspect.signature(OPERATORS[operator].function).bind(*example.shapes, *example.public)
    arguments = dict(list(bound.arguments.items())[len(example.shapes) :])
    own = SUITES[operator].cases if operator in SUITES else ()
    return Case(operator, "example", example.shapes, arguments), *own


CASES = tuple(case for operator in OPERATORS for case in cases(operator))
