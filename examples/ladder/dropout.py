"""Dropout twice: with a mask that is kept for the backward pass, and with a seed that makes the same one again.

    y = x * keep / (1 - p)        keep is 0 with probability p, else 1
    dx = dy * keep / (1 - p)      the same keep

With a mask, keep is drawn once and kept: as many numbers as x has. Seeded, an element's number is a word of Philox, a
function of (seed, offset, i) with no state: any thread computes any word, and whoever has the seed and the offset, 16
bytes, computes keep again. That is one read less for the backward pass, and nothing to keep.

    block i of the stream: key = seed, counter = offset + i; ten rounds of

    c0, c1, c2, c3 = high(M1 c2) ^ c1 ^ k0, low(M1 c2), high(M0 c0) ^ c3 ^ k1, low(M0 c0)
    k0, k1 = k0 + W0, k1 + W1

    element i is kept where word i % 4 of block i / 4 is at least p * 2**32

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), section 3.4.

Exercise: a kernel whose threads have four neighbouring elements each computes one block for them. What changes if
they have every thousandth?
"""

import torch
from torch import Tensor

M0, M1, W0, W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
WORD = 0xFFFFFFFF


def block(seed: int, counter: int) -> tuple[int, int, int, int]:
    """Four words below 2**32; seed and counter have 64 bits."""
    k0, k1 = seed & WORD, seed >> 32
    c0, c1, c2, c3 = counter & WORD, counter >> 32, 0, 0
    for _ in range(10):
        product0, product1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = product1 >> 32 ^ c1 ^ k0, product1 & WORD, product0 >> 32 ^ c3 ^ k1, product0 & WORD
        k0, k1 = k0 + W0 & WORD, k1 + W1 & WORD
    return c0, c1, c2, c3


def kept(seed: int, offset: int, p: float, count: int) -> Tensor:
    """Which of the first `count` elements stay, as 0 and 1."""
    words = [word for i in range(-(-count // 4)) for word in block(seed, (offset + i) % 2**64)]
    return torch.tensor([float(word >= int(p * 2**32)) for word in words[:count]])


class Masked(torch.autograd.Function):
    """Keeps the mask."""

    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        mask = (torch.rand_like(x) >= p).to(x.dtype)
        ctx.save_for_backward(mask)
        ctx.p = p
        return x * mask / (1 - p)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grad * mask / (1 - ctx.p), None


class Seeded(torch.autograd.Function):
    """Keeps two integers."""

    @staticmethod
    def forward(ctx, x: Tensor, p: float, seed: int, offset: int) -> Tensor:
        ctx.p, ctx.seed, ctx.offset = p, seed, offset
        return x * kept(seed, offset, p, x.numel()).view(x.shape) / (1 - p)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        again = kept(ctx.seed, ctx.offset, ctx.p, grad.numel()).view(grad.shape)
        return grad * again / (1 - ctx.p), None, None, None


def main() -> None:
    torch.manual_seed(2012)
    grad = torch.arange(1.0, 9.0)
    for name, apply, bytes in (
        ("with a mask", lambda x: Masked.apply(x, 0.5), grad.nbytes),
        ("seeded", lambda x: Seeded.apply(x, 0.5, 2012, 0), 16),
    ):
        x = torch.tensor([1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0], requires_grad=True)
        y = apply(x)
        y.backward(grad)
        print(f"{name}: {bytes} bytes kept for the backward pass of {x.numel()} elements")
        for label, values in (("x", x), ("y", y), ("dy", grad), ("dx", x.grad)):
            print(f"  {label:2} " + "".join(f"{value:6.0f}" for value in values.tolist()))
    first = block(2012, 0)
    print("block 0 of seed 2012, offset 0: " + ", ".join(map(str, first)))


if __name__ == "__main__":
    main()
