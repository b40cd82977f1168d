"""Convolution in fewer products, for snapshots on a CPU: csrc/cpu/winograd, where module and processor have it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from alexkern.backends import cpu
from alexkern.backends.cpu.huge_pages import in_huge_pages
from alexkern.backends.cpu.memory import empty
from alexkern.geometry import Geometry, Pair
from alexkern.plan import Spec, nchw

SIZES = (3, 5)  # of filters
# The products have to be at most this share of the convolution's, for the way to the points and back not to eat up what
# is saved. Measured with two cores at 3 to 224 pixels, 16 to 512 channels: above it lie images of 3, 5 and 7 pixels.
WORTH = 0.65


class Filters(NamedTuple):
    """Filters of one size, as csrc/cpu/winograd reads them."""

    packed: Tensor  # (K / 32, (R + 1)^2, C / groups, 32)
    geometry: Geometry  # over one image of one pixel

    def over(self, images: Tensor) -> Geometry:
        N, _, H, W = images.shape
        return self.geometry._replace(N=N, H=H, W=W)

    def describe(self) -> str:
        return f"F(2x2, {self.geometry.R}x{self.geometry.R})"


def missing(device_type: str, dtype: torch.dtype) -> str | None:
    """Why csrc/cpu/winograd cannot serve tensors of this dtype on this kind of device, or None where it can."""
    reason = cpu.missing(device_type, dtype)
    if reason is None and not cpu.native().winograd_is_supported():
        return "the processor has no AVX-512, or alexkern._cpu was built without OpenMP"
    return reason


def pack(weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Filters | None:
    """The filters (K, C / groups, R, S), or None where this kind of convolution is not served here."""
    if missing(weight.device.type, weight.dtype) is not None:
        return None
    native = cpu.native()
    K, C, R, S = weight.shape
    channels, filters = native.winograd_multiples
    plain = stride == dilation == (1, 1) and R == S and R in SIZES
    if not plain or C % channels != 0 or K % (groups * filters) != 0:
        return None
    shape = (K // filters, (R + 1) ** 2, C, filters)
    weight, packed = weight.contiguous(), torch.empty(shape, dtype=weight.dtype)
    geometry = Geometry(1, C * groups, 1, 1, K, R, S, stride, padding, dilation, groups)
    native.winograd_pack(geometry, weight.data_ptr(), packed.data_ptr())
    return Filters(in_huge_pages(packed), geometry)


def pays(images: Tensor, filters: Filters) -> bool:
    """Whether images (N, C, H, W) are convolved faster this way."""
    return _share(images.shape[2:], filters.geometry.R, filters.geometry.padding) <= WORTH


@lru_cache(maxsize=1024)
def _share(size: Pair, R: int, padding: Pair) -> float:
    """Products here for one of the convolution's, which leaves out what lies in the padding."""
    share = 1.0
    for length, pad in zip(size, padding, strict=True):
        outputs = length + 2 * pad - R + 1
        taps = sum(max(0, min(outputs, length + pad - r) - max(0, pad - r)) for r in range(R))
        share *= (R + 1) * -(-outputs // 2) / taps if taps > 0 else math.inf
    return share


def convolve(images: Tensor, filters: Filters, bias: Tensor | None, relu: bool) -> Tensor | None:
    """The convolution's output, (N, K, P, Q) in channels_last; None if not every number in it is finite before the
    ReLU: an infinity reaches all outputs of its tiles here, and the convolution has to say which are its own."""
    native = cpu.native()
    images = images.contiguous(memory_format=torch.channels_last)
    of, threads = filters.over(images), torch.get_num_threads()
    output = empty(nchw((of.N, of.K, of.P, of.Q), images.dtype, True))
    workspace = empty(Spec((threads * native.winograd_workspace(of),), (1,), images.dtype))
    finite = native.winograd_convolve(
        of,
        images.data_ptr(),
        filters.packed.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        relu,
        output.data_ptr(),
        workspace.data_ptr(),
        threads,
    )
    return output if finite else None
