"""csrc/cpu on every instruction set that is here: torch's bits, alike for any number of threads, no stray access."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

import alexkern
from alexkern import dispatch, plan
from alexkern.accuracy import assert_accurate, assert_same
from alexkern.augmentation import CROPS, IMAGENET_STD
from alexkern.backends import cpu, extension
from alexkern.backends.cpu import crossovers, memory, winograd
from alexkern.backends.cpu import dropout as cpu_dropout
from alexkern.backends.cpu import linear_relu_dropout as cpu_linear
from alexkern.backends.torch import bits
from alexkern.functional import augment
from alexkern.geometry import Geometry, convolution, pooling
from alexkern.plan import is_channels_last
from support import processor, zygote
from support.canaries import canaries
from support.guarded import ALIGNED, at_the_end, room
from support.processor import LAYOUTS, SETS

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(ROOT.glob("csrc/cpu/*/*.cpp"))  # for every set
# avx512bf16 has the kernels of avx512, and of bfloat16 those of tests/test_cpu_conv2d_relu.py.
ISAS = tuple(name for name in SETS if name != "avx512bf16")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # on every set, whether it serves both or not
FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
}
FLAGS["avx512bf16"] = [*FLAGS["avx512"], "-mavx512bf16"]
OPERATORS = ("max_pool2d", "dropout", "local_response_norm", "linear_relu_dropout")  # with kernels for every set
pytestmark = processor.served


@pytest.fixture(params=DTYPES.values(), ids=DTYPES.keys())
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


isa = pytest.fixture(params=ISAS, name="isa")(processor.isa)


def both(operator: str) -> list[ModuleType]:
    """Ours, and torch's."""
    return [dispatch.implementation(name, operator) for name in ("cpu", "torch")]


def ran(what: str, isa: str) -> None:
    """The kernel that ran was that of the operator, and for this instruction set."""
    assert cpu.native().last_kernel().startswith(what) and cpu.native().last_kernel().endswith(f", {isa}")


