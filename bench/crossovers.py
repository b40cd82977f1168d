"""Where csrc/cpu's linear layers and poolings pay: writes the tables of alexkern/backends/cpu/crossovers.py.

    ALEXKERN_CPU_ISA=avx512 python -m alexkern.bench.crossovers [RUNS]

Ours of that instruction set and torch's by turns on one thread, by processor time, the least of RUNS. Both
write a weight's gradient to memory that they have. For AVX2, MKL_ENABLE_INSTRUCTIONS=AVX2 holds torch's products to it
too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends import cpu
from alexkern.backends.cpu import crossovers, max_pool2d
from alexkern.backends.cpu import linear_relu_dropout as ours
from alexkern.backends.cpu.crossovers import PRODUCTS, Pooled, Served
from alexkern.backends.torch import max_pool2d as torchs_max_pool2d

# (in_features, out_features): those of a table's line and all larger ones, up to the next.
WEIGHTS = ((4096, 4096), (2048, 2048), (1024, 1024))
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
WINDOWS, CHANNELS = (1, 2, 3, 4, 6, 8), (2, 4, 8, 12, 16, 24, 32)  # of poolings
VALUES = 2**17  # of the images that are pooled, about
AHEAD = 1.05  # of torch's time over ours, from which on ours serves: less is lost in noise
SHORT_S = 2e-3  # a sample lasts so long at least

Pair = tuple[Callable[[], object], Callable[[], object]]


def pairs(N: int, C: int, K: int) -> dict[str, Pair]:
    """Ours and torch's, by product."""
    input, weight, bias, grad = torch.randn(N, C), torch.randn(K, C), torch.randn(K), torch.randn(N, K)
    output, sizes = torch.ones(N, K), (N, C, K)
    input_grad, weight_grad, bias_grad, other = (torch.empty_like(like) for like in (input, weight, bias, weight))

    def gradients(*made: Tensor | None) -> Callable[[], object]:
        return lambda: ours.gradients(grad, input, weight, output, 1.0, True, sizes, list(made))

    def masked() -> Tensor:
        return torch.ops.aten.threshold_backward(grad, output, 0)

    def theirs() -> None:
        rows = masked()
        torch.mm(rows.t(), input, out=other)
        rows.sum(0)

    return {
        "forward": (
            lambda: ours.product(input, weight, bias, relu=True),
            lambda: F.linear(input, weight, bias).relu_(),
        ),
        "input_grad": (gradients(input_grad, None, None), lambda: masked() @ weight),
        "weight_grad": (gradients(None, weight_grad, bias_grad), theirs),
    }


def pooling(C: int, Q: int, layout: torch.memory_format, forward: bool) -> Pair:
    """Ours and torch's, of windows of 3 x 3 at stride 2, Q in a row, or its gradient."""
    side, window = 2 * Q + 1, ((3, 3), (2, 2), (0, 0), (1, 1), False)
    shape = (-(-VALUES // (C * side * side)), C, side, side)
    input = torch.randn(shape).contiguous(memory_format=layout)
    mine, torchs = max_pool2d.forward, torchs_max_pool2d.forward
    if forward:
        return partial(mine, input, *window, True), partial(torchs, input, *window, True)
    output, offsets = mine(input, *window, True)
    assert offsets is not None
    arguments = (torch.randn_like(output), offsets, shape, layout is torch.channels_last, *window, (True,))
    return partial(max_pool2d.backward, *arguments), partial(torchs_max_pool2d.backward, *arguments)


def from_on(counts: tuple[int, ...], ratios: list[float]) -> int:
    """The least count from which on ours is ahead at all; sys.maxsize where it is behind at the last."""
    behind = [place for place, one in enumerate(ratios) if one < AHEAD]
    return (*counts, sys.maxsize)[behind[-1] + 1 if behind else 0]


def ratio(one: Callable[[], object], other: Callable[[], object], runs: int) -> float:
    """The other's time over this one's."""
    best = [float("inf")] * 2
    for _ in range(runs):
        for place, call in enumerate((one, other)):
            call()
            start, calls = time.process_time(), 0
            while calls == 0 or time.process_time() - start < SHORT_S:
                call()
                calls += 1
            best[place] = min(best[place], (time.process_time() - start) / calls)
    return best[1] / best[0]


def stretches(ahead: list[bool]) -> tuple[tuple[int, int], ...]:
    """The first and last row of each stretch of rows in which ours is ahead."""
    found: list[tuple[int, int]] = []
    for is_ahead, of in groupby(zip(ahead, ROWS, strict=True), key=itemgetter(0)):
        rows = [row for _, row in of]
        if is_ahead:
            found.append((rows[0], rows[-1]))
    return tuple(found)


def main(runs: int) -> None:
    torch.set_num_threads(1)
    reason = cpu.missing("cpu", torch.float32)
    if reason is not None:
        sys.exit(f"no cpu backend to measure: {reason}")
    table: dict[str, list[Served]] = {product: [] for product in PRODUCTS}
    for C, K in WEIGHTS:
        found: dict[str, list[float]] = {product: [] for product in PRODUCTS}
        for N in ROWS:
            for product, (mine, theirs) in pairs(N, C, K).items():
                found[product].append(ratio(mine, theirs, runs))
        for product, ratios in found.items():
            print(f"# {K} x {C}, {product}:", *(f"{N}: {r:.2f}" for N, r in zip(ROWS, ratios, strict=True)))
            table[product].append(Served(C * K, stretches([one >= AHEAD for one in ratios])))
    isa = cpu.native().isa()
    print({isa: {product: tuple(map(tuple, served)) for product, served in table.items()}})
    crossovers.POOLED[isa] = Pooled(0, 0)  # all of them ours, to be measured
    windows = [ratio(*pooling(64, Q, torch.contiguous_format, True), runs) for Q in WINDOWS]
    channels = [ratio(*pooling(C, 27, torch.channels_last, False), runs) for C in CHANNELS]
    for what, counts, ratios in (("windows in a row", WINDOWS, windows), ("channels", CHANNELS, channels)):
        print(f"# {what}:", *(f"{count}: {r:.2f}" for count, r in zip(counts, ratios, strict=True)))
    print({isa: tuple(Pooled(from_on(WINDOWS, windows), from_on(CHANNELS, channels)))})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
