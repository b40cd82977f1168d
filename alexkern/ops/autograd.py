"""The autograd.Function of an operator, and when torch's own operators stand in for kernels.

A kernel knows an operator and its first derivative. What is transformed by torch.func, carries tangents or is recorded
to be differentiated again runs the definition instead: its composite forward, and backward its `backward`. Both are
torch operators from end to end, so torch can batch and differentiate them as often as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from alexkern.ops.description import Description


def is_transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_derived(grad: Tensor) -> bool:
    """Of a backward pass: whether it is to be differentiated in its turn, or transformed."""
    # Grad mode is on in a backward pass exactly when that pass is recorded. is_grads_batched has a vmap of its own.
    return torch.is_grad_enabled() or is_transformed() or torch._C._functorch.is_legacy_batchedtensor(grad)


def eager_function(op: Description, definition: ModuleType) -> Callable[..., Any]:
    """Route 2. apply(call, *tensors) -> output; call: the backend, and all its arguments.

    Those come as one: torch looks at each, and wants a gradient back for it. Of the tensors it sees those that may have
    a gradient.
    """
    has_offsets, save = op.has_offsets, op.save

    def forward(ctx: Any, call: tuple[ModuleType, tuple[Any, ...]], *tensors: Tensor | None) -> Tensor:
        backend, args = call
        outputs = backend.forward(*args)
        if not has_offsets:
            outputs = (outputs,)
        saved, params = save(args, outputs)
        ctx.save_for_backward(*saved)
        ctx.call = backend, params
        return outputs[0]

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (backend, params), needs = ctx.call, ctx.needs_input_grad[1:]
        backend, grad = (definition, grad) if is_derived(grad) else (backend, grad.resolve_neg())
        return (None, *backend.backward(grad, *ctx.saved_tensors, *params, needs))

    class_name = "".join(part.capitalize() for part in op.name.split("_"))
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(class_name, (Function,), methods)
    function._backward_cls.apply = backward  # torch's own finds it anew in every backward pass
    # What Function.apply calls in the end. Before it, it asks whether a torch.func transform is active, which route 2
    # has asked, and looks through all arguments for tensors that outlived one: 4 of the 13 us that this route takes.
    return super(Function, function).apply
