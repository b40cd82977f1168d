"""conv2d_relu's kernels for compute capability 9.0: every tile and split, AlexNet's layers, and what falls back.

On the CPU they run emulated, TMA's copies and wgmma's products early or late by seed; on a GPU where it is one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conformance import test_accuracy
from torch import Tensor

from alexkern.backends.cuda import conv2d_relu, emulated, launch, sm90, space_to_depth
from alexkern.backends.torch import conv2d_relu as reference
from alexkern.cost import sm90 as model
from alexkern.cost.chips import CHIPS, like
from alexkern.cost.sm90 import BLOCK_N, Choice, Work, block_k_of, choose, linear_work, modelled_cycles
from alexkern.geometry import Geometry
from support import convolution
from support.backends import DEVICE, HALVES, serving
from support.cases import ALEXNET_CONVOLUTIONS, CASES, Case
from support.convolution import ONE, Args, check
from support.launches import noted

pytestmark = [
    pytest.mark.skipif("cuda" not in serving("conv2d_relu"), reason="the CUDA kernels do not run here"),
    pytest.mark.skipif(
        DEVICE.type == "cuda" and torch.cuda.get_device_capability() != sm90.CAPABILITY,
        reason="for GPUs of compute capability 9.0",
    ),
]


@pytest.fixture(autouse=True)
def emulated_sm90(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", "9.0")
    yield
    seed(0)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was launched, sm_80's kernels and these."""
    return noted(monkeypatch, conv2d_relu, sm90, space_to_depth)


def seed(number: int) -> None:
    if DEVICE.type == "cpu":
        emulated.load().set_seed(number)


def draw(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, w, b = convolution.draw(*given)
    x, w = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, w))
    return x, w, b


Force = Callable[..., None]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    def force(block_n: int, splits: int, cluster: int = 1) -> None:
        """Whatever would be chosen: this tile, or the nearest that there is, in so many splits, by so many blocks."""

        def choose(_: object, work: Work, weight: bool) -> tuple[int, int, int]:
            tile = min(block_n, 128) if work.block_k == 48 else block_n
            tile = {96: 64, 192: 256}.get(tile, tile) if weight else tile
            return tile, min(splits, work.steps), 1 if weight else cluster

        monkeypatch.setattr(sm90, "choose", choose)

    return force


@pytest.mark.parametrize(
    ("of", "splits"),
    [
        (Geometry(2**10, 8, 32, 32, 2**25, 1, 1, (1, 1), (0, 0), (1, 1), 1), 1),  # 2**32 tiles, of a step each
        (Geometry(1, 2**30, 1, 1, 8, 1, 1, (1, 1), (0, 0), (1, 1), 1), 2**8),  # 2**8 splits, of 2**24 steps in all
    ],
)
def test_more_tiles_or_steps_than_a_launch_has_are_an_error(of: Geometry, splits: int) -> None:
    nothing = torch.empty(0, dtype=torch.float16, device=DEVICE)
    pointers, drop = (0, 0, 2**20, 0), (0, 0, 0, 1.0)
    with pytest.raises(RuntimeError, match="too many tiles for one launch"):
        launch("sm90_convolve", nothing, of, False, 0, of.C, *pointers, *drop, (64, splits, 1), 132)


ALL_THREE = ["sm90_convolve", "sm90_convolve", "sm90_weight_gradient"]
SHAPES = {
    # Tiles that end within an image, pixels and filters that no tile divides, channels of a step and a half.
    "ragged": ((3, 104, 7, 9), (168, 104, 3, 3), ONE),
    "groups": ((2, 128, 6, 5), (128, 64, 3, 2), ((1, 1), (2, 0), (1, 1), 2)),
    "small steps": ((3, 48, 8, 7), (72, 48, 2, 3), ((1, 1), (0, 2), (1, 2), 1)),
}


@pytest.mark.parametrize("choice", list(itertools.product(BLOCK_N, (1, 3))), ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.full)], ids=str)
def test_every_tile_and_split(
    force: Force, launched: list[str], dtype: torch.dtype, shape: str, choice: Any, generator: torch.Generator
) -> None:
    force(*choice)
    seed(sum(choice))
    input, filters, args = SHAPES[shape]
    check(*draw(dtype, generator, input, filters), args, generator)
    assert [name for name in launched if "sm90" in name] == ALL_THREE
    assert "conv2d_relu_convolve" not in launched and "conv2d_relu_weight_gradient" not in launched


