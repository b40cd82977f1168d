"""linear_relu_dropout by csrc/cuda/sm90's product: every tile and split, dropout's bits, what falls back, the choice.

On the CPU it runs emulated, TMA's copies and wgmma's products early or late by seed; on a GPU where it is one of
compute capability 9.0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conformance import test_accuracy
from torch import Tensor

from alexkern.accuracy import assert_same
from alexkern.backends.cuda import emulated, linear_relu_dropout, sm90
from alexkern.backends.torch import bits, philox
from alexkern.backends.torch import linear_relu_dropout as reference
from alexkern.cost.sm90 import BLOCK_N, block_k_of
from support.backends import DEVICE, HALVES, serving
from support.canaries import canaries
from support.cases import Case
from support.launches import noted
from support.linear import draw
from support.references import hold

pytestmark = [
    pytest.mark.skipif("cuda" not in serving("linear_relu_dropout"), reason="the CUDA kernels do not run here"),
    pytest.mark.skipif(
        DEVICE.type == "cuda" and torch.cuda.get_device_capability() != sm90.CAPABILITY,
        reason="for GPUs of compute capability 9.0",
    ),
]

PRODUCT, SUM = "sm90_convolve", "linear_relu_dropout_sum"
PLACE = (2**40 + 5, -3)  # seed and offset: within one output the counter wraps


@pytest.fixture(autouse=True)
def emulated_sm90(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", "9.0")
    yield
    schedule(0)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what forward launched."""
    return noted(monkeypatch, linear_relu_dropout, sm90, but="linear_relu_dropout_backward")


def schedule(number: int) -> None:
    """When copies and products take effect."""
    if DEVICE.type == "cpu":
        emulated.load().set_seed(number)


