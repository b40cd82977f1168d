"""Route 4: the operators in torch's dispatcher, as torch.ops.alexkern.NAME and NAME_backward.

What torch.compile, torch.export, make_fx, fake and meta tensors see. Each carries the name of its backend as its first
argument: it is resolved when the forward is traced and is the same in the backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from alexkern import dispatch
from alexkern.ops.autograd import is_transformed
from alexkern.ops.description import Description
from alexkern.plan import Spec, conform, empty

LIBRARY = torch.library.Library("alexkern", "DEF")


def register(op: Description) -> Callable[..., Any]:
    """Define an operator and its backward in the dispatcher, with kernels, fakes and gradients."""
    gradients = op.num_differentiable
    forward_returns = "(Tensor, Tensor)" if op.has_offsets else "Tensor"
    backward_returns = "Tensor" if gradients == 1 else f"({', '.join(['Tensor'] * gradients)})"
    needs = f"bool[{gradients}] needs"
    _define(
        op.name,
        f"(str backend, {op.schema}) -> {forward_returns}",
        lambda backend, *args: _single(_forward(op, backend, args)),
        lambda backend, *args: _single(_empty(op.plan(*_with_tuples(args)), args[0])),
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
        grads = operator(ctx.backend, grad, *ctx.saved_tensors, *ctx.params, needs)
        grads = (grads,) if gradients == 1 else grads
        kept = tuple(value if need else None for value, need in zip(grads, needs, strict=True))
        return (None, *kept, *(None,) * (ctx.num_args - gradients))

    def differentiable(keys: Any, backend: str, *args: Any) -> Any:
        """NAME_backward, or the definition's where that is to be differentiated in its turn."""
        recorded = torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
        if recorded or is_transformed():
            return _single(_backward(op, "torch", args))
        with torch._C._AutoDispatchBelowAutograd():
            return operator.default.redispatch(keys & torch._C._after_autograd_keyset, backend, *args)

    operator = getattr(torch.ops.alexkern, f"{op.name}_backward")
    LIBRARY.impl(f"{op.name}_backward", differentiable, "Autograd", with_keyset=True)
    torch.library.register_autograd(f"alexkern::{op.name}", backward, setup_context=setup_context, lib=LIBRARY)
    return getattr(torch.ops.alexkern, op.name)


def _define(name: str, schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"alexkern::{name}", fake, lib=LIBRARY)


def _forward(op: Description, backend: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    args = _with_tuples(args)
    outputs = dispatch.implementation(backend, op.name).forward(*args)
    return _placed(outputs if op.has_offsets else (outputs,), op.plan(*args), args[0])


def _backward(op: Description, backend: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    args = _with_tuples(args)
    grads = dispatch.implementation(backend, op.name).backward(*args)
    return _placed(grads, _planned_gradients(op, args[0], args[1:]), args[0])


def _with_tuples(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """As the other routes have them: the dispatcher hands pairs and shapes over as lists."""
    return tuple(tuple(arg) if type(arg) is list else arg for arg in args)


def _placed(values: Iterable[Tensor | None], specs: tuple[Spec, ...], like: Tensor) -> tuple[Tensor, ...]:
    """As planned. A schema has no optional results: what was not asked for is planned as an empty tensor."""
    pairs = zip(values, specs, strict=True)
    return tuple(empty(spec, like.device) if value is None else conform(value, spec) for value, spec in pairs)


def _planned_gradients(op: Description, grad: Tensor, args: tuple[Any, ...]) -> tuple[Spec, ...]:
    nothing = Spec((0,), (1,), grad.dtype)
    specs = op.plan_backward(grad, *_with_tuples(args[:-1]))
    return tuple(spec if need else nothing for spec, need in zip(specs, args[-1], strict=True))


def _empty(specs: tuple[Spec, ...], like: Tensor) -> tuple[Tensor, ...]:
    return tuple(empty(spec, like.device) for spec in specs)


def _single(outputs: tuple[Tensor, ...]) -> Any:
    return outputs[0] if len(outputs) == 1 else outputs
