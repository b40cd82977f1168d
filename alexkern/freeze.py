"""freeze(model): an inference snapshot with its weights packed for the device."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern import first_layer, functional
from alexkern.huge_pages import in_huge_pages
from alexkern.nn import FusedSequential, LocalResponseNorm, MaxPool2d, is_bare, run_length
from alexkern.ops.convolution import convolved_size
from alexkern.ops.errors import argument_error
from alexkern.ops.plan import is_channels_last

M = TypeVar("M", bound=nn.Module)

# The images of a large batch go through the convolutions and poolings so many at a time that an activation has at most
# these bytes: what one layer wrote is then in the cache for the next, and no allocation reaches the size (32 MiB) from
# which the C library maps fresh pages, which the kernel clears one by one.
CHUNK_BYTES = 12 * 2**20

# Up to so many rows a linear layer only reads its weight, once and in order: torch's own product does that faster.
FEW_ROWS = 2
# The batch that packed linear weights are laid out for; it serves smaller and larger ones as well as their own.
PACKED_ROWS = 64

OURS: dict[type[nn.Module], type[nn.Module]] = {nn.MaxPool2d: MaxPool2d, nn.LocalResponseNorm: LocalResponseNorm}


def freeze(
    model: M,
    example: Tensor | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> M:
    """An inference snapshot of a model: same structure, weights packed for the device, whole runs fused.

    Every nn.Sequential and FusedSequential in a copy of the model is replaced by a FrozenSequential, in which
    ``Conv2d[, ReLU[, MaxPool2d]]`` and ``Linear[, ReLU]`` are single steps and dropout is gone. On a CPU, weights of
    float32 and bfloat16 are reordered into the blocks that oneDNN's kernels read; elsewhere they are laid out
    channels_last and run by alexkern.functional. The numbers stay those of the model's dtype. Images are channels_last
    from the first step to the last. The sign of a zero behind a max-pooling is not kept: it is applied before the ReLU.

    The first convolution takes images as they come: float32 ones for a model in float16 or bfloat16, which it rounds,
    and, with `mean` and `std`, uint8 ones, which it normalises. If its stride is 4 and its channels are up to four, and
    a ReLU follows, its filters are packed for space to depth too: the CUDA C++ kernels then read images of any layout,
    cast and normalised on the way (docs/cuda-convolution.md), and it takes those of ``augment(space_to_depth=True)``.

    The snapshot is of this moment: later changes of the model, its weights included, are not seen. It has no gradients,
    and dropout stays off whatever train() says. It can be pickled and deep-copied; its repr says what was packed.

    Args:
        model: any module, in any mode. It is not changed.
        example: a batch as the model will get it; weights are then laid out for these sizes (others go on working).
        mean, std: of each channel, in units of 0 to 1: a byte x becomes (x / 255 - mean) / std, and the convolution's
            padding is 0 behind that. The model has to hand its images to its first convolution as they are, which has
            to be in an nn.Sequential.

    Returns:
        The snapshot, an instance of the model's own class (FrozenSequential for a Sequential), in eval mode.

    Raises:
        TypeError: model is no module.
        ArgumentError: mean and std are not both a finite number for each channel, or no convolution takes them.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"alexkern.freeze: model must be a torch.nn.Module, got {type(model).__name__}")
    # A pruned or weight-normed layer keeps its weight as a result of other parameters, which deepcopy refuses to copy.
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    snapshot = copy.deepcopy(model, computed).eval().requires_grad_(False)
    first = next((module for module in snapshot.modules() if isinstance(module, nn.Conv2d)), None)
    bytes_to = None if first is None else first_layer.normalisation(mean, std, first.in_channels)
    if example is not None and first is not None:
        example = first_layer.prepared(example, first.weight.dtype, bytes_to)
    sizes = {} if example is None else _input_sizes(snapshot, example)
    frozen: M = _frozen(snapshot, sizes)
    head = next((module for module in frozen.modules() if isinstance(module, (nn.Conv2d, FrozenConvolution))), None)
    if isinstance(head, FrozenConvolution):
        head.take_images(bytes_to)
    elif mean is not None or std is not None:
        want = "None where the model's first convolution is not in an nn.Sequential"
        raise argument_error("freeze", "std" if mean is None else "mean", repr(std if mean is None else mean), want)
    return frozen.eval()


