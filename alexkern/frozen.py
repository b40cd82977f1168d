"""The modules of a snapshot: runs of layers as single steps, their weights packed for the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern import first_layer, functional
from alexkern.backends.cpu import winograd
from alexkern.backends.cpu.huge_pages import in_huge_pages
from alexkern.dispatch import is_direct
from alexkern.errors import argument_error
from alexkern.geometry import convolved_size
from alexkern.nn import LocalResponseNorm, MaxPool2d, is_bare
from alexkern.plan import is_channels_last

# The images of a large batch go through the convolutions and poolings so many at a time that an activation has at most
# these bytes: what one layer wrote is then in the cache for the next, and no allocation reaches the size (32 MiB) from
# which the C library maps fresh pages, which the kernel clears one by one.
CHUNK_BYTES = 12 * 2**20

# Rows of a product with a weight of at least so many elements, between which torch's own took up to 1.9 times as long
# as with exchanged operands: measured on two cores with AVX-512 and AMX, 256 x 512 to 4096 x 9216, 1 to 512 rows.
LARGE = 2**20
FEWEST_ROWS = {torch.float32: 5, torch.bfloat16: 1}
MOST_ROWS = 192

OURS: dict[type[nn.Module], type[nn.Module]] = {nn.MaxPool2d: MaxPool2d, nn.LocalResponseNorm: LocalResponseNorm}


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]


def symmetric_padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """(vertical, horizontal) zero padding, "same" and "valid" resolved; None where it cannot be said so."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    return (top, left) if conv.padding_mode == "zeros" and (left, top) == (right, bottom) else None


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


class FrozenStep(nn.Module):
    """A layer whose weight is no parameter any more."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, relu: bool):
        super().__init__()
        weight = layer.weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach().contiguous()
        self.relu = relu
        half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self.by_onednn = bool(
            weight.device.type == "cpu"
            and torch.backends.mkldnn.is_available()
            and (weight.dtype == torch.float32 or half)
        )
        self.set_weight(weight)
        self.eval()

    def set_weight(self, weight: Tensor) -> None:
        raise NotImplementedError

    def plain_weight(self) -> Tensor:
        """As torch has it."""
        return self.weight

    def check(self, input: Tensor, channels: int, dimension: int) -> None:
        """oneDNN's operators trust their arguments."""
        if input.dtype != self.weight.dtype or input.device != self.weight.device:
            want = f"{self.weight.dtype} on {self.weight.device}, as frozen"
            raise argument_error("freeze", "input", f"{input.dtype} on {input.device}", want)
        if input.dim() < -dimension or input.shape[dimension] != channels:
            raise argument_error("freeze", "input", f"shape {tuple(input.shape)}", f"of {channels} channels")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"weight": self.plain_weight()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.set_weight(self.weight)

    def describe(self, layout: str) -> str:
        return f"weight={str(self.weight.dtype).removeprefix('torch.')} {layout}, relu={self.relu}"


