"""The autograd.Functions of an operator: ctx-style for eager mode, setup_context-style for torch.func.

A backward pass that is itself recorded (create_graph=True, nested torch.func transforms) goes through one more
Function, whose backward raises: a second derivative is then an error wherever it hides, in a mixed expression too,
where once_differentiable would drop it without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from alexkern.ops.description import Description


def camel_case(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def no_double_backward(name: str) -> RuntimeError:
    return RuntimeError(f"alexkern.{name}: double backward is not supported")


def _outputs(op: Description, outputs: Any) -> tuple[Tensor, ...]:
    return outputs if op.has_offsets else (outputs,)


def eager_function(op: Description) -> Callable[..., Any]:
    """Route 2. apply(backend, params, *tensors) -> output

    The parameters come as one argument: torch looks at every one, and wants a gradient for each back.
    """
    has_offsets, save = op.has_offsets, op.save
    padding = (None,) * (op.num_tensors - op.num_differentiable)  # gradients of the tensors that have none

    def forward(ctx: Any, backend: ModuleType, params: tuple[Any, ...], *tensors: Tensor | None) -> Tensor:
        args = (*tensors, *params)
        outputs = backend.forward(*args)
        if not has_offsets:
            outputs = (outputs,)
        saved, params = save(args, outputs)
        while saved[-1] is None:  # who draws the graph asks whatever is saved for its size
            saved, params = saved[:-1], (None, *params)
        ctx.save_for_backward(*saved)
        ctx.backend, ctx.params = backend, params
        return outputs[0]

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[2 : 2 + op.num_differentiable]
        args = (grad, *ctx.saved_tensors, *ctx.params, needs)
        # Grad mode is on in a backward pass exactly when that pass is recorded.
        grads = recorded(ctx.backend, *args) if torch.is_grad_enabled() else ctx.backend.backward(*args)
        return (None, None, *grads, *padding)

    recorded = _recorded_backward(op)
    function = _function(camel_case(op.name), op, forward=forward, backward=backward)
    # What Function.apply calls in the end. Before it, it asks whether a torch.func transform is active, which route 2
    # has asked, and looks through all arguments for tensors that outlived one: 4 of the 13 us that this route takes.
    return super(Function, function).apply


def functional_function(op: Description) -> Callable[..., Tensor]:
    """Route 3. Returns a callable (backend, *args) -> output"""

    def forward(backend: ModuleType, *args: Any) -> Any:
        return backend.forward(*args)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: Any) -> None:
        backend, *args = inputs
        outputs = _outputs(op, outputs)
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        saved, ctx.params = op.save(tuple(args), outputs)
        ctx.save_for_backward(*saved)
        ctx.backend, ctx.num_args = backend, len(args)

    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * (1 + ctx.num_args)
        needs = ctx.needs_input_grad[1 : 1 + op.num_differentiable]
        grads = recorded(ctx.backend, grad, *ctx.saved_tensors, *ctx.params, needs)
        return (None, *grads, *(None,) * (ctx.num_args - len(grads)))

    recorded = _recorded_backward(op)
    function = _function(
        f"{camel_case(op.name)}Functional",
        op,
        forward=forward,
        setup_context=setup_context,
        backward=backward,
    )
    function.vmap = staticmethod(lambda info, in_dims, *args: vmap_by_loop(function.apply, info, in_dims, args))

    def call(backend: ModuleType, *args: Any) -> Tensor:
        return _outputs(op, function.apply(backend, *args))[0]

    return call


def _recorded_backward(op: Description) -> Callable[..., tuple[Tensor | None, ...]]:
    """The backward as a Function of its own: apply(backend, grad, *saved, *params, needs) -> grads"""

    def forward(backend: ModuleType, *args: Any) -> tuple[Tensor | None, ...]:
        return backend.backward(*args)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: Any) -> None:
        pass

    def backward(ctx: Any, *grads: Any) -> None:
        raise no_double_backward(op.name)

    function = _function(
        f"{camel_case(op.name)}Gradient", op, forward=forward, setup_context=setup_context, backward=backward
    )
    function.vmap = staticmethod(lambda info, in_dims, *args: vmap_by_loop(function.apply, info, in_dims, args))
    return function.apply


def _function(class_name: str, op: Description, **methods: Callable[..., Any]) -> Any:
    def jvp(ctx: Any, *tangents: Any) -> None:
        raise RuntimeError(f"alexkern.{op.name}: forward-mode differentiation (jvp) is not supported")

    static = {name: staticmethod(method) for name, method in (*methods.items(), ("jvp", jvp))}
    return type(class_name, (Function,), static)


def vmap_by_loop(call: Callable[..., Any], info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
    """vmap's rule for every operator: one call an element, results stacked. Right for any mix of batched arguments."""
    if info.batch_size == 0:
        raise RuntimeError("alexkern: vmap over a dimension of size 0 is not supported")
    results = []
    for index in range(info.batch_size):
        # in_dims has the structure of args: a tuple of Nones for a tuple of ints.
        one = (
            arg.select(dim, index) if isinstance(arg, Tensor) and dim is not None else arg
            for arg, dim in zip(args, in_dims, strict=True)
        )
        results.append(call(*one))
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    columns = tuple(None if column[0] is None else torch.stack(column) for column in zip(*results, strict=True))
    return columns, tuple(None if column is None else 0 for column in columns)