# Channels that fill no vector, images of one pixel, windows wider than the image, and bytes that are not enough.
POOLS = [
    # shape, kernel_size, stride, padding, dilation, ceil_mode
    *(((2, C, 9, 11), (3, 3), (2, 2), (0, 0), (1, 1), False) for C in (1, 3, 5, 7, 16, 17, 64, 67, 130)),
    ((3, 17, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1), False),
    ((3, 5, 1, 1), (3, 3), (2, 2), (1, 1), (1, 1), False),
    ((2, 7, 2, 3), (6, 8), (1, 1), (3, 4), (1, 1), False),
    ((1, 70, 12, 12), (8, 8), (1, 1), (1, 0), (1, 1), False),
    ((1, 70, 6, 15), (5, 13), (1, 1), (0, 0), (1, 1), False),
    ((1, 33, 40, 41), (9, 9), (1, 1), (4, 4), (1, 1), False),
    ((2, 3, 20, 19), (17, 17), (3, 2), (8, 8), (1, 1), True),
    ((2, 18, 20, 15), (3, 1), (1, 1), (1, 0), (2, 2), False),
    ((1, 6, 13, 50), (2, 4), (5, 3), (1, 2), (3, 2), True),
    ((0, 5, 9, 9), (3, 3), (2, 2), (0, 0), (1, 1), False),
]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize("values", ["different", "equal", "one NaN in 300", "special"])
def test_pooling_has_torchs_bits(
    case: tuple,
    layout: torch.memory_format,
    values: str,
    dtype: torch.dtype,
    isa: str,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape, *window = case
    ours, torchs = both("max_pool2d")
    monkeypatch.setattr(crossovers, "POOLED", dict.fromkeys(crossovers.POOLED, crossovers.Pooled(0, 0)))
    numbers = {
        "equal": (-float("inf"), -1.0, -1e-40, 0.0, -0.0, 2.0),
        "one NaN in 300": (float("nan"), *(-1.0, 0.0, -0.0, 1.0) * 75),
        "special": (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, 1e-40),
    }
    image = torch.randn(shape, generator=generator)
    if values in numbers:
        table = torch.tensor(numbers[values])
        image = table[torch.randint(len(table), shape, generator=generator)]
    image = image.to(dtype).contiguous(memory_format=layout)
    with canaries():
        output, offsets = ours.forward(image, *window, True)
        ran("max_pool2d forward", isa)
        without, nothing = ours.forward(image, *window, False)
        grad = torch.randn(output.shape, generator=generator).to(dtype)
        backward = (offsets, shape, is_channels_last(image), *window, (True,))
        (gradient,) = ours.backward(grad, *backward)
        ran("max_pool2d backward", isa)
    wanted, wanted_offsets = torchs.forward(image, *window, True)
    assert nothing is None and output.stride() == wanted.stride()
    assert_same(output, wanted, "output")
    assert_same(without, wanted, "output without offsets")
    assert offsets.dtype == wanted_offsets.dtype and torch.equal(offsets, wanted_offsets)
    (wanted_gradient,) = torchs.backward(grad, *backward)
    assert gradient.stride() == wanted_gradient.stride()
    if dtype == torch.float32:
        assert torch.equal(gradient, wanted_gradient)
    else:  # added up in float32, where torch rounds every sum
        assert_accurate(gradient, torchs.backward(grad.double(), *backward)[0], wanted_gradient)


@pytest.mark.parametrize(
    ("shape", "torchs"), [((600, 2, 5, 7), False), ((600, 2, 5, 3), True), ((2, 2, 5, 3), False)], ids=str
)
def test_rows_of_few_windows_of_large_images_are_torchs(shape: tuple[int, ...], torchs: bool, isa: str) -> None:
    pool = dispatch.implementation("cpu", "max_pool2d")
    dispatch.implementation("cpu", "dropout").forward(torch.ones(3), torch.tensor((1, 2)), 0.5)
    output, offsets = pool.forward(torch.rand(shape), (3, 3), (2, 2), (0, 0), (1, 1), False, True)
    assert cpu.native().last_kernel() == (f"dropout, {isa}" if torchs else f"max_pool2d forward, NCHW, {isa}")
    assert offsets.dtype == torch.uint8 and output.shape == offsets.shape


@pytest.mark.parametrize("p", [0.0, 1e-12, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 3, 7, 31, 32, 33, 64, 127, 1000])
def test_dropout_has_torchs_bits(
    count: int, p: float, dtype: torch.dtype, isa: str, generator: torch.Generator
) -> None:
    ours, torchs = both("dropout")
    table = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, 1e-40], dtype=dtype)
    input = table[torch.randint(len(table), (count,), generator=generator)]
    for seed in ((3, 5), (-1, -2), (2**63 - 1, 2**32 - 3)):
        place = torch.tensor(seed)
        with canaries():
            output = ours.forward(input, place, p)
        ran("dropout", isa)
        assert_same(output, torchs.forward(input, place, p), f"seed {seed}")
    ours, torchs = both("linear_relu_dropout")
    place = torch.tensor((3, 5))
    arguments = (input.unsqueeze(1), torch.ones(1, 1, dtype=dtype), None, place, p, True)
    with canaries():
        first, mask = ours.forward(*arguments)
        ran("ReLU and dropout", isa)
    second, wanted = torchs.forward(*arguments)
    assert_same(first, second, "behind a linear layer")
    assert torch.equal(mask, wanted)
    grad = input.flip(0).unsqueeze(1)
    with canaries():
        passed = cpu_dropout.masked(grad, mask, p)
    ran("dropout's mask", isa)
    assert_same(passed, torchs.masked(grad, mask, place, p), "the gradient")


def test_every_bfloat16(isa: str) -> None:
    """Read, multiplied, rounded and written as torch does, denormals and ties among them."""
    ours, torchs = both("dropout")
    values = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    for p in (0.0, 0.3, 0.75):
        seed = torch.tensor((3, 5))
        assert_same(ours.forward(values, seed, p), torchs.forward(values, seed, p))


# Rows, in_features, out_features: a row alone, rows that fill no tile, columns and filters that fill no vector.
LINEARS = [
    *((N, C, 5) for N in (1, 3, 4, 5, 8, 9, 17) for C in (1, 3, 5, 7, 17)),
    (1, 801, 14),  # more than one block of columns, filters that fill no unit
    (2, 48, 48),
    (3, 785, 25),
    (8, 400, 33),
    (9, 769, 40),
    (33, 385, 1),
    (40, 131, 24),
    (128, 97, 19),
    (128, 4133, 37),  # more of the input than stays in the L2
]