def test_steps_over_the_ends_of_rows_and_images(force: Force, generator: torch.Generator) -> None:
    """Ten steps of the weight gradient, which carry from columns to rows and from rows to images."""
    force(64, 1)
    check(*draw(torch.float16, generator, (17, 16, 5, 7), (8, 16, 3, 3)), ONE, generator)


def test_same_bits_whenever_copies_and_products_take_effect(force: Force, generator: torch.Generator) -> None:
    """Nine seeds: copies and products, each late, early and mixed; by blocks of their own, and by twos."""
    tensors = draw(torch.bfloat16, generator, *SHAPES["groups"][:2])
    state, first = generator.get_state(), None
    for cluster, number in itertools.product((1, 2), range(9)):
        force(64, 2, cluster)
        seed(number)
        generator.set_state(state)
        found = check(*tensors, SHAPES["groups"][2], generator)
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True))


# By how many tiles of 128 rows the output has, and its data gradient, where that is another number.
CLUSTERED = {
    "one tile": ((1, 64, 6, 9), (72, 64, 3, 3), ONE),
    "two": ((3, 104, 8, 9), (168, 104, 3, 3), ONE),
    "three and four": ((6, 48, 9, 8), (104, 48, 3, 2), ((1, 1), (0, 1), (1, 1), 1)),
    "four and five": ((8, 64, 8, 9), (64, 64, 2, 3), ((1, 1), (0, 0), (1, 1), 1)),
    "three of two groups": ((6, 128, 9, 7), (128, 64, 3, 3), ((1, 1), (1, 1), (1, 1), 2)),
}


@pytest.mark.parametrize("block_n", [64, 192, 256, *(pytest.param(n, marks=pytest.mark.full) for n in (96, 128))])
@pytest.mark.parametrize("shape", CLUSTERED)
def test_clusters_give_the_same_bits(
    force: Force,
    monkeypatch: pytest.MonkeyPatch,
    launched: list[str],
    shape: str,
    block_n: int,
    generator: torch.Generator,
) -> None:
    """One cluster that takes pair after pair, or two; sums in three splits for every other tile."""
    input, filters, args = CLUSTERED[shape]
    tensors, splits = draw(torch.bfloat16, generator, input, filters), 3 if block_n in (96, 192) else 1
    if DEVICE.type == "cpu":
        monkeypatch.setattr(sm90, "EMULATED", replace(sm90.EMULATED, num_sms=5 if block_n > 128 else 2))
    state, found = generator.get_state(), []
    for cluster in (1, 2):
        force(block_n, splits, cluster)
        seed(block_n + len(shape))
        generator.set_state(state)
        found.append(check(*tensors, args, generator))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert [name for name in launched if "sm90" in name] == 2 * ALL_THREE


def test_a_choice_that_there_is_not_is_an_error(force: Force, generator: torch.Generator) -> None:
    force(64, 1, 3)
    with pytest.raises(RuntimeError, match="no clusters of 3 blocks"):
        check(*draw(torch.float16, generator, *SHAPES["ragged"][:2]), ONE, generator)


# AlexNet's: channels and size of its images, and the few pixels of the quick half; filters.
LAYERS = {
    "conv1": (48, (57, 57), (9, 8), (64, 48, 3, 3), ((1, 1), (0, 0), (1, 1), 1)),  # after space-to-depth
    "conv2": (64, (27, 27), (7, 6), (192, 64, 5, 5), ((1, 1), (2, 2), (1, 1), 1)),
    "conv3": (192, (13, 13), (5, 6), (384, 192, 3, 3), ONE),
    "conv4": (384, (13, 13), (5, 6), (256, 384, 3, 3), ONE),
    "conv5": (256, (13, 13), (5, 6), (256, 256, 3, 3), ONE),
    "conv2 of 2012": (96, (27, 27), (7, 6), (256, 48, 5, 5), ((1, 1), (2, 2), (1, 1), 2)),
    "conv4 of 2012": (384, (13, 13), (5, 6), (384, 192, 3, 3), ((1, 1), (1, 1), (1, 1), 2)),
}


@pytest.mark.parametrize(
    ("dtype", "batch", "whole"),
    [
        (torch.bfloat16, 1, False),
        *(pytest.param(dtype, batch, True, marks=pytest.mark.full) for dtype in HALVES for batch in (1, 3)),
    ],
)
@pytest.mark.parametrize("layer", LAYERS)
def test_layer(
    layer: str, dtype: torch.dtype, batch: int, whole: bool, launched: list[str], generator: torch.Generator
) -> None:
    channels, size, pixels, filters, args = LAYERS[layer]
    seed(len(layer) + channels)
    check(*draw(dtype, generator, (batch, channels, *(size if whole else pixels)), filters), args, generator)
    assert [name for name in launched if "sm90" in name] == ALL_THREE


