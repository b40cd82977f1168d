"""conv2d_relu by csrc/cuda/conv2d_relu: implicit matrix products on NHWC memory, bias and ReLU in the epilogue."""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.backends.cuda import chip_of, launch, sm90, space_to_depth
from alexkern.backends.cuda.layout import (
    COPY_BYTES,
    Packed,
    copy_bytes_of,
    operands,
    pack,
    packed,
    padded,
    pixel_tiles,
    turned,
    workspace,
)
from alexkern.backends.cuda.space_to_depth import pays as goes_deep
from alexkern.cost import sm80
from alexkern.geometry import Geometry, Pair, convolution
from alexkern.plan import Spec, convolved, empty, like, strides

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

BIAS_CHUNKS = 256  # chunks that a bias gradient is summed in, at most
CHUNKS_AT_ONCE = 32  # that a thread adds up: more of them wait for one another's loads


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    geometry = convolution(input, weight, stride, padding, dilation, groups)
    output = empty(convolved(geometry, input, weight), input.device)
    bias = None if bias is None else bias.contiguous()
    if goes_deep(input, geometry):
        convolve_in_depth(input, filters_in_depth(weight), bias, output, geometry)
        return output
    images, filters = operands(input, weight, groups)
    _convolve(images, filters, bias, output, geometry, False)
    return output


