"""conv2d_relu_max_pool2d by a convolution as conv2d_relu's and csrc/cpu/max_pool2d, which applies the ReLU to what it
reads: of one in fewer products image by image, so that what lies between is never written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexkern.backends.cpu import conv2d_relu, max_pool2d, native, winograd
from alexkern.backends.cpu.crossovers import in_tiles
from alexkern.backends.cpu.memory import empty
from alexkern.backends.torch import conv2d_relu_max_pool2d as definition
from alexkern.geometry import Geometry, Pair, convolution
from alexkern.plan import Spec, conform, is_channels_last, nchw

LEAST_TILES = 36  # in an image: with 4 of them image by image takes up to four times as long


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, Tensor | None]:
    *settings, pool_kernel_size, pool_stride, pool_padding, save_offsets = args
    window = (pool_kernel_size, pool_stride, pool_padding, (1, 1), False)
    of = convolution(input, weight, *settings)
    channels_last = is_channels_last(input) or is_channels_last(weight)
    convolved = None
    if M := in_tiles("forward", of, input.dtype, channels_last):
        filters = winograd.to_pack(weight, of, M)
        found = by_image(input, filters, bias, window, channels_last, relu=True, save_offsets=save_offsets)
        if found is not None:
            return found
        convolved = winograd.convolve(input, filters, bias, False, channels_last)
    if convolved is None:
        convolved = torch.conv2d(input, weight, bias, *settings)
    return max_pool2d.reduce(convolved, window, save_offsets, relu=True)


def gains(of: Geometry, dtype: torch.dtype) -> bool:
    return conv2d_relu.gains(of, dtype) or max_pool2d.gains((of.N, of.K, of.P, of.Q))


def by_image(
    images: Tensor,
    filters: winograd.Filters,
    bias: Tensor | None,
    window: max_pool2d.Window,
    channels_last: bool,
    *,
    relu: bool,
    save_offsets: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """What max_pool2d.reduce makes of the convolution's output; None where either is torch's, as an output that is not
    finite, where a thread would be left without images, and where an image is too small to read all filters for."""
    of, threads = filters.over(images), torch.get_num_threads()
    if -(-of.P // filters.M) * -(-of.Q // filters.M) < LEAST_TILES:
        return None
    call = max_pool2d.called((of.N, of.K, of.P, of.Q), images.dtype, channels_last, window, relu)
    if call is None or min(call.pooled_size) < 1 or (of.N % threads != 0 and of.N < 8 * threads):
        return None
    images = conform(images, nchw((of.N, of.C, of.H, of.W), images.dtype, channels_last))
    bias = None if bias is None else bias.contiguous()
    output, offsets = empty(call.values), empty(call.offsets) if save_offsets else None
    sizes = (of, filters.is_narrow, filters.M, channels_last)
    floats = native().winograd_pooled_workspace(*sizes, call.windows, call.pooled_size)
    workspace = empty(Spec((threads * floats,), (1,), torch.float32))
    address, steps, _ = filters.to_pack()
    finite = native().winograd_convolve_pooled(
        *sizes,
        images.data_ptr(),
        filters.packed.data_ptr(),
        address,
        steps,
        0 if bias is None else bias.data_ptr(),
        call.windows,
        call.pooled_size,
        relu,
        call.offsets.dtype == torch.int32,
        output.data_ptr(),
        0 if offsets is None else offsets.data_ptr(),
        workspace.data_ptr(),
        threads,
    )
    return (output, offsets) if finite else None


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    pool_kernel_size: Pair,
    pool_stride: Pair,
    pool_padding: Pair,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, those that `needs` asks for."""
    between = convolution(input, weight, stride, padding, dilation, groups)
    channels_last = is_channels_last(input) or is_channels_last(weight)
    pooling = (pool_kernel_size, pool_stride, pool_padding)
    shape = (between.N, between.K, between.P, between.Q)
    if max_pool2d.torch_scatters(shape, channels_last):
        convolved = (stride, padding, dilation, groups)
        return definition.backward(grad, input, weight, offsets, *convolved, *pooling, needs)
    (gathered,) = max_pool2d.backward(  # nothing, where an offset says that the ReLU clipped the winner
        grad,
        offsets,
        shape,
        channels_last,
        *pooling,
        (1, 1),
        False,
        (True,),
    )
    assert gathered is not None
    return conv2d_relu.gradients(gathered, None, input, weight, stride, padding, dilation, groups, needs)
