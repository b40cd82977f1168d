"""conv2d_relu_max_pool2d's CUDA kernels below the operator: one kernel and two, the choice, and the way back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alexkern.accuracy import assert_same
from alexkern.backends import cuda
from alexkern.backends.cuda import conv2d_relu, emulated, max_pool2d, sm90
from alexkern.backends.cuda import conv2d_relu_max_pool2d as native
from alexkern.backends.torch import conv2d_relu_max_pool2d as reference
from alexkern.cost.chips import CHIPS, like
from alexkern.cost.sm80_pooled import Plan
from alexkern.geometry import CLIPPED, Geometry, pooling
from support.backends import DEVICE, HALVES, serving
from support.canaries import canaries
from support.convolution import Args
from support.launches import noted
from support.references import all_same, hold

pytestmark = pytest.mark.skipif(
    "cuda" not in serving("conv2d_relu_max_pool2d"), reason="the CUDA kernels do not run here"
)

POOL = ((3, 3), (2, 2), (0, 0))
ONE = ((1, 1), (0, 0), (1, 1))  # stride, padding, dilation
FUSED = "conv2d_relu_max_pool2d_forward"
SMALL_BLOCK = 101376  # bytes of shared memory that a block has at most on compute capabilities 8.6, 8.9 and 12.0
DTYPES = [torch.float32, *HALVES]

# input, weight, (stride, padding, dilation, groups), plans: tiles, rows below each other, cut-off segments and columns.
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Args, list[Plan]]] = {
    "conv1": ((1, 3, 39, 31), (20, 3, 11, 11), ((4, 4), (2, 2), (1, 1), 1), [Plan(1, 2, 3), Plan(2, 1, 1)]),
    "conv2": ((2, 16, 8, 7), (72, 16, 5, 5), ((1, 1), (2, 2), (1, 1), 1), [Plan(1, 3, 2), Plan(2, 2, 1)]),
    "groups": ((2, 18, 10, 9), (22, 9, 3, 3), ((1, 1), (1, 1), (1, 1), 2), [Plan(1, 1, 4), Plan(2, 4, 2)]),
    "row_by_row": ((1, 4, 15, 70), (16, 4, 1, 1), ((1, 1), (0, 0), (1, 1), 1), [Plan(1, 33, 2), Plan(2, 31, 7)]),
    "odd_rows": ((1, 8, 23, 21), (8, 8, 3, 3), ((1, 1), (1, 1), (1, 1), 1), [Plan(1, 10, 9), Plan(2, 10, 4)]),
    "one_window": ((3, 5, 3, 3), (3, 5, 1, 1), ((1, 1), (0, 0), (1, 1), 1), [Plan(1, 1, 1), Plan(2, 8, 8)]),
    "uneven": ((1, 3, 21, 25), (5, 3, 3, 2), ((1, 2), (0, 1), (2, 1), 1), [Plan(1, 4, 3), Plan(2, 5, 20)]),
}


def draw(
    shape: str, dtype: torch.dtype, generator: torch.Generator, channels_last: bool, whole: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal numbers, or small whole ones, whose sums are exact and often equal."""
    input, filters, _, _ = SHAPES[shape]
    scale = 1.0 if whole else max(math.prod(filters[1:]), 1) ** -0.5
    tensors = [torch.randn(input, generator=generator), torch.randn(filters, generator=generator) * scale]
    tensors.append(torch.randn(filters[:1], generator=generator))
    x, w, b = (tensor.round() if whole else tensor for tensor in tensors)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x, w = (tensor.to(dtype).to(DEVICE).contiguous(memory_format=memory_format) for tensor in (x, w))
    return x, w, b.to(dtype).to(DEVICE)


def hold_to_torchs(output: Tensor, x: Tensor, w: Tensor, b: Tensor | None, *numbers: Any) -> None:
    hold((output,), lambda *given: reference.forward(*given, *numbers, False)[0], x, w, b)


Force = Callable[[Plan | None], None]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    """One kernel by this plan, or two by None; and sums in one order."""

    def force(plan: Plan | None) -> None:
        monkeypatch.setattr(native, "plan_of", lambda *_: plan)
        monkeypatch.setattr(conv2d_relu, "choose", lambda *_: (2, 1))

    return force


