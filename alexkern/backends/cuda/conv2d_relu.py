"""conv2d_relu by csrc/cuda/conv2d_relu: implicit matrix products on NHWC memory, bias and ReLU in the epilogue."""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.backends.cuda import chip_of, launch, sm90, space_to_depth, strides
from alexkern.backends.cuda.layout import (
    COPY_BYTES,
    Packed,
    copy_bytes_of,
    is_packed,
    operands,
    pack,
    packed,
    padded,
    pixel_tiles,
    turned,
    workspace,
)
from alexkern.cost import sm80
from alexkern.geometry import Geometry
from alexkern.plan import Spec, conv2d_relu_output, empty, like

Pair = tuple[int, int]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

BIAS_PARTS = 256  # parts that a bias gradient is summed in, at most
PARTS_AT_ONCE = 32  # that a thread adds up: more of them wait for one another's loads


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    output = empty(conv2d_relu_output(input, weight, bias, stride, padding, dilation, groups), input.device)
    R, S = weight.shape[2:]
    bias = None if bias is None else bias.contiguous()
    geometry = Geometry((R, S), stride, padding, dilation, groups)
    if goes_deep(input, len(weight), (output.shape[2], output.shape[3]), geometry):
        convolve_in_depth(input, filters_in_depth(weight), bias, output, geometry)
        return output
    images, filters = operands(input, weight, groups)
    _convolve(images, filters, bias, output, (input.shape[2], input.shape[3]), geometry, False)
    return output


def goes_deep(input: Tensor, filters: int, output_size: Pair, geometry: Geometry, gradient: bool = False) -> bool:
    """Whether a convolution, or its weight gradient, is served over space_to_depth's images."""
    in_place = is_packed(input, geometry.groups, copy_bytes_of(input.shape[1], input.dtype))
    return space_to_depth.pays(input, filters, output_size, geometry, gradient, in_place)


def filters_in_depth(weight: Tensor) -> Tensor:
    """(K, C, R, S) to (K, ceil(R / 4), ceil(S / 4), 16 C): what `convolve_in_depth` takes."""
    size = space_to_depth.kernel_size_in_depth((weight.shape[2], weight.shape[3]))
    return space_to_depth.relayout(weight, size, (0, 0)).memory


def convolve_in_depth(
    input: Tensor,
    filters: Tensor,
    bias: Tensor | None,
    output: Tensor,
    geometry: Geometry,
    normalisation: space_to_depth.Normalisation | None = None,
) -> None:
    """output = relu(convolution + bias) of stride 4 by space to depth; the input may be of any of its dtypes."""
    seen = space_to_depth.deep_geometry(geometry)
    size = space_to_depth.deep_size((output.shape[2], output.shape[3]), seen.kernel_size)
    deep = space_to_depth.relayout(input, size, geometry.padding, output.dtype, normalisation)
    images, packed_filters = (Packed(memory, memory.shape[3]) for memory in (deep.memory, filters))
    _convolve(images, packed_filters, bias, output, size, seen, False)
    if any(size % space_to_depth.FACTOR for size in geometry.kernel_size):  # the filters have zeros behind them
        space_to_depth.amend(deep, filters, bias, output, geometry.kernel_size, True)


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
    size = (output.shape[2], output.shape[3])
    geometry = Geometry((weight.shape[2], weight.shape[3]), stride, padding, dilation, groups)
    input_grad = data_gradient(masked, input, weight, size, geometry) if needs[0] else None
    weight_grad = weight_gradient(masked, input, weight, size, geometry) if needs[1] else None
    return input_grad, weight_grad, bias_grad