def filters_in_depth(weight: Tensor) -> Tensor:
    """(K, C, R, S) to (K, ceil(R / 4), ceil(S / 4), 16 C): what `convolve_in_depth` takes."""
    R, S = (-(-size // space_to_depth.FACTOR) for size in weight.shape[2:])
    return space_to_depth.relayout(weight, (R, S), (0, 0)).memory


def convolve_in_depth(
    input: Tensor,
    filters: Tensor,
    bias: Tensor | None,
    output: Tensor,
    geometry: Geometry,
    normalisation: space_to_depth.Normalisation | None = None,
) -> None:
    """output = relu(convolution + bias) of stride 4 by space to depth; the input may be of any of its dtypes."""
    seen = geometry.in_depth(space_to_depth.FACTOR)
    deep = space_to_depth.relayout(input, (seen.H, seen.W), geometry.padding, output.dtype, normalisation)
    _convolve(Packed(deep.memory, seen.C), Packed(filters, seen.C), bias, output, seen, False)
    if geometry.R % space_to_depth.FACTOR or geometry.S % space_to_depth.FACTOR:  # the filters have zeros behind them
        space_to_depth.amend(deep, filters, bias, output, geometry)


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    output: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    """Gradients of input, weight and bias, those that `needs` asks for."""
    masked, bias_grad = masked_gradient(grad, output, groups, needs[2])
    geometry = convolution(input, weight, stride, padding, dilation, groups)
    input_grad = data_gradient(masked, input, weight, geometry) if needs[0] else None
    weight_grad = weight_gradient(masked, input, weight, geometry) if needs[1] else None
    return input_grad, weight_grad, bias_grad


def masked_gradient(grad: Tensor, output: Tensor, groups: int, with_bias: bool) -> tuple[Packed, Tensor | None]:
    """The gradient (N, K, P, Q) behind the ReLU, packed, and its sum over the pixels: the bias's gradient."""
    N, K, P, Q = grad.shape
    channels = padded(K // groups, grad.dtype, COPY_BYTES)
    memory = workspace((N, P, Q, groups * channels), grad)
    chunks = pixel_tiles(N * P * Q)
    if not with_bias:
        pack(grad, memory, groups, channels, chunks, mask=output)
        return Packed(memory, channels), None
    chunks = min(max(chunks, 1), BIAS_CHUNKS)
    sums = workspace((chunks, groups * channels), grad, torch.float32)
    pack(grad, memory, groups, channels, chunks, mask=output, sums=sums)
    return Packed(memory, channels), bias_gradient(sums, groups, channels, K, grad.dtype)


def bias_gradient(sums: Tensor, groups: int, channels: int, K: int, dtype: torch.dtype) -> Tensor:
    """The total (K,) of a masked gradient's sums (chunks, groups * channels), each group's channels padded."""
    bias_grad = empty(Spec((K,), (1,), dtype), sums.device)
    chunks, values = sums.shape
    if chunks > CHUNKS_AT_ONCE and chunks % CHUNKS_AT_ONCE == 0:
        rest = workspace((chunks // CHUNKS_AT_ONCE, values), sums)
        _reduce(sums.view(CHUNKS_AT_ONCE, -1), 1, rest.numel(), None, rest.view(1, -1, 1, 1), False)
        sums = rest
    _reduce(sums, groups, channels, None, bias_grad.view(1, K, 1, 1), False)
    return bias_grad


def data_gradient(grad: Packed, input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The input's gradient; `grad` is that of the output before the ReLU."""
    input_grad = empty(like(input), input.device)
    _convolve(grad, turned(weight, geometry.groups), None, input_grad, geometry, True)
    return input_grad


def weight_gradient(grad: Packed, input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The weight's gradient; `grad` is that of the output before the ReLU."""
    weight_grad = empty(like(weight), weight.device)
    if weight_grad.numel() == 0:
        return weight_grad
    if not goes_deep(input, geometry, gradient=True):
        images = packed(input, geometry.groups, copy_bytes_of(weight.shape[1], input.dtype))
        _weight_gradient(grad, images, weight_grad, geometry)
        return weight_grad
    seen = geometry.in_depth(space_to_depth.FACTOR)
    images = Packed(space_to_depth.relayout(input, (seen.H, seen.W), geometry.padding).memory, seen.C)
    filters = workspace((seen.K, seen.R, seen.S, seen.C), input)
    _weight_gradient(grad, images, filters.permute(0, 3, 1, 2), seen)
    space_to_depth.back(filters, weight_grad)
    return weight_grad


def _weight_gradient(grad: Packed, images: Packed, into: Tensor, geometry: Geometry) -> None:
    partials = sm90.weight_gradient(grad, images, geometry)
    if partials is None:
        choice = choose(into, sm80.weight_product(geometry, images.channels))
        shape = (choice[1], geometry.K, geometry.R, geometry.S, images.channels)
        partials = workspace(shape, into, torch.float32)
        launch(
            "conv2d_relu_weight_gradient",
            into,
            is_tf32(into),
            geometry,
            images.memory.data_ptr(),
            images.channels,
            grad.memory.data_ptr(),
            grad.channels,
            partials.data_ptr(),
            choice,
        )
    _reduce(partials, 1, images.channels, None, into, False)


def _convolve(
    images: Packed,
    filters: Packed,
    bias: Tensor | None,
    output: Tensor,
    geometry: Geometry,
    transposed: bool,
) -> None:
    """output = relu(convolution + bias); `transposed`: output = the data gradient of a convolution, images its grad."""
    if output.numel() == 0:
        return
    groups = geometry.groups
    filters_per_group = (geometry.C if transposed else geometry.K) // groups
    plan = sm90.plan(images, output, geometry, transposed)
    if plan is not None:
        partials = sm90.convolve(plan, images, filters.memory, bias, output)
        if partials is not None:
            _reduce(partials, groups, filters_per_group, bias, output, not transposed)
        return
    padded_K = filters_per_group + filters_per_group % 2  # sums are stored in pairs
    product = (sm80.data_product if transposed else sm80.forward_product)(geometry, images.channels)
    choice = choose(output, product)
    partials = None
    if choice[1] > 1:
        N, _, P, Q = output.shape
        partials = workspace((choice[1], N, P, Q, groups * padded_K), output, torch.float32)
    launch(
        "conv2d_relu_convolve",
        output,
        is_tf32(output),
        geometry,
        transposed,
        images.memory.data_ptr(),
        images.channels,
        filters.memory.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if partials is None else partials.data_ptr(),
        padded_K,
        output.data_ptr(),
        strides(output),
        choice,
    )
    if partials is not None:
        _reduce(partials, groups, padded_K, bias, output, not transposed)


def _reduce(partials: Tensor, groups: int, channels: int, bias: Tensor | None, output: Tensor, relu: bool) -> None:
    """output (N, groups * C, H, W) = the sum of partials (splits, N, H, W, groups, channels), bias and ReLU behind."""
    launch(
        "conv2d_relu_reduce",
        output,
        partials.data_ptr(),
        partials.shape[0],
        groups,
        channels,
        0 if bias is None else bias.data_ptr(),
        output.data_ptr(),
        output.shape,
        strides(output),
        relu,
    )


def on_sm90(input: Tensor, geometry: Geometry) -> bool:
    """Whether csrc/cuda/sm90 serves this convolution."""
    seen = geometry.in_depth(space_to_depth.FACTOR) if goes_deep(input, geometry) else geometry
    return sm90.convolves(input, seen, padded(seen.C // seen.groups, input.dtype))


def is_tf32(tensor: Tensor) -> bool:
    """Whether torch's own convolution would take TF32 for this tensor."""
    if tensor.dtype != torch.float32:
        return False
    backend = "cuda" if tensor.device.type == "cuda" else "mkldnn"
    return bool(torch._C._get_fp32_precision_getter(backend, "conv") == "tf32")


def choose(tensor: Tensor, product: sm80.Product) -> sm80.Choice:
    return sm80.choose(tensor.dtype.itemsize, product, chip_of(tensor))
