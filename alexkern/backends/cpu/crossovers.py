"""Where the products of a linear layer are ours on a CPU, and where torch's."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from alexkern.backends.cpu import native

PRODUCTS = ("forward", "input_grad", "weight_grad")


class Served(NamedTuple):
    """Weights of `least` elements and more, up to the next: ours from `fewest` rows to `most`."""

    least: int
    fewest: int
    most: int


TABLE: dict[str, dict[str, tuple[tuple[int, int, int], ...]]] = {
    isa: {product: ((1, 1, 128),) for product in ("forward", "input_grad", "weight_grad")}
    for isa in ("portable", "avx2", "avx512")
}


def is_ours(product: str, weight: Tensor, sizes: tuple[int, int, int]) -> bool:
    """Of `sizes` (rows, in_features, out_features), the weight as it lies in memory."""
    if not weight.is_contiguous():
        return False
    for least, fewest, most in TABLE[native().isa()][product]:
        if weight.numel() >= least:
            return fewest <= sizes[0] <= most
    return False
