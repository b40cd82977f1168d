"""The product of a few rows, csrc/cuda/linear_relu_dropout/few_rows.cu: sizes that no conformance case forces."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alexkern.accuracy import assert_same
from alexkern.backends.cuda import linear_relu_dropout
from support.backends import HALVES, serving
from support.canaries import canaries
from support.launches import noted
from support.linear import draw
from support.references import hold

pytestmark = pytest.mark.skipif("cuda" not in serving("linear_relu_dropout"), reason="the CUDA kernels do not run here")

KERNEL = "linear_relu_dropout_few_rows"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return noted(monkeypatch, linear_relu_dropout)


def check(x: Tensor, w: Tensor, b: Tensor | None) -> None:
    with canaries():
        output, _ = linear_relu_dropout.forward(x, w, b, None, 0.0, False)
    hold((output,), lambda *given: torch.nn.functional.linear(*given).relu(), x, w, b)


@pytest.mark.parametrize(("K", "C"), [(16, 8), (70, 264), (33, 1032), (1, 40)])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 16])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_few_rows(
    launched: list[str], dtype: torch.dtype, rows: int, K: int, C: int, generator: torch.Generator
) -> None:
    x, w, b = draw(dtype, generator, rows, C, K)
    check(x, w, b)
    check(x, w, None)
    assert launched.count(KERNEL) == 2


def test_rows_may_lie_apart(launched: list[str], generator: torch.Generator) -> None:
    x, w, b = draw(torch.float16, generator, 6, 128, 48)
    check(x[:, 32:96], w[:, 64:], b)
    check(x[::2, :64], w[::3, 8:72], b[::3])
    assert launched.count(KERNEL) == 2


@pytest.mark.parametrize(
    ("rows", "K", "C", "start", "dtype"),
    [
        (17, 8, 16, 0, torch.float16),
        (4, 8, 20, 0, torch.float16),
        (4, 8, 16, 1, torch.float16),
        (4, 8, 16, 0, torch.float32),
    ],
    ids=["many rows", "half a copy", "unaligned", "float32"],
)
def test_others_are_torchs(
    launched: list[str], rows: int, K: int, C: int, start: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    x, w, b = draw(dtype, generator, rows, C + start, K)
    check(x[:, start:], w[:, start:], b)
    assert KERNEL not in launched


def test_nan_and_infinities_stay_in_their_rows(generator: torch.Generator) -> None:
    x, w, b = draw(torch.bfloat16, generator, 3, 64, 20)
    x[1, 5], w[7, 40] = math.nan, math.inf
    output, _ = linear_relu_dropout.forward(x, w, b, None, 0.0, False)
    wanted = torch.nn.functional.linear(x.float(), w.float(), b.float()).relu()
    assert torch.equal(output.isnan(), wanted.isnan()) and torch.equal(output.isinf(), wanted.isinf())


def test_the_same_bits_in_every_run(generator: torch.Generator) -> None:
    x, w, b = draw(torch.float16, generator, 16, 1024, 64)
    first, again = (linear_relu_dropout.forward(x, w, b, None, 0.0, False)[0] for _ in range(2))
    assert_same(again, first)
