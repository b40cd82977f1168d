"""local_response_norm by csrc/cuda/local_response_norm: any number of dimensions, seen as (N, C, L)."""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.backends.cuda import compiled, launch
from alexkern.backends.cuda.wide import Wide
from alexkern.plan import conform, empty, in_planes, like

WIDE = (Wide(r"(forward|backward)_kernel<Traits<\w+, [35], true> ?>", None, frozenset()),)


def forward(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return _run(input, None, size, alpha, beta, k)


def backward(
    grad: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float, needs: tuple[bool]
) -> tuple[Tensor | None]:
    """Gradient of the input."""
    return (_run(input, grad, size, alpha, beta, k),)


def _run(input: Tensor, grad: Tensor | None, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """The output, or the gradient where there is a grad."""
    planned = like(input)
    spec, planes = in_planes(planned)
    result = empty(spec, input.device)
    if result.numel() == 0:
        return conform(result, planned)
    x = conform(input, spec)
    dy = None if grad is None else conform(grad, spec)
    shared = None
    if dy is not None and compiled(input).local_response_norm_needs_workspace(size, beta):
        shared = empty(spec._replace(dtype=torch.float32), input.device)
    launch(
        "local_response_norm",
        result,
        x.data_ptr(),
        0 if dy is None else dy.data_ptr(),
        result.data_ptr(),
        0 if shared is None else shared.data_ptr(),
        *planes,
        size,
        alpha / size,
        beta,
        k,
    )
    return conform(result, planned)
