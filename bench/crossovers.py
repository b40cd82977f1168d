"""Where csrc/cpu's products of a linear layer pay: writes the table of alexkern/backends/cpu/crossovers.py.

    ALEXKERN_CPU_ISA=avx512 python -m alexkern.bench.crossovers [RUNS]

Ours of that instruction set and torch's product by turns on one thread, by processor time, the least of RUNS. Both
write a weight's gradient to memory that they have. For AVX2, MKL_ENABLE_INSTRUCTIONS=AVX2 holds torch's products to it
too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends import cpu
from alexkern.backends.cpu import linear_relu_dropout as ours
from alexkern.backends.cpu.crossovers import PRODUCTS, Served

# (in_features, out_features): those of a table's line and all larger ones, up to the next.
WEIGHTS = ((4096, 4096), (2048, 2048), (1024, 1024))
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
AHEAD = 1.05  # of torch's time over ours, from which on ours serves: less is lost in noise
SHORT_S = 2e-3  # a sample lasts so long at least


def pairs(N: int, C: int, K: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Ours and torch's, by product."""
    input, weight, bias, grad = torch.randn(N, C), torch.randn(K, C), torch.randn(K), torch.randn(N, K)
    output, sizes = torch.ones(N, K), (N, C, K)
    input_grad, weight_grad, bias_grad, other = (torch.empty_like(like) for like in (input, weight, bias, weight))

    def gradients(*made: Tensor | None) -> Callable[[], object]:
        return lambda: ours._gradients(grad, input, weight, output, 1.0, True, sizes, list(made))

    def masked() -> Tensor:
        return torch.ops.aten.threshold_backward(grad, output, 0)

    def theirs() -> None:
        rows = masked()
        torch.mm(rows.t(), input, out=other)
        rows.sum(0)

    return {
        "forward": (
            lambda: ours._product(input, weight, bias, sizes, relu=True),
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
    print({cpu.native().isa(): {product: tuple(map(tuple, served)) for product, served in table.items()}})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
