"""local_response_norm: every value divided by a power of the energy of its neighbours in the channel dimension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.references.reference import Case, Reference


def forward(input: Tensor, *args: Any) -> Tensor:
    if input.device.type == "cpu" and input.dtype in (torch.float16, torch.bfloat16):
        # torch has no pooling in half precision on a CPU: float32 and one rounding is the strictest stand-in.
        return F.local_response_norm(input.float(), *args).to(input.dtype)
    return F.local_response_norm(input, *args)


REFERENCE = Reference(
    cases=(
        Case("first layer", ((2, 24, 5, 5),), (5, 5e-4, 0.75, 2.0)),
        Case("ragged, strong", ((2, 7, 3, 4),), (3, 0.9, 0.6, 0.5)),
        Case("even size", ((1, 9, 2, 5),), (4, 0.3, 0.75, 1.0)),
        Case("size over channels", ((2, 3, 2, 2),), (9, 0.5, 0.5, 1.0)),
        Case("volumes", ((1, 4, 2, 3, 2),), (3, 0.4, 0.75, 1.0)),
        Case("three channels", ((2, 16, 3, 4),), (3, 0.4, 0.75, 1.0)),
    ),
    layers=(Case("alexnet_2012 norm1", ((32, 96, 55, 55),), (5, 5e-4, 0.75, 2.0)),),
    forward=forward,
)