def _input_sizes(model: nn.Module, example: Tensor) -> dict[nn.Module, tuple[int, ...]]:
    """The shape of what every convolution and linear layer gets, by running the example through the copy once."""
    sizes: dict[nn.Module, tuple[int, ...]] = {}

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        sizes[module] = tuple(args[0].shape)

    layers = [module for module in model.modules() if type(module) in (nn.Conv2d, nn.Linear)]
    handles = [module.register_forward_pre_hook(record) for module in layers]
    try:
        with torch.inference_mode():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def _frozen(module: Any, sizes: dict[nn.Module, tuple[int, ...]]) -> Any:
    if type(module) in (nn.Sequential, FusedSequential) and is_bare(module):
        return FrozenSequential(*_steps(list(module), sizes))
    if type(module) is nn.AdaptiveAvgPool2d and is_bare(module):
        return FrozenAdaptiveAvgPool2d(module.output_size)
    for name, child in module.named_children():
        setattr(module, name, _frozen(child, sizes))
    return module


def _steps(children: list[nn.Module], sizes: dict[nn.Module, tuple[int, ...]]) -> list[nn.Module]:
    steps: list[nn.Module] = []
    index = 0
    while index < len(children):
        first: Any = children[index]
        length = run_length(children, index)
        run = children[index : index + max(length, 1)]
        if type(first) is nn.Conv2d and is_bare(first) and _symmetric_padding(first) is not None:
            pool: Any = run[2] if len(run) == 3 else None
            steps.append(FrozenConvolution(first, length > 0, pool, sizes.get(first)))
        elif type(first) is nn.Linear and is_bare(first):
            steps.append(FrozenLinear(first, length > 0, sizes.get(first)))
        elif not (type(first) is nn.Dropout and is_bare(first)):
            run = [first]
            if type(first) in OURS and length > 0:
                first.__class__ = OURS[type(first)]
            steps.append(_frozen(first, sizes))
        index += len(run)
    return steps


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]


def _symmetric_padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """(vertical, horizontal) zero padding, "same" and "valid" resolved; None where it cannot be said so."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    return (top, left) if conv.padding_mode == "zeros" and (left, top) == (right, bottom) else None


class FrozenSequential(nn.Sequential):
    """The steps of a frozen Sequential. Made by :func:`freeze`."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and input.requires_grad:
            raise RuntimeError("alexkern.freeze: a frozen model has no gradients, and its input requires one")
        steps: list[Any] = list(self)
        leading = image_steps(steps) if input.dim() == 4 and input.device.type == "cpu" else 0
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
    """A layer whose weight is no parameter any more: on a CPU it lies in an order that only oneDNN can read."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, relu: bool, pays: bool = True):
        super().__init__()
        weight = layer.weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.relu = relu
        half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self.packed = bool(
            pays
            and weight.device.type == "cpu"
            and torch.backends.mkldnn.is_available()
            and (weight.dtype == torch.float32 or half)
        )
        self.set_weight(weight)
        self.eval()

    def set_weight(self, weight: Tensor) -> None:
        self.weight = self.pack(weight) if self.packed else self.lay_out(weight)

    def pack(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def lay_out(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def check(self, input: Tensor, channels: int, dimension: int) -> None:
        """oneDNN's operators trust their arguments."""
        if input.dtype != self.weight.dtype or input.device != self.weight.device:
            want = f"{self.weight.dtype} on {self.weight.device}, as frozen"
            raise argument_error("freeze", "input", f"{input.dtype} on {input.device}", want)
        if input.dim() < -dimension or input.shape[dimension] != channels:
            raise argument_error("freeze", "input", f"shape {tuple(input.shape)}", f"of {channels} channels")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"weight": self.weight.to_dense() if self.packed else self.weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.set_weight(self.weight)

    def describe(self) -> str:
        layout = "oneDNN blocks" if self.packed else "plain"
        return f"weight={str(self.weight.dtype).removeprefix('torch.')} in {layout}, relu={self.relu}"


