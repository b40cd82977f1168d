"""Where csrc/cpu's products of a linear layer pay: writes the table of alexkern/backends/cpu/crossovers.py.

    python -m alexkern.bench.crossovers [RUNS]

Ours and torch's product by turns on one thread, by processor time, the least of RUNS; torch's with AVX-512 where the
processor has it, also beside ours of a lesser set. Both write a weight's gradient to memory that they have.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends import cpu
from alexkern.backends.cpu import linear_relu_dropout as ours
from alexkern.backends.cpu.crossovers import PRODUCTS, Served

# (in_features, out_features), the smallest of its class; from each on, up to the next.
WEIGHTS = ((64, 64), (256, 256), (1024, 1024), (4096, 4096))
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


def longest(ahead: list[bool]) -> tuple[int, int] | None:
    """The first and last row of the longest run of rows in which ours is ahead."""
    runs = [
        (first, last)
        for first in range(len(ROWS))
        for last in range(first, len(ROWS))
        if all(ahead[first : last + 1])
    ]
    if not runs:
        return None
    first, last = max(runs, key=lambda run: run[1] - run[0])
    return ROWS[first], ROWS[last]


def main(runs: int) -> None:
    torch.set_num_threads(1)
    native = cpu.native()
    table: dict[str, dict[str, list[Served]]] = {isa: {name: [] for name in PRODUCTS} for isa in native.isas}
    for C, K in reversed(WEIGHTS):
        found: dict[tuple[str, str], list[float]] = {}
        for N in ROWS:
            for product, (mine, theirs) in pairs(N, C, K).items():
                for isa in native.isas:
                    native.use(isa)
                    found.setdefault((isa, product), []).append(ratio(mine, theirs, runs))
        for (isa, product), ratios in found.items():
            print(f"# {K} x {C}, {product}, {isa}:", *(f"{N}: {r:.2f}" for N, r in zip(ROWS, ratios, strict=True)))
            rows = longest([one >= AHEAD for one in ratios])
            table[isa][product].append(Served(C * K, *(rows or (1, 0))))
    for isa, products in table.items():
        print(f'    "{isa}": {{')
        for product, served in products.items():
            print(f'        "{product}": ({", ".join(str(tuple(one)) for one in served)}),')
        print("    },")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
