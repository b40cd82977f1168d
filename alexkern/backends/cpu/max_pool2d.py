"""max_pool2d by csrc/cpu/max_pool2d, in either memory format; other strides are copied to it, as torch does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from alexkern.backends.cpu import native
from alexkern.backends.cpu.crossovers import pooled as pooled_by_ours
from alexkern.backends.cpu.memory import empty
from alexkern.backends.torch import max_pool2d as definition
from alexkern.geometry import Geometry, Pair, pooling
from alexkern.plan import Spec, conform, is_channels_last, nchw, pooled

# Fewer values than these are never torch's, whatever crossovers.py says: the calls that its indices take cost more than
# either kernel.
SMALL = 2**14

Window = tuple[Pair, Pair, Pair, Pair, bool]  # kernel_size, stride, padding, dilation, ceil_mode


class Call(NamedTuple):
    """What the shape decides, for both directions."""

    windows: Geometry
    pooled_size: Pair
    values: Spec
    offsets: Spec
    images: Spec
    workspace: Spec | None  # of all threads, in the forward
    is_large: bool


@lru_cache(maxsize=1024)
def _call(
    shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, window: Window, relu: bool, threads: int
) -> Call:
    *pairs, ceil_mode = window
    windows = pooling(shape, *pairs)
    values, offsets = pooled(windows, dtype, channels_last, ceil_mode, True, relu)
    P, Q = values.shape[2:]
    floats = 0 if channels_last else threads * native().max_pool2d_workspace(windows, (P, Q))
    workspace = Spec((floats,), (1,), torch.float32) if floats else None
    images = nchw(windows[:4], dtype, channels_last)
    return Call(windows, (P, Q), values, offsets, images, workspace, math.prod(shape) >= SMALL)


def forward(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    save_offsets: bool,
) -> tuple[Tensor, Tensor | None]:
    return reduce(input, (kernel_size, stride, padding, dilation, ceil_mode), save_offsets, relu=False)


def called(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, window: Window, relu: bool) -> Call | None:
    """What pooling such images takes; None where torch does it."""
    call = _call(shape, dtype, channels_last, window, relu, torch.get_num_threads())
    few = not channels_last and call.is_large and call.pooled_size[1] < pooled_by_ours().windows
    return None if few else call


def reduce(input: Tensor, window: Window, save_offsets: bool, *, relu: bool) -> tuple[Tensor, Tensor | None]:
    """The maxima and their offsets; of relu(input) with `relu`, which no one else has to write then, and offsets that
    say CLIPPED."""
    channels_last, threads = is_channels_last(input), torch.get_num_threads()
    call = called(input.shape, input.dtype, channels_last, window, relu)
    if call is None:
        return definition.forward(input.relu() if relu else input, *window, save_offsets, relu)
    input = input.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    output = empty(call.values)
    offsets = empty(call.offsets) if save_offsets else None
    workspace = empty(call.workspace) if call.workspace else None
    native().max_pool2d_forward(
        call.windows,
        call.pooled_size,
        channels_last,
        input.dtype == torch.bfloat16,
        relu,
        call.offsets.dtype == torch.int32,
        input.data_ptr(),
        output.data_ptr(),
        0 if offsets is None else offsets.data_ptr(),
        0 if workspace is None else workspace.data_ptr(),
        threads,
    )
    return output, offsets


def gains(images: Sequence[int]) -> bool:
    """Whether the images of a network are large enough for this to be worth a call of ours.

    Where they have more channels than pixels, torch's convolution before it takes longer over channels_last.
    """
    _, channels, *sizes = images
    return math.prod(images) >= (4 * SMALL if torch.is_grad_enabled() or channels > math.prod(sizes) else SMALL)


def torch_scatters(input_shape: Sequence[int], channels_last: bool) -> bool:
    """Whether the gradient of such images is torch's."""
    return channels_last and math.prod(input_shape) >= SMALL and input_shape[1] < pooled_by_ours().channels


def backward(
    grad: Tensor,
    offsets: Tensor,
    input_shape: tuple[int, int, int, int],
    channels_last: bool,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    needs: tuple[bool],
) -> tuple[Tensor | None]:
    """Gradient of the input."""
    window = (kernel_size, stride, padding, dilation, ceil_mode)
    if torch_scatters(input_shape, channels_last):
        return definition.backward(grad, offsets, input_shape, channels_last, *window, needs)
    threads = torch.get_num_threads()
    call = _call(input_shape, grad.dtype, channels_last, window, False, threads)
    input_grad, narrow, workspace = empty(call.images), grad.dtype == torch.bfloat16, None
    if narrow and not channels_last:
        area = math.prod(input_shape[2:])
        workspace = empty(Spec((threads, area), (area, 1), torch.float32))
    named = call.offsets if offsets.dtype == call.offsets.dtype else call.offsets._replace(dtype=offsets.dtype)
    grad, offsets = conform(grad, call.values), conform(offsets, named)
    native().max_pool2d_backward(
        call.windows,
        call.pooled_size,
        channels_last,
        narrow,
        offsets.dtype == torch.int32,
        grad.data_ptr(),
        offsets.data_ptr(),
        input_grad.data_ptr(),
        0 if workspace is None else workspace.data_ptr(),
        threads,
    )
    return (input_grad,)
