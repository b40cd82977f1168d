"""What the routes need to know of an operator: its schema, its plan, what it saves. Its own file gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from alexkern.ops.layer import Reader
from alexkern.plan import Spec, like
from alexkern.references.reference import Reference

Layers = tuple[type[nn.Module], ...]
IMAGE, FILTER, ROWS, MATRIX = (1, 8, 9, 9), (8, 8, 3, 3), (8, 16), (16, 16)  # shapes of small examples


class Example(NamedTuple):
    """A small call: the tensors' shapes, the public function's other arguments, and the backend's for the same."""

    shapes: tuple[tuple[int, ...], ...]
    public: tuple[Any, ...]
    backend: tuple[Any, ...]
    seeded: bool = False  # whether the backend gets a seed and offset behind the tensors


class Description:
    """Arguments are positional everywhere, tensors first.

    A backend's module has `forward(*args)`, which returns the output, or (output, offsets or mask) for an operator
    with `has_offsets`, and `backward(grad, *saved, *params, needs)`, which returns one gradient or None for each of
    `differentiable`.
    """

    name: ClassVar[str]
    schema: ClassVar[str] = ""  # of the forward's arguments
    backward_schema: ClassVar[str]  # of the saved tensors and parameters that follow grad
    # What the schema says:
    num_tensors: ClassVar[int]  # how many of the arguments are tensors; they come first
    num_differentiable: ClassVar[int]  # how many of those may have gradients; they come first
    has_offsets: ClassVar[bool]  # offsets or a mask behind the output, if its last argument asks for them
    pools: ClassVar[bool]  # whether it is torch's max-pooling in the end
    multiplies: ClassVar[bool]  # whether it is a matrix product

    layers: ClassVar[tuple[Layers, ...]]  # the runs of a Sequential's children that it stands for
    # torch's functions and methods for the first of those, each with what reads a call of it in a graph.
    spellings: ClassVar[Mapping[Any, Reader]] = {}
    example: ClassVar[Example]
    reference: ClassVar[Reference | None] = None  # what `alexkern verify` holds its backends to

    def __init_subclass__(cls) -> None:
        cls.num_tensors = cls.schema.count("Tensor")
        cls.num_differentiable = cls.num_tensors - cls.schema.count(" seed")
        cls.has_offsets, cls.pools = "bool save_" in cls.schema, "save_offsets" in cls.schema
        cls.multiplies = "Tensor weight" in cls.schema

    def misfit(self, *modules: Any) -> str | None:
        """Which of their settings keeps it from computing what a run of such layers does, or None."""
        return None

    def arguments(self, *modules: Any) -> dict[str, Any]:
        """What the public function takes behind the input, for a run of such layers."""
        raise NotImplementedError

    def gains(self, backend: Any, images: Sequence[int], *modules: Any) -> bool:
        """Whether a backend, with a `gains` of its own, saves more than a call costs over torch's, for such layers."""
        return True

    def plan(self, *args: Any) -> tuple[Spec, ...]:
        """How the outputs lie in memory, offsets included."""
        return (like(args[0]),)

    def plan_backward(self, grad: Tensor, *args: Any) -> tuple[Spec, ...]:
        """How the gradients lie in memory, of all that may have one: as input, weight and bias, if not others."""
        if not self.multiplies:
            return (like(args[0]),)
        input, weight, *_ = args
        return like(input), like(weight), Spec((weight.shape[0],), (1,), weight.dtype)

    def save(self, args: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The tensors that the backward needs, and its other parameters: all there are, if not less."""
        return args[: self.num_tensors], args[self.num_tensors :]
