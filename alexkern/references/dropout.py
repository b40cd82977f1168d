"""dropout: zeros with probability p, the rest scaled."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.torch import philox
from alexkern.references.reference import SEED, Case, Reference


def dropped(value: Tensor, seed: Tensor | None, p: float) -> Tensor:
    if seed is None:
        return value
    # On the CPU, by the definition, whose bits known answers of others hold.
    keep = philox.keep(seed.cpu(), p, tuple(value.shape), torch.empty_like(value).stride()).to(value.device)
    return (value * keep) * (1 / (1 - p) if p < 1 else 0.0)


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