@pytest.mark.parametrize("channels_last", [True, False], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_kernel_gives_the_bits_of_two(
    shape: str, dtype: torch.dtype, channels_last: bool, generator: torch.Generator, force: Force
) -> None:
    """Values and offsets, for training and for inference, within their memory; and torch's values."""
    *_, convolution, plans = SHAPES[shape]
    x, w, b = draw(shape, dtype, generator, channels_last)
    bias = None if shape == "groups" else b
    force(None)
    wanted, wanted_offsets = native.forward(x, w, bias, *convolution, *POOL, True)
    for plan in plans:
        force(plan)
        with canaries() as buffers:
            output, offsets = native.forward(x, w, bias, *convolution, *POOL, True)
            alone, none = native.forward(x, w, bias, *convolution, *POOL, False)
        assert buffers and none is None
        assert output.stride() == wanted.stride() and offsets.stride() == wanted_offsets.stride()
        all_same((output, offsets, alone), (wanted, wanted_offsets, wanted))
    hold_to_torchs(wanted, x, w, bias, *convolution, *POOL)


def test_tf32_in_one_kernel(generator: torch.Generator, force: Force, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = draw("conv2", torch.float32, generator, True)
    *_, convolution, plans = SHAPES["conv2"]
    results = {}
    for tf32 in (False, True):
        monkeypatch.setattr(conv2d_relu, "is_tf32", lambda _, tf32=tf32: tf32)
        for plan in (None, *plans):
            force(plan)
            results[tf32, plan] = native.forward(x, w, b, *convolution, *POOL, True)
        for plan in plans:
            all_same(results[tf32, plan], results[tf32, None])
    assert not torch.equal(results[True, None][0], results[False, None][0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ["conv1", "odd_rows", "row_by_row"])
def test_special_values_and_ties(shape: str, dtype: torch.dtype, generator: torch.Generator, force: Force) -> None:
    """torch's winners, of small whole numbers with many ties, and of NaN, infinities and signed zeros."""
    *_, convolution, plans = SHAPES[shape]
    x, w, b = draw(shape, dtype, generator, True, whole=True)
    for value in (math.nan, math.inf, -math.inf):
        x[torch.rand(x.shape, generator=generator).to(DEVICE) < 0.01] = value
    wanted, wanted_offsets = reference.forward(x.float(), w.float(), b.float(), *convolution, *POOL, True)
    assert wanted.isnan().any()
    for plan in plans:
        force(plan)
        output, offsets = native.forward(x, w, b, *convolution, *POOL, True)
        assert_same(output, wanted.to(dtype), "output")
        if dtype == torch.float32:  # in others the reference would have to round before it compares
            assert_same(offsets, wanted_offsets, "offsets")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_windows_compare_rounded_values(dtype: torch.dtype, generator: torch.Generator, force: Force) -> None:
    """A 1x1 filter of ones: sums that differ by less than the rounding are a tie, and the first of them wins."""
    x = torch.zeros(1, 8, 7, 9)
    x[:, 0], x[:, 1] = 1.0, torch.rand(7, 9, generator=generator) * 2**-6
    w = torch.ones(8, 8, 1, 1)
    x, w = (tensor.to(dtype).to(DEVICE).contiguous(memory_format=torch.channels_last) for tensor in (x, w))
    geometry = ((1, 1), (0, 0), (1, 1), 1)
    rounded = (x[:, :1].float() + x[:, 1:2].float()).to(dtype)
    wanted, offsets = max_pool2d.forward(rounded.expand(1, 8, 7, 9).contiguous(), *POOL, (1, 1), False, True)
    force(Plan(2, 3, 2))
    ours = native.forward(x, w, None, *geometry, *POOL, True)
    all_same([tensor.contiguous() for tensor in ours], (wanted, offsets))
    zeros = native.forward(-x.abs() * 0.0, w, None, *geometry, *POOL, True)
    assert bool((zeros[0] == 0).all())
    assert bool((zeros[1] == CLIPPED[torch.uint8]).all())


def test_unaligned_results_are_written_one_by_one(
    generator: torch.Generator, force: Force, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that starts anywhere, which planned results never do: the same values."""
    *_, convolution, plans = SHAPES["odd_rows"]
    x, w, b = draw("odd_rows", torch.float16, generator, True)
    force(plans[0])
    wanted = native.forward(x, w, b, *convolution, *POOL, True)

    def shifted(spec: Any, device: torch.device) -> Tensor:
        span = 1 + sum((size - 1) * step for size, step in zip(spec.shape, spec.stride, strict=True))
        return torch.empty(span + 1, dtype=spec.dtype, device=device)[1:].as_strided(spec.shape, spec.stride)

    monkeypatch.setattr(native, "empty", shifted)
    ours = [native.forward(x, w, b, *convolution, *POOL, False)[0], *native.forward(x, w, b, *convolution, *POOL, True)]
    assert all(tensor.data_ptr() % 8 != 0 for tensor in ours)
    all_same(ours, (wanted[0], *wanted))


@pytest.mark.parametrize("plan", [Plan(0, 1, 1), Plan(1, 64, 1), Plan(2, 32, 1), Plan(1, 0, 1), Plan(1, 1, 0)], ids=str)
def test_plans_that_cannot_be(plan: Plan, generator: torch.Generator, force: Force) -> None:
    x, w, b = draw("one_window", torch.float32, generator, True)
    force(plan)
    with pytest.raises(RuntimeError, match="conv2d_relu.*: no (such plan|tile)"):
        native.forward(x, w, b, *SHAPES["one_window"][2], *POOL, True)


@pytest.mark.parametrize(
    "pool",
    [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((3, 3), (1, 1), (0, 0)), ((3, 2), (2, 3), (1, 0))],
    ids=str,
)
def test_other_windows_go_the_separate_way(pool: Any, generator: torch.Generator, force: Force) -> None:
    """Whatever is chosen for the fused kernel's own window."""
    x, w, b = draw("conv2", torch.float32, generator, True)
    convolution = SHAPES["conv2"][2]
    force(Plan(1, 1, 1))
    output, offsets = native.forward(x, w, b, *convolution, *pool, True)
    assert output.shape == offsets.shape
    hold_to_torchs(output, x, w, b, *convolution, *pool)


@pytest.mark.parametrize("needs", [(True, True, True), (False, True, False), (True, False, True), (False, False, True)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "pool"),
    [
        ("conv2", POOL),  # in vectors
        ("groups", POOL),  # channels of a group padded, one by one
        ("uneven", ((2, 3), (1, 2), (1, 0))),
        ("conv2", ((2, 2), (2, 2), (0, 0))),  # another window, in vectors
        ("row_by_row", ((17, 17), (9, 9), (8, 8))),  # offsets of four bytes
    ],
    ids=lambda value: str(value),
)
def test_backward(
    shape: str, pool: Any, dtype: torch.dtype, needs: tuple[bool, bool, bool], generator: torch.Generator
) -> None:
    """Gradients of strides that are not the output's, masked, gathered and summed in one pass."""
    convolution = SHAPES[shape][2]
    for channels_last in (True, False):
        x, w, b = draw(shape, dtype, generator, channels_last)
        output, offsets = native.forward(x, w, b, *convolution, *pool, True)
        grad = torch.randn(output.shape[::-1], generator=generator).to(dtype).to(DEVICE).permute(3, 2, 1, 0)
        arguments = (x, w, offsets, *convolution, *pool, needs)
        with canaries() as buffers:
            ours = native.backward(grad, *arguments)
            again = native.backward(grad, *arguments)
        assert buffers and [gradient is not None for gradient in ours] == list(needs)
        hold(ours, lambda *given, numbers=arguments[3:]: reference.backward(*given, *numbers), grad, x, w, offsets)
        all_same(again, ours)


@pytest.mark.parametrize("chunks", [2, 64, 1024])  # a thread with many pixels, with few, with none
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_pass_gives_the_bits_of_pooling_and_mask(
    dtype: torch.dtype, chunks: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN gradients stop where the ReLU clipped; padding is 0; sums are of the very values."""
    monkeypatch.setattr(native, "CHUNKS", chunks)
    offsets = torch.randint(0, 9, (3, 24, 4, 5), generator=generator, dtype=torch.uint8).to(DEVICE)
    clipped = torch.rand(offsets.shape, generator=generator).to(DEVICE) < 0.4
    grad = 2.0 ** torch.randint(-3, 4, offsets.shape, generator=generator).to(dtype).to(DEVICE)
    masked, grad = grad.masked_fill(clipped, 0), grad.masked_fill(clipped, math.nan)
    (wanted,) = max_pool2d.backward(masked, offsets, (3, 24, 9, 12), True, *POOL, (1, 1), False, (True,))
    offsets.masked_fill_(clipped, CLIPPED[offsets.dtype])
    for groups in (1, 2, 8):
        for layout in (torch.channels_last, torch.contiguous_format):
            tensors = [tensor.contiguous(memory_format=layout) for tensor in (grad, offsets)]
            with canaries():
                packed, sums = native._unpooled(*tensors, pooling((3, 24, 9, 12), *POOL), groups, True)
            memory = packed.memory.view(3, 9, 12, groups, packed.channels)
            ours = memory[..., : 24 // groups].flatten(3).permute(0, 3, 1, 2)
            assert_same(ours, wanted, "gradient")
            assert bool((memory[..., 24 // groups :] == 0).all())
            assert_same(sums, masked.double().sum((0, 2, 3)).to(dtype), "bias's gradient")


@pytest.mark.parametrize("capability", [(8, 6), (8, 9), (12, 0)], ids=str)
def test_no_plan_takes_more_shared_memory_than_a_block_may_have(capability: tuple[int, int]) -> None:
    """Of many sizes, some of which take more where they may."""
    chip, more = like("GeForce", capability, 16, SMALL_BLOCK), 0
    for Q, P, dtype in itertools.product(range(3, 300, 4), (3, 15), DTYPES[:2]):
        problem = native.problem_of(dtype, False, Geometry(64, 8, P, Q, 16, 1, 1, *ONE, 1), True)
        plan, _, _ = native.compare(problem, chip)
        assert plan is not None and plan.shared_bytes(dtype.itemsize) <= SMALL_BLOCK
        wide, _, _ = native.compare(problem, replace(chip, shared_memory=CHIPS["A100"].shared_memory))
        more += wide.shared_bytes(dtype.itemsize) > SMALL_BLOCK
    assert more > 50


def test_without_shared_memory_for_any_plan_there_are_two_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.empty((1, 8, 3, 127), device=DEVICE)
    geometry = Geometry(*x.shape, 8, 1, 1, *ONE, 1)
    assert native.plan_of(x, geometry, True) is not None
    monkeypatch.setattr(native, "chip_of", lambda _: replace(CHIPS["A100"], num_sms=1, shared_memory=48 * 1024))
    assert native.plan_of(x, geometry, True) is None


@pytest.mark.skipif(DEVICE.type != "cpu", reason="on the emulator")
def test_blocks_of_99_kib(generator: torch.Generator, force: Force, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan for an A100 cannot be launched; the one for a chip of such blocks gives the bits of two kernels."""
    x = torch.randn((1, 8, 3, 127), generator=generator).contiguous(memory_format=torch.channels_last)
    arguments = (x, torch.randn((8, 8, 1, 1), generator=generator), None, *ONE, 1, *POOL, True)
    module = emulated.load()
    module.set_shared_memory_per_block(SMALL_BLOCK)
    try:
        with pytest.raises(RuntimeError, match=f"bytes of shared memory asked for, a block can have {SMALL_BLOCK}"):
            native.forward(*arguments)
        monkeypatch.setattr(cuda, "EMULATED", replace(cuda.EMULATED, shared_memory=SMALL_BLOCK))
        launched = noted(monkeypatch, native)
        found = native.forward(*arguments)
        force(None)
        wanted = native.forward(*arguments)
    finally:
        module.set_shared_memory_per_block(CHIPS["H200"].shared_memory)
    assert launched == [FUSED]
    all_same(found, wanted)


def test_the_dispatchers_lists_go_the_way_of_pairs(
    generator: torch.Generator, force: Force, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(Plan(1, 10, 9))
    launched = noted(monkeypatch, native)
    x, w, b = draw("odd_rows", torch.float16, generator, True)
    arguments = (*SHAPES["odd_rows"][2], *POOL, True)
    found = torch.ops.alexkern.conv2d_relu_max_pool2d("cuda", x, w, b, *arguments)
    assert launched == [FUSED]
    all_same(found, native.forward(x, w, b, *arguments))


def make_cheaper(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison gives the plan that it would, and this way the lesser time."""
    compare = native.compare

    def one_is_cheaper(*arguments: Any) -> Any:
        plan, _, _ = compare(*arguments)
        times = (1.0, 2.0) if way == "fused" else (2.0, 1.0)
        return plan, *times

    monkeypatch.setattr(native, "compare", one_is_cheaper)


@pytest.mark.parametrize("cheaper", ["fused", "separate"])
def test_a_call_follows_the_comparison(
    cheaper: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel that runs is that of the lesser time."""
    launched = noted(monkeypatch, native)
    make_cheaper(cheaper, monkeypatch)
    x, w, b = draw("odd_rows", torch.float16, generator, True)
    convolution = SHAPES["odd_rows"][2]
    output, _ = native.forward(x, w, b, *convolution, *POOL, False)
    assert launched == ([FUSED] if cheaper == "fused" else [])
    hold_to_torchs(output, x, w, b, *convolution, *POOL)


# Each with the kernel that a GPU of compute capability 9.0 takes where the fused one is the faster.
ON_HOPPER = {
    "served": ((1, 16, 9, 9), (16, 16, 3, 3), ((1, 1), (1, 1), (1, 1), 1), "sm90_convolve"),
    "served in depth": ((1, 3, 39, 31), (20, 3, 11, 11), ((4, 4), (2, 2), (1, 1), 1), "sm90_convolve"),
    "three channels": ((1, 3, 9, 9), (16, 3, 3, 3), ((1, 1), (1, 1), (1, 1), 1), FUSED),
    "an odd number of filters": ((1, 16, 9, 9), (9, 16, 3, 3), ((1, 1), (1, 1), (1, 1), 1), FUSED),
    "groups of 24 channels": ((1, 48, 9, 9), (16, 24, 3, 3), ((1, 1), (1, 1), (1, 1), 2), FUSED),
}


@pytest.mark.skipif(DEVICE.type != "cpu", reason="on the emulator")
@pytest.mark.parametrize("shape", ON_HOPPER)
def test_hopper_fuses_what_its_own_products_do_not_serve(
    shape: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", "9.0")
    make_cheaper("fused", monkeypatch)
    launched = noted(monkeypatch, native, conv2d_relu, sm90)
    input, filters, convolution, wanted = ON_HOPPER[shape]
    x, w = (torch.randn(size, generator=generator).half() for size in (input, filters))
    output, _ = native.forward(x, w, None, *convolution, *POOL, False)
    assert [name for name in launched if name.endswith(("convolve", "pool2d_forward"))] == [wanted]
    hold_to_torchs(output, x, w, None, *convolution, *POOL)


@pytest.mark.parametrize("what", ["the convolution", "the convolution with pooling", "packing", "the weight gradient"])
def test_more_blocks_than_a_grid_has_are_an_error(what: str) -> None:
    """And no smaller grid: 2**32 are wanted, or a few thousand times as many."""
    N, many = 2**30, 2**30
    of = Geometry(N, 4, 1, 1, 4, 1, 1, *ONE, 4)
    module, shape, nowhere = emulated.load(), (N, 4, 1, 1), (0, 0, 0, 0)
    tile = module.conv2d_relu_max_pool2d_first_tile
    call: dict[str, tuple[str, tuple[Any, ...]]] = {
        "the convolution": ("conv2d_relu_convolve", (False, of, False, 0, 4, 0, 0, 0, 4, 0, nowhere, (0, many))),
        "the convolution with pooling": (FUSED, (False, of, 0, 4, 0, 0, 0, shape, nowhere, 0, (tile, 1, 1))),
        "packing": ("conv2d_relu_pack", (0, shape, nowhere, 0, nowhere, 0, 0, 256, 64, many)),
        "the weight gradient": ("conv2d_relu_weight_gradient", (False, of, 0, 4, 0, 4, 0, (0, many))),
    }
    name, arguments = call[what]
    with pytest.raises(RuntimeError, match=f"{what}: too large for one grid$"):
        getattr(module, name)(0, *arguments, 0)
