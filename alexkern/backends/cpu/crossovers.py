"""Where the products of a linear layer and of a convolution, and poolings, are ours on a CPU, and where torch's."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from alexkern.backends.cpu import native, winograd
from alexkern.geometry import Geometry

PRODUCTS = ("forward", "input_grad", "weight_grad")


class Served(NamedTuple):
    """Weights of `least` elements and more, up to the next: the numbers of rows, first and last, that are ours."""

    least: int
    rows: tuple[tuple[int, int], ...]


# Tables go by instruction set and maker, as bench/crossovers.py wrote them on a Xeon (Sapphire Rapids) and on an EPYC
# (Zen 4), for AVX2 with torch's products held to AVX2. This one by product, the largest weights first; one row, where
# two threads gain more than one, with two as well.
TABLE: dict[str, dict[str, tuple[Served, ...]]] = {
    "portable": {},
    "portable on AMD": {},
    "avx2": {
        "forward": (Served(2**22, ((2, 96),)), Served(2**20, ((2, 24), (48, 96)))),
        "input_grad": (Served(2**24, ((2, 64),)), Served(2**20, ((8, 8), (16, 16)))),
        "weight_grad": (Served(2**24, ((1, 1),)), Served(2**20, ((2, 4),))),
    },
    "avx2 on AMD": {
        "forward": (Served(2**24, ((1, 128),)), Served(2**22, ((1, 96),)), Served(2**20, ((2, 96),))),
        "input_grad": (Served(2**24, ((1, 128),)), Served(2**22, ((2, 128),)), Served(2**20, ((4, 32),))),
        "weight_grad": (Served(2**24, ((2, 24),)), Served(2**20, ((2, 16),))),
    },
    "avx512": {
        "forward": (Served(2**20, ((4, 64),)),),
        "input_grad": (Served(2**24, ((2, 128),)), Served(2**22, ((16, 128),))),
        "weight_grad": (Served(2**22, ((1, 8), (48, 96))),),
    },
    "avx512 on AMD": {
        "forward": (Served(2**20, ((1, 128),)),),
        "forward, bfloat16": (Served(2**24, ((1, 4),)), Served(2**20, ((1, 1),))),
        "input_grad": (Served(2**24, ((2, 128),)), Served(2**22, ((4, 128),)), Served(2**20, ((4, 48),))),
        "weight_grad": (Served(2**24, ((1, 128),)), Served(2**22, ((2, 128),)), Served(2**20, ((2, 24),))),
    },
}


class Pooled(NamedTuple):
    """From how many on large images are pooled by ours: windows in a row of contiguous ones, fewer of which leave most
    lanes idle, and, for the gradient, channels of channels_last ones, fewer of which are added up faster than found."""

    windows: int
    channels: int


POOLED = {
    "portable": Pooled(3, 16),
    "portable on AMD": Pooled(2, 8),
    "avx2": Pooled(3, 16),
    "avx2 on AMD": Pooled(2, 8),
    "avx512": Pooled(3, 12),
    "avx512 on AMD": Pooled(2, 8),
}


def kernels() -> str:
    """The instruction set whose kernels of float32 are in use: avx512bf16 has those of avx512."""
    return native().isa().removesuffix("bf16")


def measured() -> str:
    """Which entry of the tables stands for this processor. MKL, whose products torch's linear layers are, runs other
    code on AMD's."""
    return kernels() + (" on AMD" if native().amd else "")


def pooled() -> Pooled:
    return POOLED[measured()]


def is_ours(product: str, weight: Tensor, rows: int) -> bool:
    """Of so many rows with a weight as it lies in memory."""
    if not weight.is_contiguous() or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    for least, ours in served(product if weight.dtype == torch.float32 else f"{product}, bfloat16"):
        if weight.numel() >= least:
            return any(first <= rows <= last for first, last in ours)
    return False


def served(product: str) -> tuple[Served, ...]:
    return TABLE[measured()].get(product, ())


class Tiled(NamedTuple):
    """Filters of R x R pixels or blocks of pixels, with so many channels and filters in a group and so many tiles of
    2x2 outputs of the convolution at least, go in tiles of M x M. Of few channels the larger ones round off more than
    the accuracy rule allows: a sum of few terms has little of an error of its own."""

    R: int
    channels: int
    tiles: int
    M: int = 2