@pytest.mark.full
@pytest.mark.parametrize("number", range(30))
def test_drawn_convolutions(number: int, generator: torch.Generator) -> None:
    generator.manual_seed(number)
    seed(number)

    def pick(*values: int) -> int:
        return values[int(torch.randint(len(values), (1,), generator=generator))]

    groups = pick(1, 1, 2)
    channels = pick(48, 64) * pick(1, 2) if groups > 1 else pick(8, 24, 48, 64, 72, 104, 144)
    kernel, dilation, padding = (pick(1, 2, 3, 5), pick(1, 3)), (pick(1, 2), pick(1, 2)), (pick(0, 1, 3), pick(0, 2))
    # Not beyond the filter: there torch's own bfloat16 convolution of a 1 x 1 filter crashes on CPUs.
    reach = tuple((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
    padding = (min(padding[0], reach[0]), min(padding[1], reach[1]))
    size = tuple(taps + pick(1, 4, 9) for taps in reach)
    input = (pick(1, 2, 5), channels * groups, *size)
    filters = (pick(2, 8, 70, 136) * groups, channels, *kernel)
    stride = (pick(1, 2), pick(1, 3))
    check(*draw(HALVES[number % 2], generator, input, filters), (stride, padding, dilation, groups), generator)


CONFORMANCE = [
    pytest.param(case, dtype, id=f"{case}-{dtype}", marks=[] if quick else [pytest.mark.full])
    for case in CASES
    if case.operator.startswith("conv2d_relu")
    for dtype in HALVES
    for quick in [dtype == torch.float16 and case not in ALEXNET_CONVOLUTIONS]
]


@pytest.mark.parametrize(("case", "dtype"), CONFORMANCE)
def test_conformance(case: Case, dtype: torch.dtype, generator: torch.Generator) -> None:
    test_accuracy.test_values_and_gradients(case, "cuda", dtype, generator)


def test_contiguous_images_give_contiguous_results(launched: list[str], generator: torch.Generator) -> None:
    x, w, b = (tensor.contiguous() for tensor in draw(torch.float16, generator, (2, 64, 6, 6), (24, 64, 3, 3)))
    output, x_grad, *_ = check(x, w, b, ONE, generator)
    assert output.is_contiguous() and x_grad.is_contiguous()
    assert [name for name in launched if "sm90" in name] == ALL_THREE


def test_nan_and_infinities_stay_where_they_belong(generator: torch.Generator) -> None:
    """A NaN reaches the outputs whose windows hold it and no others, ReLU and groups included."""
    x, w, _ = draw(torch.bfloat16, generator, (1, 96, 8, 8), (128, 48, 3, 3))
    x[0, 5, 2, 3] = math.nan
    x[0, 50, 6, 6] = math.inf  # of the second group, and brought with the first one's 48 channels
    args: Args = ((1, 1), (1, 1), (1, 1), 2)
    output = conv2d_relu.forward(x, w, None, *args)
    wanted = reference.forward(x.float(), w.float(), None, *args)
    assert torch.equal(output.isnan(), wanted.isnan())
    assert torch.equal(output.isinf(), wanted.isinf())


@pytest.mark.parametrize("block_n", BLOCK_N)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_same_bits_where_sums_are_exact(
    force: Force, dtype: torch.dtype, block_n: int, generator: torch.Generator
) -> None:
    """Bias, ReLU, one rounding, and every value in its place: of NaN a NaN, of negatives +0, however small they are."""
    force(block_n, 1)
    pixels = torch.randint(-4, 5, (1, 64, 10, 15), generator=generator).double()
    filters = torch.randint(-1, 2, (block_n + 8, 64, 1, 1), generator=generator).double()
    biases = torch.tensor([0.0, -0.0, 0.3, -1e-7, 1e-7, 1000.1, math.inf, -math.inf, math.nan, -7.3, 2.5])
    x, w = (tensor.to(dtype).to(DEVICE, memory_format=torch.channels_last) for tensor in (pixels, filters))
    b = biases.repeat(25)[: block_n + 8].to(dtype).to(DEVICE)
    output = conv2d_relu.forward(x, w, b, (1, 1), (0, 0), (1, 1), 1)
    wanted = (torch.einsum("nchw,kcij->nkhw", x.float(), w.float()) + b.float().view(-1, 1, 1)).relu().to(dtype)
    assert torch.equal(output.isnan(), wanted.isnan())
    assert torch.equal(output.nan_to_num().view(torch.int16), wanted.nan_to_num().view(torch.int16))


FALLBACKS = {
    "channels that are no whole copies": ((2, 3, 9, 9), (16, 3, 3, 3), ONE),
    "an odd number of filters": ((2, 16, 6, 6), (9, 16, 3, 3), ONE),
    "groups that a step would overrun": ((2, 48, 6, 6), (16, 24, 3, 3), ((1, 1), (1, 1), (1, 1), 2)),
}


@pytest.mark.parametrize("why", FALLBACKS)
def test_others_are_served_by_the_kernels_for_sm_80(why: str, launched: list[str], generator: torch.Generator) -> None:
    input, filters, args = FALLBACKS[why]
    check(*draw(torch.float16, generator, input, filters), args, generator)
    assert next(name for name in launched if name.endswith("convolve")) == "conv2d_relu_convolve"


# Of one side: size, taps, stride, padding, dilation. The last that TMA's im2col mode has, and the first beyond it.
SIDES = [
    ((1, 1, 1, 0, 1), (0, 1, 1, 0, 1)),
    ((4, 1, 1, 127, 1), (4, 1, 1, 128, 1)),  # the last corner
    ((4, 3, 1, 128, 1), (4, 3, 1, 129, 1)),  # the first
    ((160, 129, 1, 0, 1), (160, 130, 1, 0, 1)),
    ((9, 1, 8, 0, 1), (9, 1, 9, 0, 1)),
    ((9, 2, 1, 127, 254), (9, 2, 1, 127, 255)),
    ((9, 3, 1, 127, 127), (9, 3, 1, 128, 128)),
]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("last, beyond", SIDES)
def test_what_tma_gathers(last: tuple[int, ...], beyond: tuple[int, ...], side: int) -> None:
    def served(*sizes: int) -> bool:
        (H, W), (R, S), *pairs = (
            (size, other)[:: 1 - 2 * side] for size, other in zip(sizes, (5, 2, 1, 1, 1), strict=True)
        )
        return sm90.serves(torch.empty(1, dtype=torch.half, device=DEVICE), Geometry(2, 16, H, W, 8, R, S, *pairs, 1))

    assert served(*last) and not served(*beyond)


def test_most_rows_and_whole_copies() -> None:
    value, pairs = torch.empty(8, dtype=torch.half, device=DEVICE), ((1, 1), (0, 0), (1, 1))
    for rows, channels in ((1, 8), (0, 8), (sm90.MOST_ROWS, 8), (sm90.MOST_ROWS + 1, 8), (3, 12)):
        served = 0 < rows <= sm90.MOST_ROWS and channels == 8
        assert sm90.serves(value, Geometry(rows, channels, 1, 1, 8, 1, 1, *pairs, 1)) == served
        x, weight = torch.empty(rows, channels, device="meta"), torch.empty(8, channels, device=DEVICE)
        assert (sm90.plan_linear(x, weight, value) is not None) == served


@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (2, 1)])
def test_strided_data_gradient_falls_back_alone(
    stride: tuple[int, int], launched: list[str], generator: torch.Generator
) -> None:
    check(*draw(torch.float16, generator, (2, 16, 9, 9), (16, 16, 3, 3)), (stride, (1, 1), (1, 1), 1), generator)
    served = [name for name in launched if name.endswith(("convolve", "weight_gradient"))]
    assert served == ["sm90_convolve", "conv2d_relu_convolve", "sm90_weight_gradient"]


