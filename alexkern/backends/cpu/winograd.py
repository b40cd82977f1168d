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
from alexkern.geometry import Pair
from alexkern.plan import Spec, nchw

SIZES = (3, 5)  # of filters
# The products have to be at most this share of the convolution's, for the way to the points and back not to eat up what
# is saved. Measured with two cores at 3 to 224 pixels, 16 to 512 channels: above it lie images of 3, 5 and 7 pixels.
WORTH = 0.65


class Filters(NamedTuple):
    """Filters of one size, as csrc/cpu/winograd reads them."""

    packed: Tensor  # (groups K / 32, (R + 1)^2, C, 32)
    K: int  # of one group, as C
    C: int
    R: int
    padding: Pair
    groups: int

    def numbers(self, N: int, H: int, W: int) -> tuple[int, ...]:
        return N, self.C, H, W, self.K, self.R, *self.padding, self.groups

    def output_size(self, H: int, W: int) -> Pair:
        return H + 2 * self.padding[0] - self.R + 1, W + 2 * self.padding[1] - self.R + 1

    def describe(self) -> str:
        return f"F(2x2, {self.R}x{self.R})"


def missing(device_type: str, dtype: torch.dtype) -> str | None:
    """Why csrc/cpu/winograd cannot serve tensors of this dtype on this kind of device, or None where it can."""
    reason = cpu.missing(device_type, dtype)
    if reason is None and not cpu.native().winograd_is_supported():
        return "the processor has no AVX-512, or alexkern._cpu was built without OpenMP"
    return reason


def pack(weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Filters | None:
    """The filters (groups K, C, R, S), or None where this kind of convolution is not served here."""
    if missing(weight.device.type, weight.dtype) is not None:
        return None
    native = cpu.native()
    K, C, R, S = weight.shape
    channels, filters = native.winograd_multiples
    plain = stride == dilation == (1, 1) and R == S and R in SIZES
    if not plain or C % channels != 0 or K % (groups * filters) != 0:
        return None
    shape = (K // filters, (R + 1) ** 2, C, filters)
    made = Filters(torch.empty(shape, dtype=weight.dtype), K // groups, C, R, padding, groups)
    weight = weight.contiguous()
    native.winograd_pack(made.numbers(1, 1, 1), weight.data_ptr(), made.packed.data_ptr())
    return made._replace(packed=in_huge_pages(made.packed))


def pays(images: Tensor, filters: Filters) -> bool:
    """Whether images (N, C, H, W) are convolved faster this way."""
    return _share(images.shape[2:], filters.R, filters.padding) <= WORTH


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
    N, _, H, W = images.shape
    output = empty(nchw((N, filters.groups * filters.K, *filters.output_size(H, W)), images.dtype, True))
    numbers, threads = filters.numbers(N, H, W), torch.get_num_threads()
    workspace = empty(Spec((threads * native.winograd_workspace(numbers),), (1,), images.dtype))
    finite = native.winograd_convolve(
        numbers,
        images.data_ptr(),
        filters.packed.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        relu,
        output.data_ptr(),
        workspace.data_ptr(),
        threads,
    )
    return output if finite else None
