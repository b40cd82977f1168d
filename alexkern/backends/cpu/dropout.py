"""dropout by csrc/cpu/dropout: one read and one write of every element, and no mask."""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.backends.cpu import native
from alexkern.backends.cpu.memory import empty
from alexkern.backends.torch.dropout import scale
from alexkern.backends.torch.philox import threshold
from alexkern.plan import Spec, conform, contiguous_strides, like


def forward(input: Tensor, seed: Tensor, p: float) -> Tensor:
    return _dropped(input, seed, p, like(input))


def backward(
    grad: Tensor, seed: Tensor, output_stride: tuple[int, ...], p: float, needs: tuple[bool]
) -> tuple[Tensor | None]:
    """Gradient of the input: the same elements dropped, the same scale."""
    return (_dropped(grad, seed, p, Spec(tuple(grad.shape), tuple(output_stride), grad.dtype)),)


def _dropped(input: Tensor, seed: Tensor, p: float, spec: Spec) -> Tensor:
    """`input` in the memory order of `spec`, which is dense, elements dropped."""
    output = empty(spec)
    if input.stride() != spec.stride:
        input = output.copy_(input)  # the kernel then works in place
    run(input, output, None, seed, p, relu=False)
    return output


def run(input: Tensor, output: Tensor, mask: Tensor | None, seed: Tensor, p: float, *, relu: bool) -> None:
    """Into output, which has input's dense memory order, or is input itself; of relu(input) with `relu`, and then mask
    gets a bit for each element that passes (plan.packed_bits)."""
    native().dropout(
        input.dtype == torch.bfloat16,
        input.data_ptr(),
        output.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        output.numel(),
        seed.data_ptr(),
        threshold(p),
        scale(p),
        relu,
        torch.get_num_threads(),
    )


def masked(grad: Tensor, mask: Tensor, p: float) -> Tensor:
    """The contiguous gradient of what `run` dropped behind a ReLU, by the mask that it made."""
    shape = tuple(grad.shape)
    spec = Spec(shape, contiguous_strides(shape), grad.dtype)
    grad, output = conform(grad, spec), empty(spec)
    native().dropout_masked(
        grad.dtype == torch.bfloat16,
        grad.data_ptr(),
        output.data_ptr(),
        mask.contiguous().data_ptr(),
        grad.numel(),
        scale(p),
        torch.get_num_threads(),
    )
    return output
