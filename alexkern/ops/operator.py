"""One operator in every way PyTorch may call it: the four routes.

1. No gradient wanted: the backend's forward, called directly.
2. Eager with gradient: a ctx-style autograd.Function, the cheapest that records one.
3. torch.func active: the setup_context twin of that Function, with a vmap rule.
4. Compiling, fake, meta or subclassed tensors, an active dispatch mode: an operator of torch's dispatcher.

An operator's own file gives its schema, its plan and what it saves; everything below is the same for all of them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from alexkern import dispatch
from alexkern.ops import autograd, library
from alexkern.plan import Spec


class Operator:
    """What the routes need to know of an operator. Arguments are positional everywhere, tensors first.

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

    def __init__(self, reference: ModuleType):
        self.reference = reference
        self.eager = autograd.eager_function(self)
        self.functional = autograd.functional_function(self)
        self.dispatched = library.register(self)

    def plan(self, *args: Any) -> tuple[Spec, ...]:
        """The outputs' places, offsets included."""
        raise NotImplementedError

    def plan_backward(self, grad: Tensor, *args: Any) -> tuple[Spec, ...]:
        """The gradients' places, for everything that `differentiable` names."""
        raise NotImplementedError

    def save(self, args: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The tensors that the backward needs, and its other parameters."""
        raise NotImplementedError

    def __call__(self, *args: Any) -> Tensor:
        input = args[0]
        if torch.compiler.is_compiling():
            name = dispatch.resolve_name(self.name, input)
            if name == "torch":
                composite: Tensor = self.reference.composite(*args)
                return composite
            return self.through_dispatcher(name, args)
        if (type(input) is not Tensor and type(input) is not torch.nn.Parameter) or (
            input.is_meta or torch._C._len_torch_dispatch_stack() > 0
        ):
            return self.through_dispatcher(dispatch.resolve_name(self.name, input), args)
        backend = dispatch.resolve(self.name, input)
        if torch._C._are_functorch_transforms_active():
            return self.functional(backend, *self.training(args))
        if self.wants_gradient(args):
            count = self.num_tensors
            params = (*args[count:-1], True) if self.has_offsets else args[count:]
            output: Tensor = self.eager(backend, params, *args[:count])
            return output
        if self.has_offsets:
            pooled: Tensor = backend.forward(*args)[0]
            return pooled
        result: Tensor = backend.forward(*args)
        return result

    def through_dispatcher(self, backend: str, args: tuple[Any, ...]) -> Tensor:
        if self.has_offsets:
            pooled: Tensor = self.dispatched(backend, *(self.training(args) if self.wants_gradient(args) else args))[0]
            return pooled
        result: Tensor = self.dispatched(backend, *args)
        return result

    def training(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with save_offsets set, where the operator has it."""
        return (*args[:-1], True) if self.has_offsets else args

    def wants_gradient(self, args: tuple[Any, ...]) -> bool:
        if torch.is_grad_enabled():
            for tensor in args[: self.num_differentiable]:
                if tensor is not None and tensor.requires_grad:
                    return True
        # A dual tensor has to meet the Function too, whose jvp says that there is none.
        return forward_ad._current_level >= 0
