"""Where csrc/cpu's linear layers, convolutions and poolings pay: writes alexkern/backends/cpu/crossovers.py's tables.

    ALEXKERN_CPU_ISA=avx512 python -m alexkern.bench.crossovers linear|convolution|pooling|all [RUNS]

Ours of that instruction set and torch's product by turns on one thread, by processor time, the least of RUNS. Both
write a weight's gradient to memory that they have. With ALEXKERN_CPU_ISA=avx2 torch's kernels are held to AVX2 too.
What is printed without # goes into crossovers.py as it is, in place of that set's entry.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby, product
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends import cpu
from alexkern.backends.cpu import crossovers, max_pool2d, winograd
from alexkern.backends.cpu import linear_relu_dropout as ours
from alexkern.backends.cpu.crossovers import PRODUCTS, Pooled, Served, Tiled
from alexkern.backends.torch import conv2d_relu as torchs
from alexkern.backends.torch import max_pool2d as torchs_max_pool2d
from alexkern.geometry import Geometry

# (in_features, out_features): those of a table's line and all larger ones, up to the next.
WEIGHTS = ((4096, 4096), (2048, 2048), (1024, 1024))
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
FILTERS = ((3, 1), (5, 1), (11, 4))  # sizes and strides
CHANNELS = (16, 32, 64, 128)  # and filters of a convolution; with a stride there are 3 channels
IMAGES = ((1, 8), (1, 14), (2, 14), (4, 14), (8, 14), (32, 14), (32, 28))  # how many, and outputs of which size
MANY, LARGE_IMAGES = 192, ((1, 16), (1, 28), (2, 28), (4, 28))  # for tiles of 4x4, where their rounding errors allow it
WINDOWS, POOLED = (1, 2, 3, 4, 6, 8), (2, 4, 8, 12, 16, 24, 32)  # windows in a row and channels of poolings
VALUES = 2**17  # of the images that are pooled, about
AHEAD = 1.05  # of torch's time over ours, from which on ours serves: less is lost in noise
SHORT_S = 2e-3  # a sample lasts so long at least

LONG_S = 1.0  # of sampling one pair, beyond which it is not sampled again
# What holds torch to an instruction set: read when its libraries first compute.
HELD = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}

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


def entry(table: str, measured: object) -> None:
    """Of the processor and the set that were measured, as crossovers.py has it."""
    print(f"# {table}:\n    {crossovers.measured()!r}: {measured!r},")


def from_on(counts: tuple[int, ...], ratios: list[float]) -> int:
    """The least count from which on ours is ahead at all; sys.maxsize where it is behind at the last."""
    behind = [place for place, one in enumerate(ratios) if one < AHEAD]
    return (*counts, sys.maxsize)[behind[-1] + 1 if behind else 0]


def ratio(one: Callable[[], object], other: Callable[[], object], runs: int) -> float:
    """The other's time over this one's."""
    best, begin = [float("inf")] * 2, time.process_time()
    for run in range(runs):
        if run > 0 and time.process_time() - begin > LONG_S:
            break
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


def convolution_pairs(
    of: Geometry, channels_last: bool, M: int = 2, dtype: torch.dtype = torch.float32
) -> dict[str, Pair]:
    """Ours and torch's, by product; with M = 4 ours in tiles of 4x4 and of 2x2."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    shapes = ((of.N, of.C, of.H, of.W), (of.K, of.C, of.R, of.S), (of.N, of.K, of.P, of.Q))
    input, weight, grad = (torch.randn(shape).to(dtype).contiguous(memory_format=order) for shape in shapes)
    bias, gate = torch.randn(of.K).to(dtype), torch.randn_like(grad)
    settings = (of.stride, of.padding, of.dilation, of.groups)

    def forward(M: int) -> None:
        winograd.convolve(input, winograd.to_pack(weight, of, M), bias, True, channels_last)

    def packed(filters: winograd.Filters) -> None:
        winograd.convolve(input, filters, bias, True, channels_last)

    def input_grad(M: int) -> None:
        winograd.input_grad(grad, weight, of, M, channels_last, gate)

    if M == 4:
        small, large = (winograd.pack(weight, of, M) for M in (2, 4))
        return {
            "forward": (partial(forward, 4), partial(forward, 2)),
            "packed": (partial(packed, large), partial(packed, small)),
            "input_grad": (partial(input_grad, 4), partial(input_grad, 2)),
        }

    def theirs() -> None:
        torch.conv2d(input, weight, bias, *settings).relu_()

    def their_input_grad() -> None:
        torchs.backward(grad, input, weight, gate, *settings, (True, False, False))

    masked = torch.ops.aten.threshold_backward(grad, gate, 0)

    def weight_grad() -> None:
        winograd.weight_grad(masked, input, of, channels_last)
        masked.sum((0, 2, 3))

    def their_weight_grad() -> None:
        torchs.convolution_gradients(masked, input, weight, *settings, (False, True, True))

    found: dict[str, Pair] = {"weight_grad": (weight_grad, their_weight_grad)}
    if dtype == torch.float32 or of.in_depth(of.stride[0]).R == 3:
        packs = winograd.pack(weight, of, 2)
        found |= {"forward": (partial(forward, 2), theirs), "packed": (partial(packed, packs), theirs)}
        found["input_grad"] = (partial(input_grad, 2), their_input_grad)
    return {crossovers.entry_of(name, of, dtype): one for name, one in found.items()}


