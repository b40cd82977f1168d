"""One operator in every way PyTorch may call it: the four routes.

1. No gradient wanted: the backend's forward, called directly.
2. Eager with gradient: a ctx-style autograd.Function, the cheapest that records one.
3. torch.func transforms or forward-mode duals active: the composite in torch's operators, which torch differentiates.
4. Compiling, fake, meta or subclassed tensors, an active dispatch mode: an operator of torch's dispatcher.

An operator's own file gives its schema, its plan and what it saves; everything below is the same for all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alexkern import dispatch
from alexkern.ops import autograd, library
from alexkern.ops.description import Description


class Operator(Description):
    """A described operator, called by whichever route a call has to take; `function` is what users call."""

    def __init__(self) -> None:
        self.function: Callable[..., Tensor] = getattr(sys.modules[type(self).__module__], self.name)
        self.definition = dispatch.definition(self.name)
        # The composite that compilers are given: of a dropout, torch's own, whose zeros are torch's too.
        self.compiled = getattr(self.definition, "compiled", self.definition.composite)
        self.eager = autograd.eager_function(self, self.definition)
        self.dispatched = library.register(self)

    def __call__(self, *args: Any) -> Tensor:
        input = args[0]
        if torch.compiler.is_compiling():
            if autograd.is_transformed() or self.left_to_compiler(input, self.wants_gradient(args)):
                return self.compiled(*args)
            return self.through_dispatcher(dispatch.resolve_name(self.name, input), args)
        if autograd.is_transformed():
            return self.definition.composite(*args)
        if (type(input) is not Tensor and type(input) is not torch.nn.Parameter) or (
            input.is_meta or torch._C._len_torch_dispatch_stack() > 0
        ):
            return self.through_dispatcher(dispatch.resolve_name(self.name, input), args)
        trains = False
        tensors = args[: self.num_differentiable]
        for tensor in tensors:
            if tensor is not None:
                if tensor.is_neg():  # kernels read what lies in memory
                    return self(*(value.resolve_neg() if isinstance(value, Tensor) else value for value in args))
                if tensor.requires_grad:
                    trains = True
        backend = dispatch.resolve(self.name, input)
        if trains and torch.is_grad_enabled():
            return self.eager((backend, self.training(args)), *tensors)
        outputs = backend.forward(*args)
        return outputs[0] if self.has_offsets else outputs

    def left_to_compiler(self, input: Tensor, trains: bool) -> bool:
        """Whether torch.compile sees torch's own operators: inductor fuses them, and is never worse off for having us.

        It sees our poolings in training on a CPU, where inductor orders its own backward wrongly (docs/any-network.md).
        """
        if self.pools and trains and input.is_cpu and not dispatch.is_exporting():
            return False
        return dispatch.left_to_compiler(self.name, input)

    def through_dispatcher(self, backend: str, args: tuple[Any, ...]) -> Tensor:
        outputs = self.dispatched(backend, *(self.training(args) if self.wants_gradient(args) else args))
        return outputs[0] if self.has_offsets else outputs

    def training(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments that ask for offsets or a mask, where the operator has them."""
        return (*args[:-1], True) if self.has_offsets else args

    def wants_gradient(self, args: tuple[Any, ...]) -> bool:
        if torch.is_grad_enabled():
            for tensor in args[: self.num_differentiable]:
                if tensor is not None and tensor.requires_grad:
                    return True
        return False