@pytest.fixture
def every_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to torch."""
    everything = dict.fromkeys(crossovers.PRODUCTS, ((1, ((1, cpu.native().linear_most_rows),)),))
    everything["forward, bfloat16"] = ((1, ((1, cpu.native().linear_most_rows_bfloat16),)),)
    monkeypatch.setattr(crossovers, "TABLE", dict.fromkeys(crossovers.TABLE, everything))


@pytest.mark.parametrize("case", LINEARS, ids=str)
def test_linear_layers_of_few_rows(
    case: tuple[int, int, int], isa: str, generator: torch.Generator, every_product: None
) -> None:
    N, C, K = case
    ours, torchs = both("linear_relu_dropout")
    shapes = ((N, C), (K, C), (K,), (N, K))
    input, weight, bias, grad = (torch.randn(shape, generator=generator) for shape in shapes)
    place = torch.tensor((3, 5))
    for seed, given in ((None, bias), (place, bias), (place, None)):
        arguments = (given, seed, 0.4 if seed is not None else 0.0, True)
        with canaries() as buffers:
            output, mask = ours.forward(input, weight, *arguments)
            ran("linear_relu_dropout forward" if seed is None else "ReLU and dropout", isa)
        assert buffers
        double_bias = None if given is None else given.double()
        reference, _ = torchs.forward(input.double(), weight.double(), double_bias, *arguments[1:])
        wanted, wanted_mask = torchs.forward(input, weight, *arguments)
        assert_accurate(output, reference, wanted, "output", (input.abs() @ weight.abs().t() + bias.abs()).double())
        rest = (wanted if seed is None else wanted_mask, *arguments[1:3], (True, True, True))
        with canaries():
            gradients = ours.backward(grad, input, weight, *rest)
            ran("linear_relu_dropout backward", isa)
        wide = [one.double() for one in (grad, input, weight)]
        operands = wide, (grad, input, weight), [one.abs() for one in wide]
        references, theirs, magnitudes = (torchs.backward(*of, *rest) for of in operands)
        for one, reference, other, magnitude in zip(gradients, references, theirs, magnitudes, strict=True):
            assert_accurate(one, reference, other, "gradient", magnitude)


@pytest.mark.parametrize("case", [case for case in LINEARS if case[0] <= 4], ids=str)
def test_linear_layers_of_few_rows_in_bfloat16(
    case: tuple[int, int, int], isa: str, generator: torch.Generator, every_product: None
) -> None:
    """Added up in float32, with the bias, and rounded once."""
    N, C, K = case
    input, weight, bias = (
        torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in ((N, C), (K, C), (K,))
    )
    linear, seed = dispatch.implementation("cpu", "linear_relu_dropout"), torch.tensor((3, 5))
    for given in (None, bias):
        with canaries() as buffers:
            output, _ = linear.forward(input, weight, given, None, 0.0, False)
            ran("linear_relu_dropout forward, dot products", isa)
        assert buffers
        added = torch.zeros(K) if given is None else given
        reference = (input.double() @ weight.double().t() + added.double()).relu()
        magnitude = input.abs().double() @ weight.abs().double().t() + added.abs().double()
        assert ((output - reference).abs() <= reference * 2**-8 + magnitude * C * 2**-24).all()
        dropped, mask = linear.forward(input, weight, given, seed, 0.4, True)
        kept = bits.unpack(mask, (N, K))
        torch.testing.assert_close(dropped, torch.where(kept, output / 0.6, 0).to(torch.bfloat16))


@pytest.mark.parametrize("C", [1008, 1009])
def test_a_gradient_past_the_caches(C: int, isa: str, generator: torch.Generator, every_product: None) -> None:
    """Stored in whole lines where its rows are made of such, and not where they are not."""
    input, grad = torch.randn(1, C, generator=generator), torch.randn(1, 2**21 // C + 1, generator=generator)
    weight, saved = torch.empty(grad.shape[1], C), torch.ones_like(grad)
    linear = dispatch.implementation("cpu", "linear_relu_dropout")
    _, gradient, _ = linear.backward(grad, input, weight, saved, None, 0.0, (False, True, False))
    assert_same(gradient, grad.t() * input)


@pytest.mark.parametrize("N", [1, 8, 20])
def test_a_linear_layer_has_torchs_special_numbers(
    N: int, isa: str, generator: torch.Generator, every_product: None
) -> None:
    """Small whole numbers, of which every sum is exact, beside NaN, infinities, zeros and denormals."""
    ours, torchs = both("linear_relu_dropout")
    table = torch.tensor([float("nan"), float("inf"), -float("inf"), *([-2.0, 0.0, 1.0, 3.0] * 40), 1e-40])
    input, weight, grad = (
        table[torch.randint(len(table), shape, generator=generator)] for shape in ((N, 37), (50, 37), (N, 50))
    )
    bias = torch.full((50,), -2.0)
    output, _ = ours.forward(input, weight, bias, None, 0.0, True)
    wanted, _ = torchs.forward(input, weight, bias, None, 0.0, True)
    assert bool(wanted.isnan().any()) and bool(wanted.isinf().any()) and bool((wanted == 0).any())
    assert_same(output + 0.0, wanted + 0.0, "output")  # of a sum that is 0, the sign depends on the order
    arguments = (grad, input, weight, wanted, None, 0.0, (True, True, True))
    for one, other in zip(ours.backward(*arguments), torchs.backward(*arguments), strict=True):
        assert_same(one + 0.0, other + 0.0)


def test_a_linear_layer_of_any_strides(isa: str, generator: torch.Generator, every_product: None) -> None:
    ours, torchs = both("linear_relu_dropout")
    weight, bias = torch.randn(21, 18, generator=generator), torch.randn(1, generator=generator).expand(21)
    grad = torch.randn(1, 1, generator=generator).expand(6, 21)
    inputs = {
        "transposed": torch.randn(18, 6, generator=generator).t(),
        "a slice": torch.randn(6, 40, generator=generator)[:, 3:21],
        "one row": torch.randn(1, 18, generator=generator).expand(6, 18),
        "unaligned": torch.randn(109, generator=generator)[1:].view(6, 18),
        "three dimensions": torch.randn(2, 3, 18, generator=generator),
    }
    for what, input in inputs.items():
        outputs = [backend.forward(input, weight, bias, None, 0.0, True)[0] for backend in (ours, torchs)]
        torch.testing.assert_close(*outputs, msg=what)
        shaped = grad.view(6, 21) if input.dim() == 2 else grad.reshape(2, 3, 21)
        arguments = (shaped, input, weight, outputs[1], None, 0.0, (True, True, True))
        for one, other in zip(ours.backward(*arguments), torchs.backward(*arguments), strict=True):
            torch.testing.assert_close(one, other, msg=what)


def test_products_that_the_table_does_not_name_are_torchs(
    isa: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, and without a copy of the weight."""
    ours, torchs = both("linear_relu_dropout")
    table = {
        "forward": ((200, ((2, 3), (5, 5))),),
        "input_grad": ((1000, ((1, 9),)), (1, ((3, 3),))),
        "weight_grad": ((1, ((1, 1),)),),
    }
    monkeypatch.setattr(crossovers, "TABLE", {crossovers.measured(): table})
    weight = torch.randn(20, 11, generator=generator)

    def served(product: str, rows: int, weight: Tensor) -> bool:
        return crossovers.is_ours(product, weight, rows)

    assert [rows for rows in range(7) if served("forward", rows, weight)] == [2, 3, 5]
    assert not served("forward", 2, weight[:10]) and not served("forward", 2, weight.t())
    assert [served("input_grad", rows, weight) for rows in (2, 3)] == [False, True]
    for rows in (0, 1, 2, 4):
        input, grad = (torch.randn(rows, size, generator=generator) for size in (11, 20))
        dispatch.implementation("cpu", "dropout").forward(torch.ones(3), torch.tensor((1, 2)), 0.5)
        (output, _), (wanted, _) = (of.forward(input, weight, None, None, 0.0, True) for of in (ours, torchs))
        assert (cpu.native().last_kernel() == f"dropout, {isa}") == (rows != 2)
        if rows != 2:
            assert_same(output, wanted)
        arguments = (grad, input, weight, wanted, None, 0.0)
        gradients, others = (of.backward(*arguments, (True, True, True)) for of in (ours, torchs))
        assert_same(gradients[0], others[0])
        for one, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(one, other)
        assert ours.backward(*arguments, (False, False, False)) == (None, None, None)


