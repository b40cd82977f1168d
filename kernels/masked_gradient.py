"""An output's gradient with the ReLU mask (and dropout's) applied once, in a pass of its own.

    out = 0 where y <= 0 or where the element was dropped, else dy * scale       (a NaN output lets its gradient pass)

The gradient GEMMs can mask while they load, which saves this pass and its memory. But they load every gradient once a
tap and tile, mask included, and wgmma has then to take its operand from registers, one product at a time. Where the
gradient is loaded often, masking it first is cheaper: `worthwhile` compares the bytes.

One program: BLOCK contiguous elements, 8 to a thread; two reads and a write of each. A dropped element has output 0,
unless it was NaN: only then do dropout's own bits decide, so they are computed here, once, and in none of the GEMMs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.backends.torch.dropout import scale
from alexkern.backends.torch.philox import threshold
from alexkern.cost.chips import Chip
from alexkern.kernels import philox
from alexkern.plan import Spec, empty

BLOCK = 1024
PASS_LATENCY = 3500.0  # cycles of one more launch


@triton.jit
def masked_gradient_kernel(
    dy, y, out,  # (count,), in the same order
    seed,  # (seed, offset), not read unless DROPOUT
    count, scale, limit,
    DROPOUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    place = start + tl.arange(0, BLOCK)
    ok = place < count
    gradient = tl.load(dy + place, mask=ok, other=0)
    drop = tl.load(y + place, mask=ok, other=0) <= 0
    if DROPOUT:
        block = start // 4 + tl.arange(0, BLOCK // 4)
        drop = drop | (tl.reshape(philox.keep_blocks(seed, block, limit), (BLOCK,)) == 0)
        gradient = gradient.to(tl.float32) * scale
    tl.store(out + place, tl.where(drop, tl.zeros_like(gradient), gradient).to(out.dtype.element_ty), mask=ok)


def masked_gradient(dy: Tensor, y: Tensor, seed: Tensor | None = None, p: float = 0.0) -> Tensor:
    """dy masked by y, and by dropout where there is a seed. dy and y are dense and lie alike; so does the result."""
    out = empty(Spec(tuple(dy.shape), dy.stride(), dy.dtype), dy.device)
    with torch.cuda.device_of(dy):
        masked_gradient_kernel[(triton.cdiv(dy.numel(), BLOCK),)](
            dy, y, out, dy if seed is None else seed, dy.numel(), scale(p),
            threshold(p), DROPOUT=seed is not None, BLOCK=BLOCK, num_warps=4,
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