Force = Callable[..., None]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    def force(block_n: int, splits: int, cluster: int = 1) -> None:
        """Whatever would be chosen: this tile, or the nearest that there is, in so many splits, by so many blocks."""

        def choose(_: sm90.Device, _samples: int, _features: int, channels: int) -> tuple[int, int, int]:
            block_k = block_k_of(channels)
            return min(block_n, 128) if block_k == 48 else block_n, min(splits, -(-channels // block_k)), cluster

        monkeypatch.setattr(sm90, "choose_linear", choose)

    return force


def place(numbers: tuple[int, int] = PLACE) -> Tensor:
    return torch.tensor(numbers, device=DEVICE)


def check(
    x: Tensor, w: Tensor, b: Tensor | None, seed: Tensor | None, p: float, generator: torch.Generator
) -> list[Tensor]:
    """Our output and gradients, held to the accuracy rule within their memory."""
    with canaries() as buffers:
        output, mask = linear_relu_dropout.forward(x, w, b, seed, p, True)
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(x.dtype).to(DEVICE)
        saved = output if mask is None else mask
        grads = linear_relu_dropout.backward(grad, x, w, saved, seed, p, (True, True, True))
    assert buffers and (mask is None) == (seed is None)
    if mask is not None:
        keep = philox.keep(seed, p, tuple(output.shape), output.stride())
        assert_same(mask, bits.pack(keep & ~(output <= 0)), "mask")
    hold((output,), lambda *given: reference.forward(*given, seed, p, False)[0], x, w, b)
    hold(grads, lambda *given: reference.backward(*given, saved, seed, p, (True, True, True)), grad, x, w)
    return [output, *(found for found in grads if found is not None)]


SHAPES = {  # rows, in_features, out_features
    "a tile's fraction": (17, 136, 72),
    "small steps": (33, 88, 200),
    "a row too many": (129, 200, 264),
}


@pytest.mark.parametrize("choice", list(itertools.product(BLOCK_N, (1, 3), (1, 2))), ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_tile_and_split(
    force: Force, launched: list[str], dtype: torch.dtype, shape: str, choice: Any, generator: torch.Generator
) -> None:
    block_n, splits, _ = choice
    force(*choice)
    schedule(block_n + splits)
    tensors = draw(dtype, generator, *SHAPES[shape])
    check(*tensors, place(), 0.3, generator)
    check(*tensors[:2], None, None, 0.0, generator)
    assert launched == ([PRODUCT] if splits == 1 else [PRODUCT, SUM]) * 2


@pytest.mark.parametrize("choice", [(64, 1, 2), (96, 1, 1), (256, 1, 2), (128, 2, 1)], ids=str)
@pytest.mark.parametrize(("p", "numbers"), [(0.5, PLACE), (0.2, (-7, 2**32 - 9)), (1.0, (0, 0))])
def test_the_reference_drops_the_very_same(
    force: Force, choice: tuple[int, int, int], p: float, numbers: tuple[int, int]
) -> None:
    force(*choice)
    x, w = (torch.ones((size, 128), dtype=torch.float16, device=DEVICE) for size in (151, 328))
    for rows in (x, x[:140].view(4, 35, 128)):
        output, _ = linear_relu_dropout.forward(rows, w, None, place(numbers), p, False)
        keep = philox.keep(place(numbers), p, tuple(output.shape), output.stride())
        assert torch.equal(output, keep * (128 / (1 - p) if p < 1 else 0.0))


@pytest.mark.parametrize("splits", [1, 2])
def test_dropping_with_p_0_is_not_dropping(force: Force, splits: int, generator: torch.Generator) -> None:
    force(64, splits)
    x, w, b = draw(torch.bfloat16, generator, 40, 128, 64)
    kept, _ = linear_relu_dropout.forward(x, w, b, place(), 0.0, False)
    assert_same(kept, linear_relu_dropout.forward(x, w, b, None, 0.0, False)[0])
    assert 0 < int((kept == 0).sum()) < kept.numel()


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_nan_and_infinities(force: Force, p: float, splits: int, generator: torch.Generator) -> None:
    """ReLU keeps NaN; what is dropped is multiplied by 0, and a NaN or infinity is NaN then; its gradient is 0."""
    force(64, splits)
    x, w, b = draw(torch.float16, generator, 35, 128, 72)
    x[1, 5], x[34, 100], w[70, 40], b[9] = math.nan, math.inf, -math.inf, math.nan
    seed = None if p == 0 else place()
    output, mask = linear_relu_dropout.forward(x, w, b, seed, p, True)
    wanted, _ = reference.forward(x.float(), w.float(), b.float(), seed, p, False)
    assert torch.equal(output.isnan(), wanted.isnan()) and torch.equal(output.isinf(), wanted.isinf())
    assert bool(output[1].isnan().all()) and bool(output[:, 9].isnan().all())
    assert not bool(output.signbit()[~output.isnan()].any()), "a dropped or negative value is +0"
    ones, saved = torch.ones_like(output), output if mask is None else mask
    _, _, bias_grad = linear_relu_dropout.backward(ones, x, w, saved, seed, p, (False, False, True))
    keep = ones.bool() if seed is None else philox.keep(seed, p, tuple(output.shape), output.stride())
    scale = 1 / (1 - p) if p < 1 else 0.0
    assert torch.equal(bias_grad, ((keep & ~(output <= 0)).sum(0) * scale).to(x.dtype))


def test_same_bits_whenever_copies_and_products_take_effect(force: Force, generator: torch.Generator) -> None:
    """Nine seeds: copies and products, each late, early and mixed; and the same twice."""
    tensors = draw(torch.bfloat16, generator, 150, 264, 200)
    for choice in ((64, 1, 2), (96, 2, 1)):
        force(*choice)
        first = None
        for number in (*range(9), 0):
            schedule(number)
            found, _ = linear_relu_dropout.forward(*tensors, place(), 0.5, False)
            first = found if first is None else first
            assert_same(found, first)


STRIDES = {
    "rows apart": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
    "every other feature": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "transposed": lambda x: x.t().contiguous().t(),
    "one row": lambda x: x[:1].expand_as(x),
    "unaligned": lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view_as(x),
    "dimensions": lambda x: x.view(2, 4, 5, -1),
    "dimensions apart": lambda x: x.view(4, 10, -1).transpose(0, 1),
}


@pytest.mark.parametrize("layout", STRIDES)
def test_input_may_lie_anyhow(launched: list[str], layout: str, generator: torch.Generator) -> None:
    x, w, b = draw(torch.float16, generator, 40, 72, 48)
    check(STRIDES[layout](x), w, b, place(), 0.5, generator)
    assert launched[0] == PRODUCT


@pytest.mark.parametrize("splits", [1, 2])
def test_bias_may_lie_anyhow(force: Force, splits: int, generator: torch.Generator) -> None:
    force(64, splits)
    x, w, b = draw(torch.bfloat16, generator, 20, 128, 40)
    check(x, w, b.repeat_interleave(3)[::3], place(), 0.5, generator)
    check(x, w, torch.cat((b[:1], b))[1:], place(), 0.5, generator)


FALLBACKS = {  # rows, in_features, out_features, what becomes of the weight
    "few rows": (16, 64, 64, lambda w: w),
    "half a copy of input": (20, 68, 64, lambda w: w),
    "half a copy of output": (20, 64, 68, lambda w: w),
    "a weight with gaps": (20, 64, 64, lambda w: torch.cat((w, w), 1)[:, :64]),
    "a transposed weight": (20, 64, 64, lambda w: w.t()),
    "an unaligned weight": (20, 64, 64, lambda w: torch.cat((w.new_zeros(4), w.flatten()))[4:].view(64, 64)),
}


@pytest.mark.parametrize("why", FALLBACKS)
def test_others_are_served_otherwise(why: str, launched: list[str], generator: torch.Generator) -> None:
    rows, C, K, changed = FALLBACKS[why]
    x, w, b = draw(torch.float16, generator, rows, C, K)
    check(x, changed(w), b, place(), 0.5, generator)
    assert PRODUCT not in launched and launched[-1] == "linear_relu_dropout_forward"


def test_no_rows_and_no_features(launched: list[str], generator: torch.Generator) -> None:
    x, w, b = draw(torch.float16, generator, 20, 64, 64)
    output, _ = linear_relu_dropout.forward(x[:, :0], w[:, :0], b, None, 0.0, False)
    assert torch.equal(output, b.relu().expand(20, 64))
    assert launched == ["linear_relu_dropout_forward"]
    launched.clear()
    assert linear_relu_dropout.forward(x[:0], w, b, place(), 0.5, True)[0].shape == (0, 64)
    assert linear_relu_dropout.forward(x, w[:0], b[:0], place(), 0.5, True)[0].shape == (20, 0)
    assert launched == []


def test_float32_and_older_gpus_are_torchs(
    monkeypatch: pytest.MonkeyPatch, launched: list[str], generator: torch.Generator
) -> None:
    check(*draw(torch.float32, generator, 20, 64, 64), place(), 0.5, generator)
    if DEVICE.type == "cpu":
        monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", "8.0")
        check(*draw(torch.float16, generator, 20, 64, 64), place(), 0.5, generator)
    assert set(launched) == {"linear_relu_dropout_forward"}


@pytest.mark.parametrize("needs", list(itertools.product([True, False], repeat=3)), ids=str)
def test_gradients_only_where_asked(needs: tuple[bool, bool, bool], generator: torch.Generator) -> None:
    x, w, b = draw(torch.float16, generator, 20, 16, 24)
    output, mask = linear_relu_dropout.forward(x, w, b, place(), 0.5, True)
    grads = linear_relu_dropout.backward(output, x, w, mask, place(), 0.5, needs)
    assert tuple(grad is not None for grad in grads) == needs


@pytest.mark.parametrize("arguments", [{}, {"p": 0.2}, {"training": False}], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_route_is_the_same(
    dtype: torch.dtype, arguments: dict[str, Any], launched: list[str], generator: torch.Generator
) -> None:
    case = Case("linear_relu_dropout", "rows", ((3, 11, 72), (48, 72), (48,)), arguments)
    test_accuracy.test_values_and_gradients(case, "cuda", dtype, generator)
    assert launched.count(PRODUCT) == 3  # by each route
