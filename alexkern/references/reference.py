"""What is known of an operator apart from its backends: calls, and the value and the derivative of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]
SEED: Literal["seed"] = "seed"  # in place of a shape: dropout's seed and offset


class Case(NamedTuple):
    """A call of a backend: the shapes of its tensors (None where one is left out), and its other arguments."""

    label: str
    shapes: tuple[Shape | Literal["seed"] | None, ...]
    arguments: tuple[Any, ...] = ()

    def draw(self, dtype: torch.dtype, device: torch.device, channels_last: bool = False) -> tuple[Any, ...]:
        """The call's arguments, the same in every run: normal values, weights scaled so that outputs are normal too."""
        generator = torch.Generator().manual_seed(20120930)
        tensors: list[Tensor | None] = []
        for index, shape in enumerate(self.shapes):
            if shape is None:
                tensors.append(None)
            elif shape == SEED:
                tensors.append(torch.tensor((2012, 2**62 + 930), device=device))
            else:
                value = torch.randn(shape, generator=generator)
                if index == 1:
                    value /= value[0].numel() ** 0.5
                value = value.to(device, dtype)
                image = channels_last and value.dim() == 4
                tensors.append(value.contiguous(memory_format=torch.channels_last) if image else value)
        return (*tensors, *self.arguments)


class Reference(NamedTuple):
    """An operator in torch's operators.

    cases: small calls and odd ones. layers: those of the AlexNets; the first is timed.
    forward(*args), of the backend's own arguments, is what has to come out. along(outputs, *args) is the same, for
    torch to differentiate, along the choices that a backend's outputs tell of: which values the ReLU let pass, and
    where in its window each maximum was. In another precision another of two nearly equal values may win. plain(*args)
    is what a user of torch calls, if that is not forward.
    """

    cases: tuple[Case, ...]
    layers: tuple[Case, ...]
    forward: Callable[..., Tensor]
    along: Callable[..., Tensor] | None = None  # none where there is nothing to choose
    plain: Callable[..., Tensor] | None = None

    def chosen(self, outputs: tuple[Tensor, ...], *args: Any) -> Tensor:
        return self.along(outputs, *args) if self.along else self.forward(*args)


def passes(output: Tensor) -> Tensor:
    """Where a ReLU let its input through, NaN included."""
    return ~(output <= 0)
