"""The ways a call can take through the library, each giving a result and gradients."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from support.cases import Case, Tensors, each

GRADIENT_ROUTES = ("autograd", "dispatcher")  # that run a backend's own forward and backward: the same bits
ROUTES = ("direct", *GRADIENT_ROUTES, "func")  # torch.func runs the definition, whatever the backend


class Transparent(TorchDispatchMode):
    """An active dispatch mode that changes nothing: sends every call to the dispatcher's operators."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def run(route: str, case: Case, tensors: Tensors, grad: Tensor | None) -> tuple[Tensor, Tensors]:
    """The operator's output, and the gradients of its tensors for `grad` (none on the direct route)."""
    torch.manual_seed(0)
    if route == "direct":
        with torch.no_grad():
            return case.call(*tensors), []

    def call(*values: Tensor) -> Tensor:
        given = iter(values)
        return case.call(*each(lambda _: next(given), tensors))

    def pull(grad: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, leaves, grad)

    leaves = [tensor.detach().requires_grad_() for tensor in tensors if tensor is not None]
    if route == "func":
        output, pull = torch.func.vjp(call, *(leaf.detach() for leaf in leaves))
    else:
        assert route in GRADIENT_ROUTES
        with Transparent() if route == "dispatcher" else nullcontext():
            output = call(*leaves)
    found = iter(pull(torch.ones_like(output) if grad is None else grad))
    return output.detach(), each(lambda _: next(found), tensors)