def test_whose_a_product_is_goes_by_the_processors_maker(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, keys = torch.empty(4, 4), (isa, f"{isa} on AMD")
    assert all({*keys} <= of.keys() for of in (crossovers.TABLE, crossovers.POOLED, crossovers.CONVOLUTIONS))
    table = {key: dict.fromkeys(("forward", "forward, bfloat16"), ((1, ((n, n),)),)) for n, key in enumerate(keys)}
    monkeypatch.setattr(crossovers, "TABLE", table)
    monkeypatch.setattr(crossovers, "POOLED", dict(zip(keys, range(2), strict=True)))
    for place, amd in enumerate((False, True)):
        monkeypatch.setattr(cpu.native(), "amd", amd)
        assert [N for N in range(5) if crossovers.is_ours("forward", weight, N)] == [place]
        assert not any(crossovers.is_ours("forward", weight.to(dtype), place) for dtype in (torch.half, torch.double))
        assert crossovers.pooled() == place


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("C", [1, 3, 5, 7, 16, 17, 48])
def test_local_response_norm(
    C: int, size: int, layout: torch.memory_format, dtype: torch.dtype, isa: str, generator: torch.Generator
) -> None:
    ours, torchs = both("local_response_norm")
    image, grad = (
        torch.randn(2, C, 5, 7, generator=generator).to(dtype).contiguous(memory_format=layout) for _ in range(2)
    )
    for beta in (0.75, 0.6):
        parameters = (size, 0.4, beta, 2.0)
        with canaries():
            output = ours.forward(image, *parameters)
            ran("local_response_norm forward", isa)
            (gradient,) = ours.backward(grad, image, *parameters, (True,))
            ran("local_response_norm backward", isa)
        assert_accurate(output, torchs.forward(image.double(), *parameters), torchs.forward(image, *parameters))
        (reference,) = torchs.backward(grad.double(), image.double(), *parameters, (True,))
        assert_accurate(gradient, reference, torchs.backward(grad, image, *parameters, (True,))[0])


def test_a_channel_that_is_not_there_gives_nothing(isa: str) -> None:
    """With k = 0 lanes beyond the channels would be 0 / 0."""
    norm = dispatch.implementation("cpu", "local_response_norm")
    for layout in LAYOUTS.values():
        image = torch.ones(1, 5, 2, 3).contiguous(memory_format=layout)
        (gradient,) = norm.backward(image, image, 5, 1.0, 0.75, 0.0, (True,))
        assert gradient.isfinite().all()


@pytest.fixture
def planned_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and workspaces end in front of a page that nobody may touch."""
    monkeypatch.setattr(plan, "_allocate", lambda shape, stride, dtype, device: room(shape, stride, dtype, ALIGNED))
    monkeypatch.setattr(memory, "LARGE", sys.maxsize)


def test_nothing_is_read_beyond_an_array(
    isa: str, generator: torch.Generator, every_product: None, planned_at_the_end: None
) -> None:
    pool, drop, norm, linear = (dispatch.implementation("cpu", name) for name in OPERATORS)

    def put(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        return at_the_end(torch.randn(shape, generator=generator).contiguous(memory_format=layout))

    for N, C, K in LINEARS:
        input, weight, bias, grad = put(N, C), put(K, C), put(K), put(N, K)
        output, _ = linear.forward(input, weight, bias, None, 0.0, True)
        linear.backward(grad, input, weight, at_the_end(output), None, 0.0, (True, True, True))
    for shape, *window in POOLS[:-1]:
        for layout in LAYOUTS.values():
            images = put(*shape, layout=layout)
            output, offsets = pool.forward(images, *window, True)
            last = is_channels_last(images)
            pool.backward(at_the_end(output), at_the_end(offsets), shape, last, *window, (True,))
            norm.backward(norm.forward(images, 5, 0.5, 0.75, 2.0), images, 5, 0.5, 0.75, 2.0, (True,))
    for count in (1, 63, 129, 5000):
        drop.forward(put(count), torch.tensor((1, 2)), 0.3)
        mask = torch.randint(256, (-(-count // 8),), generator=generator, dtype=torch.uint8)
        cpu_dropout.masked(put(count), at_the_end(mask), 0.3)


@pytest.mark.parametrize("isa", SETS, indirect=True)
def test_nothing_is_read_beyond_a_convolutions_arrays(
    isa: str, generator: torch.Generator, planned_at_the_end: None
) -> None:
    dtype = torch.bfloat16 if isa == "avx512bf16" else torch.float32
    cases = (2, 33, 9, 7, 35, 3), (1, 40, 8, 13, 64, 5), (1, 128, 4, 4, 128, 3)  # the last, of a whole share
    tiles = {3: (2, 4), 5: (2,)} if dtype == torch.float32 else {3: (2,), 5: ()}
    for (N, C, H, W, K, R), layout in product(cases, LAYOUTS.values()):
        images, weight, grad = (
            at_the_end(torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout))
            for shape in ((N, C, H, W), (K, C, R, R), (N, K, H + 3 - R, W + 3 - R))
        )
        bias = at_the_end(torch.randn(K, generator=generator).to(dtype))
        of, last = convolution(images, weight, (1, 1), (1, 1), (1, 1), 1), layout is torch.channels_last
        for M in tiles[R]:
            output = winograd.convolve(images, winograd.to_pack(weight, of, M), bias, True, last)
            assert output is not None and output.shape == grad.shape
        assert winograd.weight_grad(grad, images, of, last) is not None


def test_the_same_bits_for_any_number_of_threads(
    dtype: torch.dtype, isa: str, generator: torch.Generator, every_product: None
) -> None:
    pool, drop, norm, linear = (dispatch.implementation("cpu", name) for name in OPERATORS)
    # The last with more columns than two threads have totals for at a time.
    rows = {N: torch.randn(N, 4300, generator=generator) for N in (3, 8, 40, 128)}
    weight, bias = torch.randn(130, 4300, generator=generator), torch.randn(130, generator=generator)
    image = torch.randn(3, 37, 61, 57, generator=generator).to(dtype)
    mask = torch.randint(256, (-(-image.numel() // 8),), generator=generator, dtype=torch.uint8)
    seed = torch.tensor((1, 2))
    window = ((3, 3), (2, 2), (1, 1), (1, 1), False)

    def everything(image: Tensor) -> list[Tensor]:
        output, offsets = pool.forward(image, *window, True)
        grad = pool.backward(output, offsets, image.shape, is_channels_last(image), *window, (True,))[0]
        normed = norm.forward(image, 5, 0.5, 0.75, 2.0)
        norm_grad = norm.backward(normed, image, 5, 0.5, 0.75, 2.0, (True,))[0]
        alone = [drop.forward(image, seed, 0.3), cpu_dropout.masked(image, mask, 0.3), image.clone()]
        cpu_dropout.run(alone[2], alone[2], None, seed, 0.3, relu=False)  # in place
        assert_same(alone[2], alone[0])
        # Products in bfloat16 are torch's, which go by its threads.
        return [output, offsets, grad, normed, norm_grad, *alone, *(products() if dtype == torch.float32 else ())]

    def products() -> Iterator[Tensor]:
        for input in rows.values():
            output, mask = linear.forward(input, weight, bias, seed, 0.3, True)
            yield from (output, mask, *linear.backward(output, input, weight, mask, seed, 0.3, (True, True, True)))

    for layout in LAYOUTS.values():
        laid_out = image.contiguous(memory_format=layout)
        torch.set_num_threads(1)
        wanted = everything(laid_out)
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, everything(laid_out), wanted)), threads


def test_a_convolution_is_pooled_behind_its_relu(dtype: torch.dtype, isa: str, generator: torch.Generator) -> None:
    """The winners too are those of the values that the ReLU let pass."""
    ours, torchs = both("conv2d_relu_max_pool2d")
    arguments = ((1, 1), (1, 1), (1, 1), 1, (3, 3), (2, 2), (1, 1), True)
    weight, bias = torch.randn(19, 3, 3, 3, generator=generator).to(dtype), torch.full((19,), -3.0, dtype=dtype)
    for layout in LAYOUTS.values():
        image = torch.randn(2, 3, 13, 12, generator=generator).to(dtype).contiguous(memory_format=layout)
        output, offsets = ours.forward(image, weight, bias, *arguments)
        wanted, wanted_offsets = torchs.forward(image, weight, bias, *arguments)
        assert bool((wanted == 0).any()) and torch.equal(output, wanted) and torch.equal(offsets, wanted_offsets)
        grad = torch.randn(output.shape, generator=generator).to(dtype).contiguous(memory_format=layout)
        rest = (offsets, *arguments[:-1], (True, True, True))
        gradients, others = (one.backward(grad, image, weight, *rest) for one in (ours, torchs))
        references = torchs.backward(grad.double(), image.double(), weight.double(), *rest)
        for one, reference, other in zip(gradients, references, others, strict=True):
            assert_accurate(one, reference, other)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_a_linear_layer_in_bfloat16_is_torchs_product(rows: int, p: float, generator: torch.Generator) -> None:
    ours, torchs = both("linear_relu_dropout")
    shapes = ((2, rows, 37), (19, 37), (19,), (2, rows, 19))
    input, weight, bias, grad = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    seed = torch.tensor((3, 5)) if p else None
    (output, mask), (wanted, wanted_mask) = (one.forward(input, weight, bias, seed, p, True) for one in (ours, torchs))
    assert_same(output, wanted)
    mask, wanted_mask = (output, wanted) if seed is None else (mask, wanted_mask)
    assert torch.equal(mask, wanted_mask)
    backward = (grad.expand_as(output), input, weight, mask, seed, p, (True, True, True))
    for one, other in zip(ours.backward(*backward), torchs.backward(*backward), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("isa", [name for name in SETS if "avx512bf16" in SETS and name != "avx2"], indirect=True)
def test_bfloat16_is_served_with_instructions_for_it_alone(isa: str, generator: torch.Generator) -> None:
    image, served = torch.randn(1, 3, 9, 9, generator=generator).bfloat16(), isa == "avx512bf16"
    dispatch.forget()
    assert dispatch.serving("auto", "max_pool2d", image.device, image.dtype) == ("cpu" if served else "torch")
    with alexkern.backend("cpu"):
        if served:
            alexkern.functional.max_pool2d(image, 3)
            assert cpu.native().last_kernel() == "max_pool2d forward, NCHW, avx512bf16"
        else:
            with pytest.raises(alexkern.BackendUnavailable, match=f"with avx512bf16, not with {isa}$"):
                alexkern.functional.max_pool2d(image, 3)


def test_environment_names_the_instruction_set() -> None:
    code = (
        "import torch, alexkern; alexkern.set_backend('auto'); alexkern.functional.dropout(torch.ones(9)); "
        "from alexkern.backends import cpu; print(cpu.native().last_kernel(), cpu.native().isa(), sep=', ')"
    )
    environment = {**os.environ, "ALEXKERN_CPU_ISA": "portable"}
    done = subprocess.run(zygote.command(code), env=environment, capture_output=True, text=True)
    assert done.stdout == "dropout, portable, portable\n", done.stderr


def test_an_instruction_set_that_is_not_here_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXKERN_CPU_ISA", "avx512")
    monkeypatch.setattr(extension.cpu, "module", SimpleNamespace(isas=["portable", "avx2"]))
    cpu._choose_isa.cache_clear()
    dispatch.forget()
    try:
        for name in ("auto", "cpu"):
            with alexkern.backend(name), pytest.raises(alexkern.BackendUnavailable) as caught:
                alexkern.functional.max_pool2d(torch.zeros(1, 1, 3, 3), 3)
            assert str(caught.value) == (
                "ALEXKERN_CPU_ISA is avx512, which this processor or alexkern._cpu has not: "
                "wanted one of portable, avx2"
            )
    finally:
        cpu._choose_isa.cache_clear()
        dispatch.forget()


@pytest.mark.parametrize("seed", range(8))
def test_augment(isa: str, seed: int) -> None:
    """Images and crops of any size, against torch's own resize, with any number of threads."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    N, H, W = 3, drawn(1, 90), drawn(1, 90)
    images = torch.randint(0, 256, (N, H, W, 3), generator=generator, dtype=torch.uint8)
    sizes = torch.stack([torch.randint(1, most + 1, (N,), generator=generator) for most in (H, W)], dim=1)
    size = (drawn(1, 40), drawn(1, 40))
    options = {"crop": CROPS[drawn(0, len(CROPS) - 1)], "resize": max(size) + drawn(0, 9), "space_to_depth": seed == 7}
    options |= {"sizes": sizes, "seed": torch.tensor([seed, 0]), "hue": 0.2 * (seed % 2), "lighting": 0.1 * (seed % 3)}
    size = (63, 71) if seed == 7 else size
    options["resize"] = max(options["resize"], *size)
    with alexkern.backend("torch"):
        wanted = augment(images, size, **options)
    with alexkern.backend("cpu"):
        with canaries():
            found = augment(images, size, **options)
        ran("augment", isa)
        torch.set_num_threads(5)
        again = augment(images, size, **options)
    assert (found - wanted).abs().max() * min(IMAGENET_STD) <= 4e-6  # a thousandth of a grey level
    assert_same(found, again)


@pytest.mark.parametrize("name", [name for name in ISAS if name != "portable"])
def test_the_limit_computes_every_chain_that_it_counts(name: str) -> None:
    source = ROOT / "csrc/cpu/limits/limits.cpp"
    code = processor.compiled("-O3", "-fopenmp", f"-DALEXKERN_ISA={name}", *FLAGS[name], "-S", source, "-o", "-")
    chains = re.search(r"CHAINS = (\d+)", source.read_text())
    assert chains is not None
    loops = re.split(r"^\.L\w+:$", code, flags=re.M)
    assert max(loop.count("vfmadd") for loop in loops) >= int(chains[1])


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.full] * (name != "portable")) for name in SETS])
def test_no_stray_access(name: str, tmp_path: Path) -> None:
    """Under AddressSanitizer and UndefinedBehaviorSanitizer, every array as long as it has to be and not longer."""
    program, sources = tmp_path / "memory", (*SOURCES, ROOT / "tests/support/cpu_memory.cpp")
    flags = ("-fopenmp", f"-DALEXKERN_ISA={name}", *FLAGS[name])
    assert processor.sanitized("address,undefined", program, *flags, *sources) == f"{name}: all clean\n"


