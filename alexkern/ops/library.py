"""Route 4: the operators in torch's dispatcher, as torch.ops.alexkern.NAME and NAME_backward.

What torch.compile, torch.export, make_fx, fake and meta tensors see. Each carries the name of its backend as its first
argument: it is resolved when the forward is traced and is the same in the backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alexkern import dispatch
from alexkern.ops.autograd import no_double_backward, vmap_by_loop
from alexkern.ops.description import Description
from alexkern.plan import conform, empty

LIBRARY = torch.library.Library("alexkern", "DEF")


def register(op: Description) -> Callable[..., Any]:
    """Define an operator and its backward in the dispatcher, with kernels, fakes, gradients and vmap rules."""
    gradients = op.num_differentiable
    forward_returns = "(Tensor, Tensor)" if op.has_offsets else "Tensor"
    backward_returns = "Tensor" if gradients == 1 else f"({', '.join(['Tensor'] * gradients)})"
    needs = f"bool[{gradients}] needs"
    _define(
        op.name,
        f"(str backend, {op.schema}) -> {forward_returns}",
        lambda backend, *args: _single(_forward(op, backend, args)),
        lambda backend, *args: _single(_empty(op.plan(*args), args[0])),
    )
    _define(
        f"{op.name}_backward",
        f"(str backend, Tensor grad, {op.backward_schema}, {needs}) -> {backward_returns}",
        lambda backend, *args: _single(_backward(op, backend, args)),
        lambda backend, grad, *args: _single(_empty(_planned_gradients(op, grad, args), grad)),
    )

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.backend, *args = inputs
        ctx.num_args = len(args)
        saved, ctx.params = op.save(tuple(args), output if op.has_offsets else (output,))
        ctx.save_for_backward(*saved)

    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        needs = list(ctx.needs_input_grad[1 : 1 + gradients])
        operator = getattr(torch.ops.alexkern, f"{op.name}_backward")
        grads = operator(ctx.backend, grad, *ctx.saved_tensors, *ctx.params, needs)
        grads = (grads,) if gradients == 1 else grads
        kept = tuple(value if need else None for value, need in zip(grads, needs, strict=True))
        return (None, *kept, *(None,) * (ctx.num_args - gradients))

    def double_backward(ctx: Any, *grads: Any) -> None:
        raise no_double_backward(op.name)

    torch.library.register_autograd(f"alexkern::{op.name}", backward, setup_context=setup_context, lib=LIBRARY)
    torch.library.register_autograd(f"alexkern::{op.name}_backward", double_backward, lib=LIBRARY)
    return getattr(torch.ops.alexkern, op.name)


def _define(name: str, schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    qualified = f"alexkern::{name}"
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=LIBRARY)
    operator = getattr(torch.ops.alexkern, name)
    torch.library.register_vmap(
        qualified, lambda info, in_dims, *args: vmap_by_loop(operator, info, in_dims, args), lib=LIBRARY
    )


def _forward(op: Description, backend: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    outputs = dispatch.implementation(backend, op.name).forward(*args)
    outputs = outputs if op.has_offsets else (outputs,)
    # A schema has no optional results: what was not asked for is planned as an empty tensor.
    return tuple(
        empty(spec, args[0].device) if output is None else conform(output, spec)
        for output, spec in zip(outputs, op.plan(*args), strict=True)
    )


def _backward(op: Description, backend: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    grad, *rest = args
    grads = dispatch.implementation(backend, op.name).backward(*args)
    return tuple(
        empty(spec, grad.device) if value is None else conform(value, spec)
        for value, spec in zip(grads, _planned_gradients(op, grad, tuple(rest)), strict=True)
    )


def _planned_gradients(op: Description, grad: Tensor, args: tuple[Any, ...]) -> tuple[Any, ...]:
    nothing = ((0,), (1,), grad.dtype)
    specs = op.plan_backward(grad, *args[:-1])
    return tuple(spec if need else type(spec)(*nothing) for spec, need in zip(specs, args[-1], strict=True))


def _empty(specs: tuple[Any, ...], like: Tensor) -> tuple[Tensor, ...]:
    return tuple(empty(spec, like.device) for spec in specs)


def _single(outputs: tuple[Tensor, ...]) -> Any:
    return outputs[0] if len(outputs) == 1 else outputs
