"""Convolution in fewer products on a CPU: csrc/cpu/winograd, for one call or with filters that a snapshot packed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.cpu import native
from alexkern.backends.cpu.memory import empty
from alexkern.geometry import Geometry
from alexkern.plan import Spec, conform, contiguous_strides, nchw

SIZES = (3, 5)  # of filters, in blocks of stride x stride pixels


class Filters(NamedTuple):
    """Filters of one size, as csrc/cpu/winograd reads them."""

    # (groups, panels of filters, (M + R - 1)^2, C / groups, filters of a panel), R and C of blocks; of bfloat16 as many
    # numbers, in which two channels stand side by side, and zeros to fill the last two up.
    packed: Tensor
    geometry: Geometry  # over images of some size
    M: int  # outputs of a tile a side
    weight: Tensor | None = None  # that the convolution has to pack first
    steps: tuple[int, int, int, int] = (0, 0, 0, 0)  # in it from group, filter, channel and tap to the next
    flipped: bool = False

    def to_pack(self) -> tuple[int, tuple[int, int, int, int], bool]:
        return 0 if self.weight is None else self.weight.data_ptr(), self.steps, self.flipped

    @property
    def is_narrow(self) -> bool:
        return self.packed.dtype == torch.bfloat16

    def over(self, images: Tensor) -> Geometry:
        N, _, H, W = images.shape
        return self.geometry._replace(N=N, H=H, W=W)

    def describe(self) -> str:
        R, stride = over_blocks(self.geometry).R, self.geometry.stride[0]
        return f"F({self.M}x{self.M}, {R}x{R})" + (f" of {stride}x{stride} pixels" if stride > 1 else "")


def has_tiles(of: Geometry) -> bool:
    """Whether this kind of convolution can be done so: with a stride, over blocks of stride x stride pixels."""
    (stride, across), R = of.stride, -(-of.R // of.stride[0])
    square = of.R == of.S and stride == across and of.dilation == (1, 1)
    return square and R in SIZES and (stride == 1 or of.groups == 1)


def over_blocks(of: Geometry) -> Geometry:
    """The same convolution over blocks of stride x stride pixels: of stride 1."""
    return of if of.stride == (1, 1) else of.in_depth(of.stride[0])


def in_blocks(weight: Tensor, stride: int) -> Tensor:
    """Filters (K, C, R, R) over blocks of pixels, filled up with zeros."""
    K, C, size, _ = weight.shape
    R = -(-size // stride)
    whole = F.pad(weight, (0, stride * R - size) * 2).reshape(K, C, R, stride, R, stride)
    return whole.permute(0, 3, 5, 1, 2, 4).reshape(K, -1, R, R)


def out_of_blocks(weight: Tensor, of: Geometry) -> Tensor:
    """The other way round."""
    stride, R = of.stride[0], weight.shape[2]
    whole = weight.reshape(of.K, stride, stride, of.C, R, R).permute(0, 3, 4, 1, 5, 2)
    cut = whole.reshape(of.K, of.C, stride * R, stride * R)[:, :, : of.R, : of.S]
    return cut.contiguous(memory_format=torch.channels_last)


def image_out_of_blocks(blocks: Tensor, of: Geometry) -> Tensor:
    """The images (N, C, H, W) that lie in blocks, whose first has their padding above and to the left of it: what no
    block holds is 0."""
    stride, (N, _, P, Q) = of.stride[0], blocks.shape
    whole = blocks.reshape(N, stride, stride, of.C, P, Q).permute(0, 4, 1, 5, 2, 3)
    whole = whole.reshape(N, stride * P, stride * Q, of.C).permute(0, 3, 1, 2)
    (above, left), (rows, columns) = of.padding, whole.shape[2:]
    cut = F.pad(whole, (-left, of.W + left - columns, -above, of.H + above - rows))
    return cut.contiguous(memory_format=torch.channels_last)


def pack(weight: Tensor, of: Geometry, M: int) -> Filters:
    """A convolution's filters (K, C / groups, R, R), for tiles of M x M outputs."""
    filters = to_pack(weight, of, M)
    native().winograd_pack(
        of, filters.is_narrow, M, *filters.to_pack(), filters.packed.data_ptr(), torch.get_num_threads()
    )
    return filters._replace(weight=None)


