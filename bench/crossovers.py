"""Where csrc/cpu's products of a linear layer and of a convolution pay: writes the tables of
alexkern/backends/cpu/crossovers.py.

    ALEXKERN_CPU_ISA=avx512 python -m alexkern.bench.crossovers linear|convolution [RUNS]

Ours of that instruction set and torch's product by turns on one thread, by processor time, the least of RUNS. Both
write a weight's gradient to memory that they have. For AVX2, MKL_ENABLE_INSTRUCTIONS=AVX2 and ONEDNN_MAX_CPU_ISA=AVX2
hold torch's products to it too.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from itertools import groupby, product
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends import cpu
from alexkern.backends.cpu import linear_relu_dropout as ours
from alexkern.backends.cpu import winograd
from alexkern.backends.cpu.crossovers import PRODUCTS, Served, Tiled
from alexkern.backends.torch import conv2d_relu as torchs
from alexkern.geometry import Geometry

# (in_features, out_features): those of a table's line and all larger ones, up to the next.
WEIGHTS = ((4096, 4096), (2048, 2048), (1024, 1024))
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
CHANNELS = (16, 32, 64, 128)  # and filters of a convolution
IMAGES = ((1, 8), (1, 14), (2, 14), (4, 14), (8, 14), (32, 14), (32, 28))  # how many, and of which size
AHEAD = 1.05  # of torch's time over ours, from which on ours serves: less is lost in noise
SHORT_S = 2e-3  # a sample lasts so long at least


def pairs(N: int, C: int, K: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
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


def convolution_pairs(
    of: Geometry, channels_last: bool
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Ours and torch's, by product."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    shapes = ((of.N, of.C, of.H, of.W), (of.K, of.C, of.R, of.S), (of.N, of.K, of.P, of.Q))
    input, weight, grad = (torch.randn(shape).contiguous(memory_format=order) for shape in shapes)
    bias, gate = torch.randn(of.K), torch.randn_like(grad)
    settings = (of.stride, of.padding, of.dilation, of.groups)
    filters = winograd.pack(weight, of)

    def forward(filters: winograd.Filters) -> None:
        winograd.convolve(input, filters, bias, True, channels_last)

    def theirs() -> None:
        torch.conv2d(input, weight, bias, *settings).relu_()

    def input_grad() -> None:
        back = winograd.pack(weight, of, for_input_grad=True)
        winograd.convolve(grad, back, None, False, channels_last, gate)

    def their_input_grad() -> None:
        torchs.backward(grad, input, weight, gate, *settings, (True, False, False))

    return {
        "forward": (lambda: forward(winograd.pack(weight, of)), theirs),
        "input_grad": (input_grad, their_input_grad),
        "packed": (lambda: forward(filters), theirs),
    }


def convolutions(runs: int) -> None:
    table: dict[str, list[Tiled]] = {}
    for R, channels in product(winograd.SIZES, CHANNELS):
        found: dict[str, dict[int, float]] = {}
        for N, size in IMAGES:
            of = Geometry(N, channels, size, size, channels, R, R, (1, 1), (R // 2, R // 2), (1, 1), 1)
            for channels_last in (False, True):
                for name, (mine, theirs) in convolution_pairs(of, channels_last).items():
                    by_tiles = found.setdefault(name, {})
                    tiles = N * (-(-size // 2)) ** 2
                    by_tiles[tiles] = min(by_tiles.get(tiles, math.inf), ratio(mine, theirs, runs))
        for name, ratios in found.items():
            print(f"# {channels} to {channels}, {R}x{R}, {name}:", *(f"{at}: {r:.2f}" for at, r in ratios.items()))
            behind = [tiles for tiles, one in ratios.items() if one < AHEAD]
            least = min((tiles for tiles in ratios if tiles > max(behind, default=0)), default=None)
            if least is not None:
                table.setdefault(name, []).append(Tiled(R, channels, least))
    print({cpu.native().isa(): {name: tuple(map(tuple, served)) for name, served in table.items()}})


def main(what: str, runs: int) -> None:
    torch.set_num_threads(1)
    reason = cpu.missing("cpu", torch.float32)
    if reason is not None:
        sys.exit(f"no cpu backend to measure: {reason}")
    {"linear": linear, "convolution": convolutions}[what](runs)


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
    print({cpu.native().isa(): {name: tuple(map(tuple, served)) for name, served in table.items()}})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