@pytest.mark.full
@pytest.mark.parametrize("name", SETS)
def test_no_function_that_the_linker_could_exchange(name: str, tmp_path: Path) -> None:
    """A function of two objects is kept once, and it would have another processor's instructions."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not there")
    for source in SOURCES:
        built = tmp_path / f"{source.stem}.o"
        processor.compiled("-O3", "-fopenmp", f"-DALEXKERN_ISA={name}", *FLAGS[name], "-c", source, "-o", built)
        listed = subprocess.run([nm, "-C", "--defined-only", built], capture_output=True, text=True, check=True).stdout
        weak = [line for line in listed.splitlines() if line.split()[1] in "WVu"]
        assert all(re.search(rf"alexkern::{name}::|DW.ref", line) for line in weak), weak


@pytest.mark.parametrize("channels", [1, 4])
def test_max_pool2d_of_an_image_of_over_2_to_the_31_values(channels: int) -> None:
    """Of which few are looked at: pages that nobody writes to are zero, and take no memory."""
    H, W, step = 2**16 // channels + 1, 2**15, 2**12
    image = torch.empty(1, H, W, channels).permute(0, 3, 1, 2)
    image = image.reshape(1, 1, H, W) if channels == 1 else image
    assert (H - 1) * W * channels == 2**31
    image[0, -1, -1, 0] = 3.0
    pooled, _ = dispatch.implementation("cpu", "max_pool2d").forward(
        image, (1, 1), (step, step), (0, 0), (1, 1), False, False
    )
    assert pooled[0, -1, -1, 0] == 3.0 and pooled.sum() == 3.0


def test_workspaces_of_over_2_to_the_31_numbers() -> None:
    """They grow with the channels, however many there are."""
    of = Geometry(1, 1, 64, 64, 64, 3, 3, (1, 1), (1, 1), (1, 1), 1)
    few, more, most = (cpu.native().winograd_workspace(of._replace(C=C), False, 2) for C in (2**20, 2**21, 2**26))
    assert most == few + (more - few) * (2**6 - 1) > 2**31


def test_pooling_counts_in_64_bits() -> None:
    sides = ((2, 3), (1, 0), (2, 1))  # stride, padding, dilation
    short = pooling((1, 1, 5, 2**10), (2, 3), *sides)
    long = short._replace(N=2**33, W=2**33)
    rows = [cpu.native().max_pool2d_workspace(windows, (windows.P, windows.Q)) for windows in (short, long)]
    # Of a row's pixels each lies once in the workspace for each row of a window, and each window has a number.
    assert rows[1] - rows[0] > 2 * (long.W - short.W)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        cpu.native().max_pool2d_workspace(short._replace(H=2**63), (1, 1))


@pytest.mark.parametrize("sizes", [(2**33, 1, 1), (1, 2**33, 1), (1, 1, 2**33)], ids=["rows", "in", "out"])
def test_a_linear_layer_counts_in_64_bits(sizes: tuple[int, int, int]) -> None:
    assert cpu.native().linear_relu_dropout_workspace(sizes, 1) > 2**33


def test_local_response_norm_of_images_over_2_to_the_31_values_apart(isa: str) -> None:
    step = 2**31 + 64
    images, result = (torch.empty(step + 8).as_strided((2, 1, 4, 2), (step, 1, 2, 1)) for _ in range(2))
    images.fill_(3.0)
    workspace, native = torch.empty(100), cpu.native()
    assert native.local_response_norm_workspace(1, 1, 1) <= len(workspace)
    places = (False, images.data_ptr(), 0, result.data_ptr(), workspace.data_ptr())
    native.local_response_norm(2, 1, 8, (step, 1, 1), 1, 1.0, 1.0, 0.0, *places, 1)
    torch.testing.assert_close(result, torch.full((2, 1, 4, 2), 1 / 3))


@pytest.mark.parametrize("sizes", [(2**33, 1, 0), (0, 2**33, 1), (0, 1, 2**33)], ids=["images", "channels", "pixels"])
def test_local_response_norm_counts_in_64_bits(sizes: tuple[int, int, int]) -> None:
    """Of no numbers, which nobody looks at."""
    cpu.native().local_response_norm(*sizes, (1, 1, 1), 5, 1.0, 0.75, 1.0, False, 0, 0, 0, 0, 1)


@pytest.mark.full
def test_linear_relu_dropout_by_a_weight_of_over_2_to_the_31_values() -> None:
    features, rows = 2**15, 2**16 + 1
    weight = torch.empty(rows, features)
    weight[-1] = 1.0
    output = cpu_linear.product(torch.ones(1, features), weight, None, relu=True)
    assert output[0, -1] == features and output.sum() == features
