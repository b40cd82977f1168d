"""The definition of an operator that there is not: softsign, x / (1 + |x|)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from alexkern.plan import conform, like

composite = F.softsign


def forward(input: Tensor) -> Tensor:
    return conform(F.softsign(input), like(input))


def backward(grad: Tensor, input: Tensor, needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    return (conform(grad / (1 + input.abs()) ** 2, like(input)) if needs[0] else None,)
