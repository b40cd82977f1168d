"""dropout: zeros with probability p, the rest scaled."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from alexkern.references import philox
from alexkern.references.reference import SEED, Case, Reference


def dropped(value: Tensor, seed: Tensor | None, p: float) -> Tensor:
    if seed is None:
        return value
    return (value * philox.keep(seed, p, value)) * (1 / (1 - p) if p < 1 else 0.0)


def plain(input: Tensor, seed: Tensor, p: float) -> Tensor:
    return F.dropout(input, p)


REFERENCE = Reference(
    cases=(
        Case("classifier", ((4, 96), SEED), (0.5,)),
        Case("ragged", ((3, 5, 7), SEED), (0.3,)),
        Case("images", ((2, 5, 3, 4), SEED), (0.1,)),
        Case("all dropped", ((2, 9), SEED), (1.0,)),
    ),
    layers=(Case("alexnet fc7", ((32, 4096), SEED), (0.5,)),),
    forward=dropped,
    plain=plain,
)
