"""The ways a call can take through the library, each giving a result and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from support.cases import Case

Result = tuple[Tensor, list[Tensor | None]]
GRADIENT_ROUTES = ("autograd", "dispatcher")  # that run a backend's own forward and backward: the same bits
ROUTES = ("direct", *GRADIENT_ROUTES, "func")  # torch.func runs the definition, whatever the backend


class Transparent(TorchDispatchMode):
    """An active dispatch mode that changes nothing: sends every call to the dispatcher's operators."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def run(route: str, case: Case, tensors: list[Tensor | None], grad: Tensor | None) -> Result:
    """The operator's output, and the gradients of its tensors for `grad` (none on the direct route)."""
    torch.manual_seed(0)
    present = [index for index, tensor in enumerate(tensors) if tensor is not None]
    if route == "direct":
        with torch.no_grad():
            return case.call(*tensors), []

    def call(*values: Tensor) -> Tensor:
        full: list[Tensor | None] = [None] * len(tensors)
        for index, value in zip(present, values, strict=True):
            full[index] = value
        return case.call(*full)

    leaves = [tensors[index].detach().requires_grad_() for index in present]  # type: ignore[union-attr]
    grads: tuple[Tensor | None, ...]
    if route == "func":
        output, pull = torch.func.vjp(call, *(leaf.detach() for leaf in leaves))
        grads = pull(torch.ones_like(output) if grad is None else grad)
    elif route == "dispatcher":
        with Transparent():
            output = call(*leaves)
        grads = torch.autograd.grad(output, leaves, torch.ones_like(output) if grad is None else grad)
    else:
        assert route == "autograd"
        output = call(*leaves)
        grads = torch.autograd.grad(output, leaves, torch.ones_like(output) if grad is None else grad)
    full_grads: list[Tensor | None] = [None] * len(tensors)
    for index, value in zip(present, grads, strict=True):
        full_grads[index] = value
    return output.detach(), full_grads
