"""conv2d_relu by csrc/cuda/conv2d_relu: implicit matrix products on NHWC memory, bias and ReLU in the epilogue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alexkern.backends.cuda import chip_of, launch, sm90, space_to_depth, strides
from alexkern.cost import sm80
from alexkern.plan import Spec, contiguous_strides, conv2d_relu_output, empty, like

Pair = tuple[int, int]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

COPY_BYTES = 16  # of one cp.async: channels are padded to whole ones
SMALL_COPY_BYTES = 8  # for images of few 16-bit channels, where padding would be most of the work
PIXELS_PER_TILE = 64  # of the packing kernel
BIAS_PARTS = 256  # parts that a bias gradient is summed in, at most
PARTS_AT_ONCE = 32  # that a thread adds up: more of them wait for one another's loads


class Packed(NamedTuple):
    """Memory of (N, H, W, groups, channels), each group's channels padded with zeros."""

    memory: Tensor
    channels: int  # of a group


class Geometry(NamedTuple):
    """A convolution but for its channels and images."""

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


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
    in_place = is_packed(input, geometry.groups, _copy_bytes(input.shape[1], input.dtype))
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
    parts = _pixel_tiles(N * P * Q)
    if not with_bias:
        _pack(grad, memory, groups, channels, parts, mask=output)
        return Packed(memory, channels), None
    parts = min(max(parts, 1), BIAS_PARTS)
    sums = workspace((parts, groups * channels), grad, torch.float32)
    _pack(grad, memory, groups, channels, parts, mask=output, sums=sums)
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
    _convolve(grad, _turned(weight, geometry.groups), None, input_grad, output_size, geometry, True)
    return input_grad


def weight_gradient(grad: Packed, input: Tensor, weight: Tensor, output_size: Pair, geometry: Geometry) -> Tensor:
    """The weight's gradient; `grad` is that of the (P, Q) output before the ReLU."""
    weight_grad = empty(like(weight), weight.device)
    if weight_grad.numel() == 0:
        return weight_grad
    K, C, _, _ = weight.shape
    if not goes_deep(input, K, output_size, geometry, gradient=True):
        images = packed(input, geometry.groups, _copy_bytes(C, input.dtype))
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


def operands(input: Tensor, weight: Tensor, groups: int) -> tuple[Packed, Packed]:
    """The images, and the filters as if of one group, as csrc/cuda/conv2d_relu's products read them."""
    copy_bytes = _copy_bytes(weight.shape[1], input.dtype)
    return packed(input, groups, copy_bytes), packed(weight, 1, copy_bytes)


def packed(tensor: Tensor, groups: int, copy_bytes: int = COPY_BYTES) -> Packed:
    """`tensor`'s own memory where it lies as the products want it, else a copy."""
    N, C, H, W = tensor.shape
    channels = padded(C // groups, tensor.dtype, copy_bytes)
    if is_packed(tensor, groups, copy_bytes):
        return Packed(tensor, channels)
    memory = workspace((N, H, W, groups * channels), tensor)
    _pack(tensor, memory, groups, channels, _pixel_tiles(N * H * W))
    return Packed(memory, channels)


def is_packed(tensor: Tensor, groups: int, copy_bytes: int = COPY_BYTES) -> bool:
    """Whether `tensor`'s own memory lies as the products want it."""
    _, C, H, W = tensor.shape
    wanted = (H * W * C, 1, W * C, C)
    dense = all(size == 1 or own == want for size, own, want in zip(tensor.shape, tensor.stride(), wanted, strict=True))
    whole = padded(C // groups, tensor.dtype, copy_bytes) * groups == C
    return dense and whole and tensor.data_ptr() % COPY_BYTES == 0


def _turned(weight: Tensor, groups: int) -> Packed:
    """The filters as the data gradient wants them, (groups, C, R, S, K): a filter for each channel of the input."""
    K, C, R, S = weight.shape
    if R > 1 and S > 1 and weight.stride(2) != S * weight.stride(3):
        weight = weight.contiguous()
    channels = padded(K // groups, weight.dtype, COPY_BYTES)
    memory = workspace((groups * C, R, S, channels), weight)
    step_K, step_C, step_R, step_S = weight.stride()
    view = weight.as_strided(
        (groups, K // groups, C, R * S), (K // groups * step_K, step_K, step_C, step_S if S > 1 else step_R)
    )
    _pack(view, memory, 1, channels, _pixel_tiles(groups * C * R * S))
    return Packed(memory, channels)


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


def _pack(
    source: Tensor,
    memory: Tensor,
    groups: int,
    channels: int,
    parts: int,
    mask: Tensor | None = None,
    sums: Tensor | None = None,
) -> None:
    """source (N, groups * C, H, W), 0 where `mask` <= 0, to (N, H, W, groups, channels), in so many runs of pixels."""
    launch(
        "conv2d_relu_pack",
        source,
        source.data_ptr(),
        tuple(source.shape),
        strides(source),
        0 if mask is None else mask.data_ptr(),
        strides(source if mask is None else mask),
        memory.data_ptr(),
        0 if sums is None else sums.data_ptr(),
        groups,
        channels,
        parts,
    )


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


def _copy_bytes(channels: int, dtype: torch.dtype) -> int:
    few = dtype.itemsize == 2 and channels * dtype.itemsize <= SMALL_COPY_BYTES
    return SMALL_COPY_BYTES if few else COPY_BYTES


def padded(channels: int, dtype: torch.dtype, copy_bytes: int | None = None) -> int:
    """So many channels, filled up to whole copies: those of images and filters, if no other size is given."""
    step = (copy_bytes or _copy_bytes(channels, dtype)) // dtype.itemsize
    return max(-(-channels // step), 1) * step


def _pixel_tiles(pixels: int) -> int:
    return -(-pixels // PIXELS_PER_TILE)


def workspace(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return empty(Spec(shape, contiguous_strides(shape), dtype or like.dtype), like.device)


def is_tf32(tensor: Tensor) -> bool:
    """Whether torch's own convolution would take TF32 for this tensor."""
    if tensor.dtype != torch.float32:
        return False
    backend = "cuda" if tensor.device.type == "cuda" else "mkldnn"
    return bool(torch._C._get_fp32_precision_getter(backend, "conv") == "tf32")


def _choose(tensor: Tensor, rows: int, columns: int, depth: int, batches: int) -> sm80.Choice:
    """For `batches` products of rows x depth by depth x columns."""
    return sm80.choose(tensor.dtype.itemsize, sm80.Product(rows, columns, depth, batches), chip_of(tensor))