# As above; filters' gradients, whose shares depend on the threads, with one thread and two. "packed": of filters that a
# snapshot has packed; "of blocks": with strides.
ZEN: dict[str, tuple[Tiled, ...]] = {
    "forward": (Tiled(3, 32, 49), Tiled(3, 192, 196, 4), Tiled(5, 32, 49)),
    "input_grad": (Tiled(3, 32, 49), Tiled(3, 192, 196, 4), Tiled(5, 32, 49)),
    "weight_grad": (Tiled(3, 32, 49), Tiled(5, 32, 49)),
    "packed": (Tiled(3, 32, 16), Tiled(3, 192, 64, 4), Tiled(5, 32, 16)),
    "forward of blocks": (Tiled(3, 32, 392),),
    "packed of blocks": (Tiled(3, 32, 16),),
    "input_grad of blocks": (Tiled(3, 32, 49),),
    "weight_grad of blocks": (Tiled(3, 32, 392),),
}
ZEN_BFLOAT16: dict[str, tuple[Tiled, ...]] = {
    "forward, bfloat16": (Tiled(3, 32, 49),),
    "input_grad, bfloat16": (Tiled(3, 32, 49),),
    "weight_grad, bfloat16": (Tiled(3, 32, 49), Tiled(5, 32, 49)),
    "packed, bfloat16": (Tiled(3, 32, 16),),
    "forward of blocks, bfloat16": (Tiled(3, 32, 392),),
    "packed of blocks, bfloat16": (Tiled(3, 32, 16),),
    "input_grad of blocks, bfloat16": (Tiled(3, 32, 49),),
    "weight_grad of blocks, bfloat16": (Tiled(3, 48, 1568),),
}
CONVOLUTIONS: dict[str, dict[str, tuple[Tiled, ...]]] = {
    "portable": {},
    "portable on AMD": {},
    "avx2 on AMD": ZEN,
    "avx512 on AMD": ZEN | ZEN_BFLOAT16,
    "avx2": {
        "forward": (Tiled(3, 32, 98), Tiled(5, 32, 49)),
        "input_grad": (Tiled(3, 32, 98), Tiled(5, 64, 49)),
        "weight_grad": (Tiled(3, 32, 49),),
        "packed": (Tiled(3, 32, 98), Tiled(5, 32, 16)),
        "forward of blocks": (Tiled(3, 32, 3136),),
        "packed of blocks": (Tiled(3, 32, 98),),
        "weight_grad of blocks": (Tiled(3, 48, 784),),
    },
    "avx512": {
        "forward": (Tiled(3, 32, 98), Tiled(5, 32, 49)),
        "input_grad": (Tiled(3, 32, 49), Tiled(5, 32, 49)),
        "weight_grad": (Tiled(3, 32, 49),),
        "packed": (Tiled(3, 32, 4), Tiled(5, 32, 16)),
        "forward of blocks": (Tiled(3, 32, 3136),),
        "packed of blocks": (Tiled(3, 32, 98),),
        "weight_grad of blocks": (Tiled(3, 48, 3136),),
    },
}
# The products in tiles have to be at most this share of the convolution's, for the way to the points and back not to
# eat up what is saved. Measured with two cores at 3 to 224 pixels, 16 to 512 channels: above it lie images of 3, 5 and
# 7 pixels. On AMD's processors oneDNN takes longer there, and longest for a filter's gradient (4 to 7 pixels, 32 to 128
# channels).
WORTH, WORTH_ON_AMD, WORTH_OF_GRADIENT_ON_AMD = 0.65, 0.72, 1.0
# Of packed 3x3 filters more: at 2 to 7 pixels oneDNN takes up to twice as long over channels_last as over contiguous.
WORTH_PACKED = 1.4
# And those in tiles of 4x4 this share of those in tiles of 2x2: for 13 outputs a side it is 0.73, where networks gain
# nothing by them.
LARGER = 0.6


def least_tiles(product: str, of: Geometry, dtype: torch.dtype, channels_last: bool, M: int) -> int | None:
    """From how many tiles on a product of such a convolution may be csrc/cpu/winograd's, in tiles of M x M; None for
    none."""
    return _least(_served(product, of, dtype), product, of, dtype, channels_last, M)


def in_tiles(product: str, of: Geometry, dtype: torch.dtype, channels_last: bool) -> int:
    """The outputs a side of the tiles in which a product of such a convolution is csrc/cpu/winograd's; 0 where it is
    torch's."""
    return _in_tiles(_served(product, of, dtype), _worth(product, of), product, of, dtype, channels_last)


def _worth(product: str, of: Geometry) -> float:
    if product == "packed" and of.R == 3:
        return WORTH_PACKED
    if not native().amd:
        return WORTH
    return WORTH_OF_GRADIENT_ON_AMD if product == "weight_grad" else WORTH_ON_AMD


def entry_of(product: str, of: Geometry, dtype: torch.dtype) -> str:
    """What CONVOLUTIONS calls it."""
    return product + " of blocks" * (of.stride != (1, 1)) + ", bfloat16" * (dtype == torch.bfloat16)


def _served(product: str, of: Geometry, dtype: torch.dtype) -> tuple[Tiled, ...]:
    if dtype == torch.bfloat16 and native().isa() == kernels():
        return ()  # that set has no products of it
    return CONVOLUTIONS[measured()].get(entry_of(product, of, dtype), ())


def _least(
    served: tuple[Tiled, ...], product: str, of: Geometry, dtype: torch.dtype, channels_last: bool, M: int
) -> int | None:
    if not winograd.has_tiles(of) or (of.stride != (1, 1) and not channels_last):
        return None
    blocks = winograd.over_blocks(of)
    rounds_off_more = M == 4 or (product == "input_grad" and blocks.R == 5)
    if rounds_off_more and not channels_last:
        return None  # of contiguous images torch's convolution rounds off less than half as much
    if dtype == torch.bfloat16 and (M == 4 or (product != "weight_grad" and blocks.R == 5)):
        return None  # to which points of so many pixels are not rounded: too much would be lost
    channels = min(blocks.C, blocks.K) // of.groups
    fits = (one for one in served if blocks.R == one.R and channels >= one.channels and M == one.M)
    return min((one.tiles for one in fits), default=None)


@functools.lru_cache(maxsize=1024)  # asked at every call
def _in_tiles(
    served: tuple[Tiled, ...], worth: float, product: str, of: Geometry, dtype: torch.dtype, channels_last: bool
) -> int:
    tiles = of.N * -(-of.P // 2) * -(-of.Q // 2)
    for M in (4, 2):
        least = _least(served, product, of, dtype, channels_last, M)
        if least is None or tiles < least:
            continue
        most = worth if M == 2 else min(worth, LARGER * winograd.share(product, of, 2))
        if winograd.share(product, of, M) <= most:
            return M
    return 0
