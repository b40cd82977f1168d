"""A way to run a layer of a snapshot. A backend's are in its packed_conv2d.py and packed_linear.py."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor


class Way:
    """One way to run a layer, made for it by `pack`."""

    words: str  # for the repr
    trusts: ClassVar[bool] = True  # its input, which has to be checked before
    serves_all: ClassVar[bool] = False  # so that none comes behind it

    def __init__(self, step: Any, weight: Tensor):
        self.bias, self.relu = step.bias, step.relu
        self.weight = weight  # as this way reads it

    @classmethod
    def pack(cls, step: Any, weight: Tensor, /) -> Way | None:
        """For a step with a weight as torch has it; None where this way is not for such a layer, or not to be had."""
        return cls(step, weight)

    def serves(self, input: Tensor, /, *how: Any) -> bool:
        """Whether the way may be taken, and pays. how: of a convolution, whether images are to be channels_last."""
        return True

    def __call__(self, input: Tensor, /, *how: Any) -> Tensor | None:
        """The step's output; None where it has to come from a later way after all."""
        raise NotImplementedError