def convolutions(runs: int) -> None:
    table: dict[str, list[Tiled]] = {}

    def measure(
        R: int, stride: int, channels: int, images: tuple[tuple[int, int], ...], M: int, dtype: torch.dtype
    ) -> None:
        found: dict[str, dict[int, float]] = {}
        strided = stride > 1
        fewest = min(channels, 3 * stride**2) if strided else channels
        for N, size in images:
            pad, length = R // 2, size * stride
            shape = (N, 3 if strided else channels, length, length, channels, R, R)
            of = Geometry(*shape, (stride, stride), (pad, pad), (1, 1), 1)
            for channels_last in (True,) if strided or M == 4 else (False, True):
                for name, (mine, theirs) in convolution_pairs(of, channels_last, M, dtype).items():
                    by_tiles = found.setdefault(name, {})
                    tiles = N * (-(-size // 2)) ** 2
                    by_tiles[tiles] = min(by_tiles.get(tiles, math.inf), ratio(mine, theirs, runs))
        for name, ratios in found.items():
            what = f"{channels} to {channels}, {R}x{R}, {name}" + (", 4x4 for 2x2" if M == 4 else "")
            print(f"# {what}:", *(f"{at}: {r:.2f}" for at, r in ratios.items()))
            behind = [tiles for tiles, one in ratios.items() if one < AHEAD]
            least = min((tiles for tiles in ratios if tiles > max(behind, default=0)), default=None)
            if least is not None:
                table.setdefault(name, []).append(Tiled(-(-R // stride), fewest, least, M))

    for dtype in (torch.float32, torch.bfloat16):
        if cpu.missing("cpu", dtype) is None:
            for (R, stride), channels in product(FILTERS, CHANNELS):
                measure(R, stride, channels, IMAGES, 2, dtype)
    measure(3, 1, MANY, LARGE_IMAGES, 4, torch.float32)
    entry("CONVOLUTIONS", {name: tuple(served) for name, served in table.items()})


def main(what: str, runs: int) -> None:
    reason = cpu.missing("cpu", torch.float32)
    if reason is not None:
        sys.exit(f"no cpu backend to measure: {reason}")
    os.environ.update(HELD.get(crossovers.kernels(), {}))
    torch.set_num_threads(1)
    measured = {"pooling": poolings, "linear": linear, "convolution": convolutions}
    for one in measured if what == "all" else (what,):
        measured[one](runs)


def linear(runs: int) -> None:
    table: dict[str, list[Served]] = {name: [] for name in PRODUCTS}
    for C, K in WEIGHTS:
        found: dict[str, list[float]] = {name: [] for name in PRODUCTS}
        for N in ROWS:
            for name, (mine, theirs) in pairs(N, C, K).items():
                found[name].append(ratio(mine, theirs, runs))
        for name, ratios in found.items():
            print(f"# {K} x {C}, {name}:", *(f"{N}: {r:.2f}" for N, r in zip(ROWS, ratios, strict=True)))
            table[name].append(Served(C * K, stretches([one >= AHEAD for one in ratios])))
    entry("TABLE", {name: tuple(served) for name, served in table.items()})


def poolings(runs: int) -> None:
    crossovers.POOLED[crossovers.measured()] = Pooled(0, 0)  # all of them ours, to be measured
    windows = [ratio(*pooling(64, Q, torch.contiguous_format, True), runs) for Q in WINDOWS]
    channels = [ratio(*pooling(C, 27, torch.channels_last, False), runs) for C in POOLED]
    for what, counts, ratios in (("windows in a row", WINDOWS, windows), ("channels", POOLED, channels)):
        print(f"# {what}:", *(f"{count}: {r:.2f}" for count, r in zip(counts, ratios, strict=True)))
    entry("POOLED", Pooled(from_on(WINDOWS, windows), from_on(POOLED, channels)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