class FrozenConvolution(FrozenStep):
    """Conv2d[, ReLU[, MaxPool2d]] with a packed filter. Made by :func:`freeze`."""

    def __init__(self, conv: nn.Conv2d, relu: bool, pool: nn.MaxPool2d | None, input_size: tuple[int, ...] | None):
        self.stride, self.dilation, self.groups = _pair(conv.stride), _pair(conv.dilation), conv.groups
        self.padding = symmetric_padding(conv) or (0, 0)
        self.channels, self.channels_last = conv.in_channels, is_channels_last(conv.weight)
        self.window = None if pool is None else (pool.kernel_size, pool.stride, pool.padding)
        self.input_size = None if input_size is None or len(input_size) != 4 else input_size
        self.images: first_layer.Images | None = None  # of the first convolution
        self.in_tiles: winograd.Filters | None = None
        super().__init__(conv, relu)

    def take_images(self, bytes_to: first_layer.Normalisation | None) -> None:
        """Be the first: round float32 to the weight's dtype, and normalise bytes."""
        in_depth = None
        if self.relu and self.weight.dtype != torch.float64:
            in_depth = first_layer.in_depth(self.plain_weight(), self.stride, self.padding, self.dilation, self.groups)
        self.images = first_layer.Images(self.weight.dtype, self.channels, bytes_to, in_depth)

    def set_weight(self, weight: Tensor) -> None:
        if not self.by_onednn:
            self.weight = weight.contiguous(memory_format=torch.channels_last)
            return
        self.weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(
            weight.to_mkldnn(), self.padding, self.stride, self.dilation, self.groups, self.input_size
        )
        self.in_tiles = winograd.pack(weight, self.stride, self.padding, self.dilation, self.groups)

    def plain_weight(self) -> Tensor:
        return self.weight.to_dense() if self.by_onednn else self.weight

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"in_tiles": None}

    def forward(self, input: Tensor) -> Tensor:
        if self.images is not None:
            if input.dim() == 3:
                return self.forward(input.unsqueeze(0)).squeeze(0).contiguous()
            value = self.images.convolved(input, self.bias)
            if value is not None:
                return value if self.window is None else functional.max_pool2d(value, *self.window)
            input = self.images.prepared(input)
            if input.dim() == 4:
                input = input.contiguous(memory_format=torch.channels_last)
        if not self.by_onednn:
            return self._through_functional(input)
        self.check(input, self.channels, -3)
        return self._step(input.unsqueeze(0)).squeeze(0).contiguous() if input.dim() == 3 else self._step(input)

    def image_bytes(self, input: Tensor) -> int:
        """Of one image in front of the convolution or behind it, the larger."""
        P, Q = convolved_size(input, self.weight, self.stride, self.padding, self.dilation)
        return max(math.prod(input.shape[1:]), self.weight.shape[0] * P * Q) * self.weight.dtype.itemsize

    def _step(self, images: Tensor) -> Tensor:
        if self.window is None:
            return self._convolved(images, self.relu)
        # The largest value survives the ReLU wherever it is applied: a quarter of the work behind the pooling.
        value = F.max_pool2d(self._convolved(images, False), *self.window)
        return value.relu_() if self.relu else value

    def goes_in_tiles(self, images: Tensor) -> bool:
        """Whether images are convolved in fewer products: where that pays, and nothing but numbers is asked for."""
        return self.in_tiles is not None and is_direct(images) and winograd.pays(images, self.in_tiles)

    def _convolved(self, images: Tensor, relu: bool) -> Tensor:
        value: Tensor | None = None
        if self.goes_in_tiles(images):
            assert self.in_tiles is not None
            value = winograd.convolve(images, self.in_tiles, self.bias, relu)
        if value is not None:
            return value
        # oneDNN's own ReLU would turn NaN into 0: attr "none", and ReLU in place.
        value = torch.ops.mkldnn._convolution_pointwise(
            images, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, "none", [], ""
        )
        return value.relu_() if relu else value

    def _through_functional(self, input: Tensor) -> Tensor:
        args = (input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        if not self.relu:
            return F.conv2d(*args)
        if self.window is None:
            return functional.conv2d_relu(*args)
        kernel_size, stride, padding = self.window
        return functional.conv2d_relu_max_pool2d(
            *args,
            pool_kernel_size=kernel_size,
            pool_stride=stride,
            pool_padding=padding,
        )

    def extra_repr(self) -> str:
        K, _, R, S = self.weight.shape
        text = f"{self.channels}, {K}, kernel_size=({R}, {S}), stride={self.stride}, padding={self.padding}"
        pool = "" if self.window is None else f", max_pool={self.window}"
        images = "" if self.images is None else self.images.describe()
        tiles = "" if self.in_tiles is None else f" and for {self.in_tiles.describe()}"
        layout = f"in oneDNN blocks{tiles}" if self.by_onednn else "plain"
        return f"{text}, {self.describe(layout)}{pool}{images}"


class FrozenLinear(FrozenStep):
    """Linear[, ReLU] with its weight in huge pages. Made by :func:`freeze`."""

    def set_weight(self, weight: Tensor) -> None:
        self.weight = in_huge_pages(weight.contiguous())

    def forward(self, input: Tensor) -> Tensor:
        if not self.by_onednn:
            return self._as_torch_does(input)
        self.check(input, self.weight.shape[1], -1)
        rows = math.prod(input.shape[:-1])
        if self.weight.numel() < LARGE or not FEWEST_ROWS[self.weight.dtype] <= rows <= MOST_ROWS:
            return self._as_torch_does(input)
        return self._exchanged(input.reshape(rows, -1)).view(*input.shape[:-1], -1)

    def _as_torch_does(self, input: Tensor) -> Tensor:
        if self.relu:
            return functional.linear_relu_dropout(input, self.weight, self.bias, 0.0, False)
        return F.linear(input, self.weight, self.bias)

    def _exchanged(self, input: Tensor) -> Tensor:
        """As (K, rows): oneDNN then streams the weight once, in its own order, while it multiplies. As the second
        operand, in blocks, it would be gone through again for every few rows, and waited for."""
        if self.bias is None:
            value: Tensor = torch.ops.mkldnn._linear_pointwise(self.weight, input, None, "none", [], "")
        else:
            columns = self.bias.unsqueeze(1).expand(-1, len(input)).contiguous()  # added before the sum is rounded
            value = torch.ops.mkldnn._linear_pointwise.binary(self.weight, columns, input, None, "add")
        value = value.t().contiguous()
        return value.relu_() if self.relu else value

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, {self.describe('plain')}"
