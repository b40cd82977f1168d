"""max_pool2d by csrc/cpu/max_pool2d, in either memory format; other strides are copied to it, as torch does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from alexkern.backends.cpu import native
from alexkern.geometry import Pair, pooling
from alexkern.plan import Spec, conform, empty, is_channels_last, nchw, pooled

UNUSED = Spec((0,), (1,), torch.float32)


class Call(NamedTuple):
    """What the shape decides, for both directions."""

    windows: tuple[int, ...]  # as csrc/cpu/max_pool2d/max_pool2d.h has them
    values: Spec
    offsets: Spec
    images: Spec
    workspace: int  # floats of a thread

    @property
    def wide(self) -> bool:
        return self.offsets.dtype == torch.int32


def _called(
    shape: Sequence[int],
    channels_last: bool,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil: bool,
) -> Call:
    # torch's dispatcher hands pairs over as lists.
    return _call(tuple(shape), channels_last, tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), ceil)


@lru_cache(maxsize=1024)
def _call(
    shape: tuple[int, ...],
    channels_last: bool,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> Call:
    N, C, H, W = shape
    windows = pooling(shape, kernel_size, stride, padding, dilation)
    values, offsets = pooled(windows, torch.float32, channels_last, ceil_mode, True)
    numbers = (*shape, *values.shape[2:], *kernel_size, *stride, *padding, *dilation)
    workspace = 0 if channels_last else native().max_pool2d_workspace(numbers)
    return Call(numbers, values, offsets, nchw((N, C, H, W), torch.float32, channels_last), workspace)


def forward(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    save_offsets: bool,
) -> tuple[Tensor, Tensor | None]:
    return reduce(input, kernel_size, stride, padding, dilation, ceil_mode, save_offsets, relu=False)


def reduce(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    save_offsets: bool,
    *,
    relu: bool,
) -> tuple[Tensor, Tensor | None]:
    """The maxima and their offsets; of relu(input) with `relu`, which no one else has to write then."""
    channels_last = is_channels_last(input)
    call = _called(input.shape, channels_last, kernel_size, stride, padding, dilation, ceil_mode)
    input = input.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    output = empty(call.values, input.device)
    offsets = empty(call.offsets, input.device) if save_offsets else None
    threads = torch.get_num_threads()
    workspace = empty(UNUSED._replace(shape=(threads * call.workspace,)), input.device) if call.workspace else None
    native().max_pool2d_forward(
        call.windows,
        channels_last,
        relu,
        call.wide,
        input.data_ptr(),
        output.data_ptr(),
        0 if offsets is None else offsets.data_ptr(),
        0 if workspace is None else workspace.data_ptr(),
        threads,
    )
    return output, offsets


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
    call = _called(input_shape, channels_last, kernel_size, stride, padding, dilation, ceil_mode)
    input_grad = empty(call.images, grad.device)
    grad, offsets = conform(grad, call.values), conform(offsets, call.offsets)
    native().max_pool2d_backward(
        call.windows,
        channels_last,
        call.wide,
        grad.data_ptr(),
        offsets.data_ptr(),
        input_grad.data_ptr(),
        torch.get_num_threads(),
    )
    return (input_grad,)
