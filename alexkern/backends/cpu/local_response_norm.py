"""local_response_norm by csrc/cpu/local_response_norm: any number of dimensions, seen as (N, C, L)."""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.backends.cpu import native
from alexkern.backends.cpu.memory import empty
from alexkern.plan import Spec, conform, contiguous_strides, in_planes, like


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
    if 1 not in planes.strides[1:]:  # neither channels nor pixels lie side by side
        spec, planes = in_planes(Spec(planned.shape, contiguous_strides(planned.shape), planned.dtype))
    result = empty(spec)
    if result.numel() == 0:
        return conform(result, planned)
    x = conform(input, spec)
    dy = None if grad is None else conform(grad, spec)
    threads = torch.get_num_threads()
    floats = threads * native().local_response_norm_workspace(planes.C, planes.strides[1], size)
    workspace = empty(Spec((floats,), (1,), torch.float32))
    native().local_response_norm(
        *planes,
        size,
        alpha / size,
        beta,
        k,
        x.dtype == torch.bfloat16,
        x.data_ptr(),
        0 if dy is None else dy.data_ptr(),
        result.data_ptr(),
        workspace.data_ptr(),
        threads,
    )
    return conform(result, planned)
