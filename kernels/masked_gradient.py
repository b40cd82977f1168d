"""An output's gradient with the ReLU mask (and dropout's) applied once, in a pass of its own.

    out = 0 where y <= 0 or where the element was dropped, else dy * scale       (a NaN output lets its gradient pass)

Where elements are dropped y may have been edited since, so the forward packs a bit of mask for each of them.

The gradient GEMMs can mask while they load, which saves this pass and its memory. But they load every gradient once a
tap and tile, mask included, and wgmma has then to take its operand from registers, one product at a time. Where the
gradient is loaded often, masking it first is cheaper: `worthwhile` compares the bytes.

One program: BLOCK contiguous elements, 8 to a thread; two reads and a write of each, or a read and a bit to pack.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.backends.torch.dropout import scale
from alexkern.cost.chips import Chip
from alexkern.kernels import philox
from alexkern.plan import Spec, empty, packed_bits

BLOCK = 1024
PASS_LATENCY = 3500.0  # cycles of one more launch


@triton.jit
def packed_mask_kernel(
    y,  # (count,)
    mask,  # (count / 8,), rounded up
    seed,  # (seed, offset)
    count, limit,
    BLOCK: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    place = start + tl.arange(0, BLOCK)
    output = tl.load(y + place, mask=place < count, other=0)
    keep = tl.reshape(philox.keep_blocks(seed, start // 4 + tl.arange(0, BLOCK // 4), limit), (BLOCK,))
    bits = tl.reshape((keep & ~(output <= 0)).to(tl.int32), (BLOCK // 8, 8)) << tl.arange(0, 8)[None, :]
    byte = start // 8 + tl.arange(0, BLOCK // 8)
    tl.store(mask + byte, tl.sum(bits, 1).to(tl.uint8), mask=byte * 8 < count)


@triton.jit
def masked_gradient_kernel(
    dy, out,  # (count,), in the same order
    y,  # the same, or where elements are dropped their mask, packed
    count, scale,
    DROPOUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    place = start + tl.arange(0, BLOCK)
    ok = place < count
    gradient = tl.load(dy + place, mask=ok, other=0)
    if DROPOUT:
        byte = start // 8 + tl.arange(0, BLOCK // 8)
        bits = tl.load(y + byte, mask=byte * 8 < count, other=0).to(tl.int32)[:, None] >> tl.arange(0, 8)[None, :]
        drop = tl.reshape(bits & 1, (BLOCK,)) == 0
        gradient = gradient.to(tl.float32) * scale
    else:
        drop = tl.load(y + place, mask=ok, other=0) <= 0
    tl.store(out + place, tl.where(drop, tl.zeros_like(gradient), gradient).to(out.dtype.element_ty), mask=ok)


def packed_mask(y: Tensor, seed: Tensor, limit: int) -> Tensor:
    """Which elements let a gradient pass, as plan.packed_bits describes it. y: contiguous, what dropout left."""
    mask = empty(packed_bits(y.numel()), y.device)
    with torch.cuda.device_of(y):
        packed_mask_kernel[(triton.cdiv(y.numel(), BLOCK),)](y, mask, seed, y.numel(), limit, BLOCK=BLOCK, num_warps=4)
    return mask


def masked_gradient(dy: Tensor, y: Tensor, p: float | None = None) -> Tensor:
    """dy masked by y, or, where elements were dropped with probability p, by the mask packed from it.

    dy and y are dense and lie alike; so does the result.
    """
    out = empty(Spec(tuple(dy.shape), dy.stride(), dy.dtype), dy.device)
    with torch.cuda.device_of(dy):
        masked_gradient_kernel[(triton.cdiv(dy.numel(), BLOCK),)](
            dy, out, y, dy.numel(), scale(p or 0.0), DROPOUT=p is not None, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return out


def worthwhile(elements: int, loads: int, dtype: torch.dtype, device: Chip) -> bool:
    """Whether masking first is cheaper for a gradient of `elements` that the GEMMs load `loads` times over.

    Masking while loading costs one more load from L2 of all of them each time; masking first, two reads and a write of
    DRAM and a launch.
    """
    while_loading = elements * loads * dtype.itemsize / (device.l2_bytes * device.num_sms)
    first = 3 * elements * dtype.itemsize / device.memory_bytes + PASS_LATENCY
    return first < while_loading