def to_pack(weight: Tensor, of: Geometry, M: int, *, for_input_grad: bool = False) -> Filters:
    """As `pack`, but left to the one convolution that takes them. for_input_grad: for that over the gradient, with the
    filters turned round, which gives the gradient of the input, or of its blocks."""
    if of.stride[0] > 1:
        weight = in_blocks(weight, of.stride[0])
    filter, channel, _, tap = weight.stride()
    if weight.stride(2) != weight.shape[3] * tap or 1 not in (filter, channel, tap):
        weight = weight.contiguous()
        filter, channel, _, tap = weight.stride()
    steps = (of.K // of.groups * filter, filter, channel, tap)
    if for_input_grad:
        of = over_blocks(of).turned()
        steps = (steps[0], channel, filter, tap)
    panel, R, C = native().winograd_filters, weight.shape[2], of.C // of.groups * of.stride[0] ** 2
    C += C % (4 // weight.element_size())
    assert weight.dtype == torch.float32 or (M, R) == (2, 3), "of bfloat16 there is no other kernel"
    shape = (of.groups, -(-(of.K // of.groups) // panel), (M + R - 1) ** 2, C, panel)
    packed = empty(Spec(shape, contiguous_strides(shape), weight.dtype))
    return Filters(packed, of, M, weight, steps, for_input_grad)


def share(product: str, of: Geometry, M: int) -> float:
    """Products here for one of the convolution's, which leaves out what lies in the padding."""
    share, stride, blocks = 1.0, of.stride[0], over_blocks(of)
    R, counts = blocks.R, (of.P, of.Q)
    tiled = (blocks.H, blocks.W) if product == "input_grad" else counts  # its outputs are all pixels, or blocks of them
    points = 7 if product == "weight_grad" and R == 5 else M + R - 1  # of a tile a side
    for length, pad, count, outputs in zip((of.H, of.W), of.padding, counts, tiled, strict=True):
        # Outputs whose pixel under a tap is one of the image's: a gradient has as many products.
        taps = sum(
            max(0, min(count, (length + pad - r - 1) // stride + 1) - max(0, -((r - pad) // stride)))
            for r in range(of.R)
        )
        share *= stride * points * -(-outputs // M) / taps if taps > 0 else math.inf
    return share


def convolve(
    images: Tensor, filters: Filters, bias: Tensor | None, relu: bool, channels_last: bool, gate: Tensor | None = None
) -> Tensor | None:
    """The convolution's output, (N, K, P, Q); None if not every number in it is finite before the ReLU: an infinity
    reaches all outputs of its tiles here, and the convolution has to say which are its own.

    gate: where it is <= 0 an image counts as 0.
    """
    of, narrow, threads = filters.over(images), filters.is_narrow, torch.get_num_threads()
    lies = nchw((of.N, of.C, of.H, of.W), images.dtype, channels_last)
    images, gate = conform(images, lies), None if gate is None else conform(gate, lies)
    bias = None if bias is None else bias.contiguous()
    output = empty(nchw((of.N, of.K, of.P, of.Q), images.dtype, channels_last))
    workspace = empty(Spec((threads * native().winograd_workspace(of, narrow, filters.M),), (1,), torch.float32))
    finite = native().winograd_convolve(
        of,
        narrow,
        filters.M,
        channels_last,
        images.data_ptr(),
        0 if gate is None else gate.data_ptr(),
        filters.packed.data_ptr(),
        *filters.to_pack(),
        0 if bias is None else bias.data_ptr(),
        relu,
        output.data_ptr(),
        workspace.data_ptr(),
        threads,
    )
    return output if finite else None


def input_grad(
    grad: Tensor, weight: Tensor, of: Geometry, M: int, channels_last: bool, gate: Tensor | None
) -> Tensor | None:
    """The gradient of the images, which counts as 0 where the gate is <= 0; None as above."""
    filters = to_pack(weight, of, M, for_input_grad=True)
    result = convolve(grad, filters, None, False, channels_last, gate)
    return result if result is None or of.stride == (1, 1) else image_out_of_blocks(result, of)


def weight_grad(grad: Tensor, images: Tensor, of: Geometry, channels_last: bool) -> Tensor | None:
    """The gradient of filters of 3x3 or 5x5 pixels or blocks; None if not every number in it is finite, as above."""
    images = conform(images, nchw((of.N, of.C, of.H, of.W), images.dtype, channels_last))
    grad = conform(grad, nchw((of.N, of.K, of.P, of.Q), grad.dtype, channels_last))
    blocks = over_blocks(of)
    result = empty(nchw((of.K, blocks.C // of.groups, blocks.R, blocks.S), grad.dtype, channels_last))
    narrow, threads = grad.dtype == torch.bfloat16, torch.get_num_threads()
    floats = native().winograd_weight_grad_workspace(of, narrow, threads)
    workspace = empty(Spec((floats,), (1,), torch.float32))
    tensors = (images, grad, result, workspace)
    finite = native().winograd_weight_grad(of, narrow, channels_last, *(one.data_ptr() for one in tensors), threads)
    if not finite:
        return None
    return result if blocks is of else out_of_blocks(result, of)