class FrozenConvolution(FrozenStep):
    """Conv2d[, ReLU[, MaxPool2d]] with a packed filter. Made by :func:`freeze`."""

    def __init__(self, conv: nn.Conv2d, relu: bool, pool: nn.MaxPool2d | None, input_size: tuple[int, ...] | None):
        self.stride, self.dilation, self.groups = _pair(conv.stride), _pair(conv.dilation), conv.groups
        self.padding = _symmetric_padding(conv) or (0, 0)
        self.channels, self.channels_last = conv.in_channels, is_channels_last(conv.weight)
        self.window = None if pool is None else (pool.kernel_size, pool.stride, pool.padding)
        self.input_size = None if input_size is None or len(input_size) != 4 else input_size
        self.images: first_layer.Images | None = None  # of the first convolution
        super().__init__(conv, relu)

    def take_images(self, bytes_to: first_layer.Normalisation | None) -> None:
        """Be the first: round float32 to the weight's dtype, and normalise bytes."""
        in_depth = None
        if self.relu and self.weight.dtype != torch.float64:
            weight = self.weight.to_dense() if self.packed else self.weight
            in_depth = first_layer.in_depth(weight, self.stride, self.padding, self.dilation, self.groups)
        self.images = first_layer.Images(self.weight.dtype, self.channels, bytes_to, in_depth)

    def pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.aten.mkldnn_reorder_conv2d_weight(
            weight.to_mkldnn(), self.padding, self.stride, self.dilation, self.groups, self.input_size
        )
        return packed

    def lay_out(self, weight: Tensor) -> Tensor:
        return weight.contiguous(memory_format=torch.channels_last)

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
        if not self.packed:
            return self._through_functional(input)
        self.check(input, self.channels, -3)
        return self._step(input.unsqueeze(0)).squeeze(0).contiguous() if input.dim() == 3 else self._step(input)

    def image_bytes(self, input: Tensor) -> int:
        """Of one image in front of the convolution or behind it, the larger."""
        P, Q = convolved_size(input, self.weight, self.stride, self.padding, self.dilation)
        return max(math.prod(input.shape[1:]), self.weight.shape[0] * P * Q) * self.weight.dtype.itemsize

    def _step(self, images: Tensor) -> Tensor:
        # oneDNN's own ReLU would turn NaN into 0: attr "none", and ReLU in place.
        value: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, "none", [], ""
        )
        if self.window is not None:
            # The largest value survives the ReLU wherever it is applied: a quarter of the work behind the pooling.
            value = F.max_pool2d(value, *self.window)
        return value.relu_() if self.relu else value

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
        return f"{text}, {self.describe()}{pool}{images}"


class FrozenLinear(FrozenStep):
    """Linear[, ReLU] with a packed weight. Made by :func:`freeze`."""

    def __init__(self, linear: nn.Linear, relu: bool, input_size: tuple[int, ...] | None):
        super().__init__(linear, relu, pays=input_size is None or math.prod(input_size[:-1]) > FEW_ROWS)

    def pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)
        return packed

    def lay_out(self, weight: Tensor) -> Tensor:
        return in_huge_pages(weight.contiguous())

    def forward(self, input: Tensor) -> Tensor:
        if not self.packed:
            if self.relu:
                return functional.linear_relu_dropout(input, self.weight, self.bias, 0.0, False)
            return F.linear(input, self.weight, self.bias)
        self.check(input, self.weight.shape[1], -1)
        value: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return value.relu_() if self.relu else value

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, {self.describe()}"
