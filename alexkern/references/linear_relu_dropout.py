"""linear_relu_dropout: dropout(relu(linear(input, weight, bias)))."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from alexkern.references.dropout import dropped
from alexkern.references.reference import SEED, Case, Reference, passes


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, *_: Any) -> Tensor:
    return dropped(F.relu(F.linear(input, weight, bias)), seed, p)


def along(
    outputs: tuple[Tensor, ...],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    p: float,
    *_: Any,
) -> Tensor:
    return dropped(F.linear(input, weight, bias) * passes(outputs[0]), seed, p)


def plain(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, *_: Any) -> Tensor:
    return F.dropout(F.relu(F.linear(input, weight, bias)), p)


REFERENCE = Reference(
    cases=(
        Case("classifier", ((4, 72), (48, 72), (48,), SEED), (0.5, True)),
        Case("no dropout", ((5, 48), (40, 48), (40,), None), (0.0, True)),
        Case("ragged", ((2, 3, 33), (17, 33), (17,), SEED), (0.2, True)),
        Case("no bias", ((3, 9), (11, 9), None, SEED), (0.5, True)),
        Case("twelve rows", ((12, 64), (24, 64), (24,), None), (0.0, True)),
    ),
    layers=(
        Case("alexnet fc6", ((32, 9216), (4096, 9216), (4096,), SEED), (0.5, True)),
        Case("alexnet fc7", ((32, 4096), (4096, 4096), (4096,), SEED), (0.5, True)),
    ),
    forward=forward,
    along=along,
    plain=plain,
)
