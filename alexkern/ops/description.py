"""What the routes need to know of an operator: its schema, its plan, what it saves. Its own file gives them."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from alexkern.plan import Spec


class Description:
    """Arguments are positional everywhere, tensors first.

    A backend's module has `forward(*args)`, which returns the output, or (output, offsets) for an operator with
    `has_offsets`, and `backward(grad, *saved, *params, needs)`, which returns one gradient or None for each of
    `differentiable`.
    """

    name: ClassVar[str]
    schema: ClassVar[str]  # of the forward's arguments
    backward_schema: ClassVar[str]  # of the saved tensors and parameters that follow grad
    num_tensors: ClassVar[int]  # how many of the arguments are tensors; they come first
    num_differentiable: ClassVar[int]  # how many of those may have gradients; they come first
    has_offsets: ClassVar[bool] = False  # a max-pooling operator: its last argument is save_offsets

    def plan(self, *args: Any) -> tuple[Spec, ...]:
        """The outputs' places, offsets included."""
        raise NotImplementedError

    def plan_backward(self, grad: Tensor, *args: Any) -> tuple[Spec, ...]:
        """The gradients' places, for everything that `differentiable` names."""
        raise NotImplementedError

    def save(self, args: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The tensors that the backward needs, and its other parameters."""
        raise NotImplementedError