def test_float32_and_older_gpus_are_not_served(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    x, *_ = draw(torch.float32, generator, (1, 16, 4, 4), (16, 16, 3, 3))
    assert sm90.device_of(x) is None and sm90.device_of(x.half()) is not None
    if DEVICE.type == "cpu":
        for capability in ("8.0", "8.9", "10.0"):
            monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", capability)
            assert sm90.device_of(x.half()) is None


@pytest.mark.parametrize(
    ("targets", "capability", "serves"),
    [
        (("sm_80", "sm_90a"), (9, 0), True),
        (("sm_80", "compute_80"), (9, 0), False),
        (("sm_90a",), (8, 0), False),
        (("sm_90a",), (10, 0), False),
    ],
)
def test_gpu_and_module_have_to_be_for_each_other(
    monkeypatch: pytest.MonkeyPatch, targets: tuple[str, ...], capability: tuple[int, int], serves: bool
) -> None:
    chip = like("NVIDIA H100 PCIe", capability, 114, 232448)
    module = SimpleNamespace(targets=targets)
    monkeypatch.setattr(sm90.extension.cuda, "module", module)
    monkeypatch.setattr(sm90, "here", lambda _: chip)
    sm90._gpu.cache_clear()
    found = sm90._gpu(0)
    sm90._gpu.cache_clear()
    assert found == ((module, chip) if serves else None)


# Pixels of an image, filters, steps of 64 or 48 channels, groups, channels of a step: conv1 to conv5, conv2 of 2012.
PRODUCTS = ((3025, 64, 9, 1, 48), (729, 192, 25, 1, 64), (169, 384, 27, 1, 64), (169, 256, 54, 1, 64),
            (169, 256, 36, 1, 64), (729, 128, 25, 2, 48))  # fmt: skip
WORKS = [
    *(Work(2**power * pixels, *sizes, False) for pixels, *sizes in PRODUCTS for power in range(12)),
    *(
        linear_work(batch, features, channels)
        for features, channels in ((4096, 9216), (4096, 4096), (1000, 4096))  # fc6 to fc8
        for batch in (17, 32, 64, 100, 128, 129, 192, 256, 384, 512, 768, 1024)
    ),
]


@pytest.mark.parametrize("multiprocessors", [114, 132])  # an H100 for PCIe; those for SXM, and the H200
def test_the_choice_is_the_fastest_by_the_model(multiprocessors: int) -> None:
    chip = replace(CHIPS["H200"], num_sms=multiprocessors)
    for work in WORKS:
        tiles, splits = BLOCK_N[:3] if work.block_k == 48 else BLOCK_N, range(1, max(work.steps // 4, 1) + 1)
        alone, shared = (
            min(modelled_cycles(work, Choice(*choice, cluster), chip) for choice in itertools.product(tiles, splits))
            for cluster in (1, 2)
        )
        chosen = choose(work, chip)
        # Two blocks share filters where that gains a twentieth, and no more than the filters are of the bytes.
        assert chosen.cluster == (2 if shared < 0.95 * alone else 1) and shared > 0.8 * alone
        assert modelled_cycles(work, chosen, chip) == (alone, shared)[chosen.cluster - 1]
        # Nothing is faster than the tensor cores, or than memory.
        busy = work.gemm_m * work.gemm_n * work.batches * work.steps * work.block_k / (2048 * multiprocessors)
        assert modelled_cycles(work, chosen, chip) > max(busy, work.bytes / chip.memory_bytes)


def test_the_model_gives_clusters_pairs_of_tiles_and_of_multiprocessors() -> None:
    def cycles(tiles: int, cluster: int, multiprocessors: int) -> float:
        chip = replace(CHIPS["H200"], num_sms=multiprocessors)
        return modelled_cycles(Work(128 * tiles, 64, 9, 1, 64, False), Choice(64, 1, cluster), chip)

    assert cycles(3, 2, 2) == cycles(4, 2, 2) > cycles(2, 2, 2) == cycles(1, 2, 2)  # a pair is whole
    assert cycles(6, 2, 5) == cycles(6, 2, 4) > cycles(6, 2, 6)  # one of five has no partner
    assert cycles(2, 2, 2) < cycles(2, 1, 2)


def test_steps_are_whole_rows_but_for_48_channels_and_the_kernels_have_what_the_model_counts_with() -> None:
    module = sm90.extension.cuda.module if DEVICE.type == "cuda" else emulated.load()
    assert module is not None
    wanted = {8: 64, 40: 64, 48: 48, 56: 64, 64: 64, 96: 64, 192: 64}
    assert {channels: block_k_of(channels) for channels in wanted} == wanted
    assert all(module.sm90_block_k_of(channels) == block_k_of(channels) for channels in range(1, 1000))
    block_m, block_n, weight_block_n = module.sm90_tiles
    assert (block_m, tuple(block_n), tuple(weight_block_n)) == (model.BLOCK_M, model.BLOCK_N, model.WEIGHT_BLOCK_N)
    assert module.sm90_block_k == (model.SMALL_BLOCK_K, model.LARGE_BLOCK_K)
