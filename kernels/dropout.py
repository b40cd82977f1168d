"""dropout: y = x * scale where Philox keeps the element, x * 0 where it does not. Backward is the same kernel on grad.

One program takes BLOCK contiguous elements of dense memory and BLOCK / 4 Philox blocks: every counter is computed once.

    x, y    [BLOCK]                    128-bit loads and stores, 8 (16-bit) or 4 (float32) elements an access
    words   [BLOCK / 4, 2, 2]          joined and reshaped to [BLOCK] within each thread's registers

One read and one write at about 27 instructions an element, no mask in memory. Seed and offset are read on the device,
so a CUDA-graph replay draws anew. Elements are numbered as they lie in memory: layouts do not matter here.
Its rung is examples/ladder/dropout.py, seeded.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.backends.torch.dropout import scale
from alexkern.backends.torch.philox import threshold
from alexkern.cost.chips import Chip
from alexkern.kernels.config import Blocks, choose, describe
from alexkern.kernels.philox import keep_blocks
from alexkern.plan import Spec, empty, like


def configure(numel: int, device: Chip) -> Blocks:
    """Eight elements a thread; a small tensor is spread over more, smaller programs."""
    for num_warps in (4, 2):
        block = 8 * 32 * num_warps  # this or a multiple keeps every access 128 bits wide
        if numel >= block * device.num_sms:
            return Blocks(block, num_warps)
    return Blocks(256, 1)


@triton.jit(do_not_specialize=["limit"])
def dropout_kernel(
    x,  # [numel]
    y,  # [numel], may be x
    seed,  # [2] int64: (seed, offset)
    numel,
    limit,
    scale,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    element = start + tl.arange(0, BLOCK)
    inside = element < numel
    keep = keep_blocks(seed, start // 4 + tl.arange(0, BLOCK // 4), limit)  # [BLOCK / 4, 2, 2]
    factor = tl.where(tl.reshape(keep, [BLOCK]), scale, 0.0)
    value = tl.load(x + element, mask=inside)
    # Multiplying by 0, not storing 0: a dropped NaN or infinity is NaN.
    tl.store(y + element, (value.to(tl.float32) * factor).to(y.dtype.element_ty), mask=inside)


@functools.lru_cache(maxsize=256)
def _configuration(numel: int, dtype: torch.dtype, device: torch.device) -> Blocks:
    description = describe(device)
    return choose("dropout", (numel,), dtype, description, configure(numel, description))


def launch(x: Tensor, seed: Tensor, p: float, spec: Spec) -> Tensor:
    """x with the memory order of `spec` (dense), elements dropped."""
    y = empty(spec, x.device)
    if x.stride() != y.stride():
        x = y.copy_(x)  # the kernel then works in place
    numel = y.numel()
    if numel == 0:
        return y
    config = _configuration(numel, y.dtype, y.device)
    with torch.cuda.device_of(y):
        dropout_kernel[(triton.cdiv(numel, config.BLOCK),)](
            x, y, seed, numel, threshold(p), scale(p), BLOCK=config.BLOCK, num_warps=config.num_warps
        )
    return y


def forward(input: Tensor, seed: Tensor, p: float) -> Tensor:
    return launch(input, seed, p, like(input))


def backward(
    grad: Tensor, seed: Tensor, output_stride: tuple[int, ...], p: float, needs: tuple[bool]
) -> tuple[Tensor | None]:
    """Gradient of the input: the same elements dropped, the same scale."""
    return (launch(grad, seed, p, Spec(tuple(grad.shape), tuple(output_stride), grad.dtype)),)
