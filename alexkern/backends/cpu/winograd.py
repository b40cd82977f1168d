"""Convolution in fewer products on a CPU: csrc/cpu/winograd, for one call or with filters that a snapshot packed."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from alexkern.backends.cpu import native
from alexkern.backends.cpu.memory import empty
from alexkern.geometry import Geometry, Pair
from alexkern.plan import Spec, conform, contiguous_strides, nchw

SIZES = (3, 5)  # of filters


class Filters(NamedTuple):
    """Filters of one size, as csrc/cpu/winograd reads them."""

    packed: Tensor  # (groups, panels of filters, (R + 1)^2, C / groups, filters of a panel)
    geometry: Geometry  # over images of some size

    def over(self, images: Tensor) -> Geometry:
        N, _, H, W = images.shape
        return self.geometry._replace(N=N, H=H, W=W)

    def describe(self) -> str:
        return f"F(2x2, {self.geometry.R}x{self.geometry.R})"


def has_tiles(of: Geometry) -> bool:
    """Whether this kind of convolution can be done so."""
    return of.stride == of.dilation == (1, 1) and of.R == of.S and of.R in SIZES


def of_input_grad(of: Geometry) -> Geometry:
    """The convolution, of the gradient with flipped filters, that gives the gradient of a convolution's input."""
    padding = (of.R - 1 - of.padding[0], of.S - 1 - of.padding[1])
    return of._replace(C=of.K, H=of.P, W=of.Q, K=of.C, padding=padding)


def pack(weight: Tensor, of: Geometry, *, for_input_grad: bool = False) -> Filters:
    """A convolution's filters (K, C / groups, R, R); for_input_grad: for `of_input_grad` of it."""
    filter, channel, _, tap = weight.stride()
    if weight.stride(2) != of.S * tap or 1 not in (filter, channel, tap):
        return pack(weight.contiguous(), of, for_input_grad=for_input_grad)
    steps = (of.K // of.groups * filter, filter, channel, tap)
    if for_input_grad:
        of = of_input_grad(of)
        steps = (steps[0], channel, filter, tap)
    panel = native().winograd_filters
    shape = (of.groups, -(-(of.K // of.groups) // panel), (of.R + 1) ** 2, of.C // of.groups, panel)
    packed = empty(Spec(shape, contiguous_strides(shape), weight.dtype))
    threads = torch.get_num_threads()
    native().winograd_pack(of, weight.data_ptr(), steps, for_input_grad, packed.data_ptr(), threads)
    return Filters(packed, of)


@lru_cache(maxsize=1024)
def share(size: Pair, R: int, padding: Pair) -> float:
    """Products here for one of the convolution's, which leaves out what lies in the padding."""
    share = 1.0
    for length, pad in zip(size, padding, strict=True):
        outputs = length + 2 * pad - R + 1
        taps = sum(max(0, min(outputs, length + pad - r) - max(0, pad - r)) for r in range(R))
        share *= (R + 1) * -(-outputs // 2) / taps if taps > 0 else math.inf
    return share


def convolve(
    images: Tensor, filters: Filters, bias: Tensor | None, relu: bool, channels_last: bool, gate: Tensor | None = None
) -> Tensor | None:
    """The convolution's output, (N, K, P, Q); None if not every number in it is finite before the ReLU: an infinity
    reaches all outputs of its tiles here, and the convolution has to say which are its own.

    gate: where it is <= 0 an image counts as 0.
    """
    of, threads = filters.over(images), torch.get_num_threads()
    lies = nchw((of.N, of.C, of.H, of.W), images.dtype, channels_last)
    images, gate = conform(images, lies), None if gate is None else conform(gate, lies)
    bias = None if bias is None else bias.contiguous()
    output = empty(nchw((of.N, of.K, of.P, of.Q), images.dtype, channels_last))
    workspace = empty(Spec((threads * native().winograd_workspace(of),), (1,), images.dtype))
    finite = native().winograd_convolve(
        of,
        channels_last,
        images.data_ptr(),
        0 if gate is None else gate.data_ptr(),
        filters.packed.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        relu,
        output.data_ptr(),
        workspace.data_ptr(),
        threads,
    )
    return output if finite else None