def masked_gradient(grad: Tensor, output: Tensor, groups: int, with_bias: bool) -> tuple[Packed, Tensor | None]:
    """The gradient (N, K, P, Q) behind the ReLU, packed, and its sum over the pixels: the bias's gradient."""
    N, K, P, Q = grad.shape
    channels = padded(K // groups, grad.dtype, COPY_BYTES)
    memory = workspace((N, P, Q, groups * channels), grad)
    parts = pixel_tiles(N * P * Q)
    if not with_bias:
        pack(grad, memory, groups, channels, parts, mask=output)
        return Packed(memory, channels), None
    parts = min(max(parts, 1), BIAS_PARTS)
    sums = workspace((parts, groups * channels), grad, torch.float32)
    pack(grad, memory, groups, channels, parts, mask=output, sums=sums)
    return Packed(memory, channels), bias_gradient(sums, groups, channels, K, grad.dtype)


def bias_gradient(sums: Tensor, groups: int, channels: int, K: int, dtype: torch.dtype) -> Tensor:
    """The total (K,) of a masked gradient's sums (parts, groups * channels), each group's channels padded."""
    bias_grad = empty(Spec((K,), (1,), dtype), sums.device)
    parts, columns = sums.shape
    if parts > PARTS_AT_ONCE and parts % PARTS_AT_ONCE == 0:
        rest = workspace((parts // PARTS_AT_ONCE, columns), sums)
        _reduce(sums.view(PARTS_AT_ONCE, -1), 1, rest.numel(), None, rest.view(1, -1, 1, 1), False)
        sums = rest
    _reduce(sums, groups, channels, None, bias_grad.view(1, K, 1, 1), False)
    return bias_grad


def data_gradient(grad: Packed, input: Tensor, weight: Tensor, output_size: Pair, geometry: Geometry) -> Tensor:
    """The input's gradient; `grad` is that of the (P, Q) output before the ReLU."""
    input_grad = empty(like(input), input.device)
    _convolve(grad, turned(weight, geometry.groups), None, input_grad, output_size, geometry, True)
    return input_grad


def weight_gradient(grad: Packed, input: Tensor, weight: Tensor, output_size: Pair, geometry: Geometry) -> Tensor:
    """The weight's gradient; `grad` is that of the (P, Q) output before the ReLU."""
    weight_grad = empty(like(weight), weight.device)
    if weight_grad.numel() == 0:
        return weight_grad
    K, C, _, _ = weight.shape
    if not goes_deep(input, K, output_size, geometry, gradient=True):
        images = packed(input, geometry.groups, copy_bytes_of(C, input.dtype))
        _weight_gradient(grad, images, weight_grad, (input.shape[2], input.shape[3]), output_size, geometry)
        return weight_grad
    seen = space_to_depth.deep_geometry(geometry)
    size = space_to_depth.deep_size(output_size, seen.kernel_size)
    memory, _ = space_to_depth.relayout(input, size, geometry.padding)
    filters = workspace((K, *seen.kernel_size, memory.shape[3]), input)
    images = Packed(memory, memory.shape[3])
    _weight_gradient(grad, images, filters.permute(0, 3, 1, 2), size, output_size, seen)
    space_to_depth.back(filters, weight_grad)
    return weight_grad


def _weight_gradient(
    grad: Packed, images: Packed, into: Tensor, input_size: Pair, output_size: Pair, geometry: Geometry
) -> None:
    N, K, (R, S), groups = len(images.memory), len(into), geometry.kernel_size, geometry.groups
    partials = sm90.weight_gradient(grad, images, (N, 0, *input_size), K, output_size, geometry)
    if partials is None:
        pixels = N * output_size[0] * output_size[1]
        choice = _choose(into, K // groups, R * S * images.channels, max(pixels, 1), groups)
        partials = workspace((choice[1], K, R, S, images.channels), into, torch.float32)
        launch(
            "conv2d_relu_weight_gradient",
            into,
            is_tf32(into),
            images.memory.data_ptr(),
            (N, 0, *input_size),
            images.channels,
            grad.memory.data_ptr(),
            output_size,
            K // groups,
            grad.channels,
            partials.data_ptr(),
            *geometry,
            choice,
        )
    _reduce(partials, 1, images.channels, None, into, False)


def _convolve(
    images: Packed,
    filters: Packed,
    bias: Tensor | None,
    output: Tensor,
    input_size: Pair,
    geometry: Geometry,
    transposed: bool,
) -> None:
    """output = relu(convolution + bias); `transposed`: output = the data gradient of a convolution, images its grad."""
    N, K, P, Q = output.shape
    if output.numel() == 0:
        return
    (R, S), stride, *_, groups = geometry
    filters_per_group = K // groups
    plan = sm90.plan(images, output, input_size, geometry, transposed)
    if plan is not None:
        partials = sm90.convolve(plan, images, filters, bias, output)
        if partials is not None:
            _reduce(partials, groups, filters_per_group, bias, output, not transposed)
        return
    padded_K = filters_per_group + filters_per_group % 2  # sums are stored in pairs
    phases = stride[0] * stride[1] if transposed else 1
    depth = max(R * S * images.channels // phases, 1)
    choice = _choose(output, -(-N * P * Q // phases), filters_per_group, depth, groups * phases)
    partials = None
    if choice[1] > 1:
        partials = workspace((choice[1], N, P, Q, groups * padded_K), output, torch.float32)
    launch(
        "conv2d_relu_convolve",
        output,
        is_tf32(output),
        images.memory.data_ptr(),
        input_size,
        images.channels,
        filters.memory.data_ptr(),
        filters_per_group,
        0 if bias is None else bias.data_ptr(),
        0 if partials is None else partials.data_ptr(),
        padded_K,
        output.data_ptr(),
        tuple(output.shape),
        strides(output),
        *geometry,
        transposed,
        not transposed,
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
        tuple(output.shape),
        strides(output),
        relu,
    )


def is_tf32(tensor: Tensor) -> bool:
    """Whether torch's own convolution would take TF32 for this tensor."""
    if tensor.dtype != torch.float32:
        return False
    backend = "cuda" if tensor.device.type == "cuda" else "mkldnn"
    return bool(torch._C._get_fp32_precision_getter(backend, "conv") == "tf32")


def _choose(tensor: Tensor, rows: int, columns: int, depth: int, batches: int) -> sm80.Choice:
    """For `batches` products of rows x depth by depth x columns."""
    return sm80.choose(tensor.dtype.itemsize, sm80.Product(rows, columns, depth, batches), chip_of(tensor))
