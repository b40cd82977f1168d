"""max_pool2d by csrc/cuda/max_pool2d: any strides, and 128-bit accesses where channels lie innermost and fill them."""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.backends.cuda import launch
from alexkern.backends.cuda.wide import OFFSETS, Wide
from alexkern.geometry import Geometry, Pair, pooling
from alexkern.plan import Spec, conform, empty, is_channels_last, nchw, pooled, strides

WIDE = (
    Wide(r"strip_kernel<\w+, [48], false>", frozenset(), frozenset()),
    Wide(r"strip_kernel<\w+, [48], true>", frozenset(), OFFSETS),
    Wide(r"window_kernel<\w+, unsigned char, [48]>", frozenset(), OFFSETS),
    Wide(r"backward_kernel<\w+, unsigned char, [48], \w+>", OFFSETS, frozenset()),
)


def forward(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    save_offsets: bool,
    behind_relu: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`behind_relu`: `input` came out of a ReLU, and the offset of a winner that it did not let pass is CLIPPED."""
    windows = pooling(input.shape, kernel_size, stride, padding, dilation)
    channels_last = is_channels_last(input)
    output_spec, offsets_spec = pooled(windows, input.dtype, channels_last, ceil_mode, save_offsets, behind_relu)
    output = empty(output_spec, input.device)
    offsets = empty(offsets_spec, input.device) if save_offsets else None
    if output.numel() == 0:
        return output, offsets
    _run("max_pool2d_forward", windows, offsets_spec.dtype, behind_relu, input, output, offsets)
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
    input_grad = empty(nchw(input_shape, grad.dtype, channels_last), grad.device)
    if input_grad.numel() == 0:
        return (input_grad,)
    # Every gradient is read up to four times: in the order of the offsets, which is that of what is written.
    grad = conform(grad, Spec(tuple(grad.shape), offsets.stride(), grad.dtype))
    windows = pooling(input_shape, kernel_size, stride, padding, dilation)
    _run("max_pool2d_backward", windows, offsets.dtype, False, input_grad, grad, offsets)
    return (input_grad,)


def _run(
    kernel: str, windows: Geometry, kept: torch.dtype, behind_relu: bool,
    pixels: Tensor, values: Tensor, offsets: Tensor | None,
) -> None:  # fmt: skip
    """pixels are (N, C, H, W), values and offsets, of dtype `kept`, (N, C, P, Q)."""
    launch(
        kernel,
        pixels,
        kept == torch.int32,
        behind_relu,
        windows,
        values.shape[2:],
        pixels.data_ptr(),
        strides(pixels),
        values.data_ptr(),
        strides(values),
        0 if offsets is None else offsets.data_ptr(),
        (0, 0, 0, 0) if offsets is None else strides(offsets),
    )
