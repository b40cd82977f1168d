"""dropout by csrc/cuda/dropout: one read and one write of every element, and no mask."""

from __future__ import annotations

from torch import Tensor

from alexkern.backends.cuda import launch
from alexkern.backends.cuda.wide import Wide
from alexkern.backends.torch.dropout import scale
from alexkern.backends.torch.philox import threshold
from alexkern.plan import Spec, empty, like

WIDE = (Wide(r"dropout_kernel<\w+>"),)


def forward(input: Tensor, seed: Tensor, p: float) -> Tensor:
    return _dropped(input, seed, p, like(input))


def backward(
    grad: Tensor, seed: Tensor, output_stride: tuple[int, ...], p: float, needs: tuple[bool]
) -> tuple[Tensor | None]:
    """Gradient of the input: the same elements dropped, the same scale."""
    return (_dropped(grad, seed, p, Spec(tuple(grad.shape), tuple(output_stride), grad.dtype)),)


def _dropped(input: Tensor, seed: Tensor, p: float, spec: Spec) -> Tensor:
    """`input` in the memory order of `spec`, which is dense, elements dropped."""
    output = empty(spec, input.device)
    if input.stride() != spec.stride:
        input = output.copy_(input)  # the kernel then works in place
    launch(
        "dropout", input, input.data_ptr(), output.data_ptr(), seed.data_ptr(), output.numel(), threshold(p), scale(p)
    )  # fmt: skip
    return output
