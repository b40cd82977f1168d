"""Where the products of a linear layer and poolings are ours on a CPU, and where torch's."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from alexkern.backends.cpu import native

PRODUCTS = ("forward", "input_grad", "weight_grad")


class Served(NamedTuple):
    """Weights of `least` elements and more, up to the next: the numbers of rows, first and last, that are ours."""

    least: int
    rows: tuple[tuple[int, int], ...]


# By instruction set, by product, the largest weights first: what bench/crossovers.py wrote on a Xeon (Sapphire Rapids),
# for AVX2 with torch's products held to AVX2.
TABLE: dict[str, dict[str, tuple[Served, ...]]] = {
    "portable": {},
    "avx2": {
        "forward": (Served(2**22, ((2, 96),)), Served(2**20, ((2, 8), (16, 64)))),
        "input_grad": (Served(2**24, ((2, 48),)), Served(2**22, ((4, 32),))),
        "weight_grad": (Served(2**24, ((1, 1),)), Served(2**22, ((1, 2),)), Served(2**20, ((1, 4),))),
    },
    "avx512": {
        "forward": (Served(2**20, ((4, 64),)),),
        "input_grad": (Served(2**24, ((2, 128),)), Served(2**22, ((16, 128),))),
        "weight_grad": (Served(2**22, ((1, 8), (48, 96))),),
    },
}


class Pooled(NamedTuple):
    """From how many on large images are pooled by ours: windows in a row of contiguous ones, fewer of which leave most
    lanes idle, and, for the gradient, channels of channels_last ones, fewer of which are added up faster than found."""

    windows: int
    channels: int


POOLED = {"portable": Pooled(3, 16), "avx2": Pooled(2, 16), "avx512": Pooled(3, 12)}  # measured in the same way


def pooled() -> Pooled:
    return POOLED[native().isa()]


def is_ours(product: str, weight: Tensor, rows: int) -> bool:
    """Of so many rows with a weight as it lies in memory."""
    if not weight.is_contiguous():
        return False
    for least, served in TABLE[native().isa()].get(product, ()):
        if weight.numel() >= least:
            return any(first <= rows <= last for first, last in served)
    return False
