"""space_to_depth's CUDA kernels: every dtype and layout, and the first layer through them on GPUs of either kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.cuda import conv2d_relu, emulated, sm90, space_to_depth
from alexkern.backends.cuda.space_to_depth import SOURCES
from alexkern.backends.torch import conv2d_relu as reference
from alexkern.cost.chips import CHIPS
from alexkern.cost.sm80 import first_layer_times
from alexkern.geometry import Geometry
from support.backends import DEVICE, HALVES, serving
from support.canaries import canaries
from support.convolution import check
from support.launches import noted
from support.references import all_same

pytestmark = pytest.mark.skipif("cuda" not in serving("conv2d_relu"), reason="the CUDA kernels do not run here")

DTYPES = (torch.float32, *HALVES)
MEAN, STD = (0.485, 0.456, 0.406, 0.1), (0.229, 0.224, 0.225, 1.5)
NAN, INF = math.nan, math.inf


@pytest.fixture(params=["8.0", "9.0"])
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The GPU that the emulator stands for; with a GPU, that one."""
    if DEVICE.type == "cuda" and request.param == "9.0":
        pytest.skip("the GPU is what it is")
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", request.param)
    yield request.param
    if DEVICE.type == "cpu":
        emulated.load().set_seed(0)


@pytest.fixture
def always_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the model of the time says."""
    monkeypatch.setattr(space_to_depth, "first_layer_times", lambda *_: (1.0, 0.0))


def draw(dtype: torch.dtype, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if dtype == torch.uint8:
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(DEVICE)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def layouts(images: Tensor) -> dict[str, Tensor]:
    """The same numbers, or some of them, with other strides; of one address less aligned than torch's own."""
    N, C, H, W = images.shape
    shifted = images.new_empty(images.numel() + 1)[1:].view(images.shape).copy_(images)
    padded = images.new_empty(N, H, W, C + 1)[..., :C].permute(0, 3, 1, 2).copy_(images)
    return {
        "NCHW": images.contiguous(),
        "NHWC": images.contiguous(memory_format=torch.channels_last),
        "flipped": images.flip(3).transpose(2, 3),
        "every other": images[:, :, :, ::2],
        "expanded": images[:, :1].expand_as(images),
        "unaligned": shifted,
        "part of a pixel": padded,
    }


def wanted(images: Tensor, size: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """By torch's pad and pixel_unshuffle, whose channels are in another order, in float64."""
    N, C, H, W = images.shape
    (height, width), (top, left) = size, padding
    padded = F.pad(images.double(), (left, 4 * width - left - W, top, 4 * height - top - H))
    return F.pixel_unshuffle(padded, 4).view(N, C, 16, height, width).permute(0, 3, 4, 2, 1).flatten(3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("to", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", SOURCES, ids=str)
def test_relayout(dtype: torch.dtype, to: torch.dtype, channels: int, generator: torch.Generator) -> None:
    """Sizes that cut pixels off, reach beyond the image, and take two blocks a line."""
    shapes = [((2, 9, 16), (3, 5), (2, 1)), ((3, 8, 13), (1, 6), (0, 7)), ((1, 6, 262), (2, 67), (3, 2))]
    mean, std = (torch.tensor(row[:channels], dtype=torch.float64).view(-1, 1, 1) for row in (MEAN, STD))
    bytes_in = dtype == torch.uint8
    normalisation = (MEAN[:channels], STD[:channels]) if bytes_in else None
    for (N, H, W), size, padding in shapes:
        for name, images in layouts(draw(dtype, (N, channels, H, W), generator)).items():
            with canaries() as buffers:
                found, marks = space_to_depth.relayout(images, size, padding, to, normalisation)
            assert len(buffers) == 2 and not bool(marks.any())
            values = (images.double().cpu() / 255 - mean) / std if bytes_in else images.double().cpu()
            rounded = wanted(values, size, padding).to(to)
            assert found.dtype == to and found.shape == rounded.shape
            if bytes_in:  # three roundings in float32, before the last
                tolerance = 2e-6 if to == torch.float32 else torch.finfo(to).eps
                torch.testing.assert_close(found.cpu(), rounded, rtol=tolerance, atol=2e-6, msg=name)
            else:
                assert torch.equal(found.cpu(), rounded), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_marks_name_the_lines_that_are_not_finite(dtype: torch.dtype, generator: torch.Generator) -> None:
    for value in (NAN, INF, -INF):
        images = draw(dtype, (2, 3, 13, 300), generator)
        images[1, 2, 6, 280] = value  # row 8 of the padded image, pixel 70 of its third line
        _, marks = space_to_depth.relayout(images, (4, 76), (2, 1))
        lines = marks.view(2, 4, -1, 4).tolist()
        marked = [(n, i, j, a) for n in (0, 1) for i in range(4) for j in (0, 1) for a in range(4) if lines[n][i][j][a]]
        assert marked == [(1, 2, 1, 0)]
    _, marks = space_to_depth.relayout(images, (1, 76), (2, 1))
    assert not bool(marks.any()), "what is not read is not marked"


def test_a_cast_to_infinity_is_marked(generator: torch.Generator) -> None:
    images = draw(torch.float32, (1, 3, 8, 8), generator)
    images[0, 0, 0, 0] = 7e4
    assert bool(space_to_depth.relayout(images, (2, 2), (0, 0), torch.float16).marks.any())
    assert not bool(space_to_depth.relayout(images, (2, 2), (0, 0), torch.bfloat16).marks.any())


def test_what_tf32_rounds_to_infinity_is_marked() -> None:
    """TF32 has 10 bits behind the point: half a unit below the largest float is as far as it goes."""
    for bits, marked in ((0x7F7FF000, True), (0x7F7FEFFF, False), (0xFF7FF000 - 2**32, True)):
        images = torch.zeros((1, 1, 4, 4), dtype=torch.int32, device=DEVICE)
        images[0, 0, 3, 2] = bits
        _, marks = space_to_depth.relayout(images.view(torch.float32), (1, 1), (0, 0))
        assert marks.flatten().tolist() == [0, 0, 0, int(marked)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_filters_come_back(layout: torch.memory_format, generator: torch.Generator) -> None:
    filters = draw(torch.float16, (5, 3, 11, 7), generator).contiguous(memory_format=layout)
    found = torch.empty_like(filters)
    space_to_depth.back(conv2d_relu.filters_in_depth(filters), found)
    assert torch.equal(found, filters)


FIRST = {  # input, filters, padding
    "alexnet": ((2, 3, 31, 27), (64, 3, 11, 11), (2, 2)),
    "2012": ((1, 3, 35, 35), (96, 3, 11, 11), (0, 0)),
    "four channels": ((3, 4, 18, 23), (8, 4, 5, 2), (1, 3)),
    "one channel": ((3, 1, 18, 23), (9, 1, 8, 9), (3, 0)),
    "whole blocks": ((2, 3, 17, 22), (8, 3, 8, 4), (1, 2)),
    "far beyond": ((1, 2, 6, 7), (10, 2, 3, 4), (9, 2)),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("layer", FIRST)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_first_layer(
    capability: str,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    layer: str,
    layout: torch.memory_format,
    generator: torch.Generator,
) -> None:
    """Twice with the same bits; where sm90's kernels serve it, whatever the model says."""
    launched = noted(monkeypatch, conv2d_relu, sm90, space_to_depth)
    input, filters, padding = FIRST[layer]
    x, w, b = (draw(dtype, shape, generator) for shape in (input, filters, filters[:1]))
    x, w = x.contiguous(memory_format=layout), (w / 8).contiguous(memory_format=layout)
    gradient = "conv2d_relu" if sm90.device_of(x) is None else "sm90"
    served = gradient if filters[0] % 2 == 0 else "conv2d_relu"  # sums are stored in pairs
    if served == "conv2d_relu":
        monkeypatch.setattr(space_to_depth, "first_layer_times", lambda *_: (1.0, 0.0))
    args, needs, state, results = ((4, 4), padding, (1, 1), 1), (False, True, True), generator.get_state(), []
    for seed in (0, 5):
        generator.set_state(state)
        if DEVICE.type == "cpu":
            emulated.load().set_seed(seed)
        results.append(check(x, w, b, args, generator, needs))
    all_same(*results)
    relayout, amended = "space_to_depth_relayout", any(size % 4 for size in filters[2:])
    forward = [relayout, relayout, f"{served}_convolve", *["space_to_depth_amend"] * amended]
    kinds = ("relayout", "convolve", "amend", "weight_gradient")
    assert [name for name in launched if name.endswith(kinds)] == 2 * [
        *forward,
        relayout,
        f"{gradient}_weight_gradient",
    ]


def test_no_images_and_no_outputs(capability: str, always_deep: None, generator: torch.Generator) -> None:
    for shape in ((0, 3, 31, 27), (0, 3, 11, 11)):
        x, w, b = draw(torch.float16, shape, generator), draw(torch.float16, (8, 3, 11, 11), generator), None
        output = conv2d_relu.forward(x, w, b, (4, 4), (2, 2), (1, 1), 1)
        grads = conv2d_relu.backward(output, x, w, output, (4, 4), (2, 2), (1, 1), 1, (False, True, False))
        assert output.shape[0] == 0 and grads[1] is not None and not bool(grads[1].any())


@pytest.mark.parametrize("kernel", [(11, 11), (4, 11), (11, 8), (5, 2), (8, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinities_stay_where_they_belong(
    capability: str, always_deep: None, dtype: torch.dtype, kernel: tuple[int, int], generator: torch.Generator
) -> None:
    """In every pixel of a block, so just beyond windows as well, whose outputs then are the finite ones of torch."""
    x = draw(dtype, (48, 3, 29, 27), generator)
    for number in range(48):  # a pixel of a block of 4 x 4 in each image
        x[number, number % 3, 8 + number // 4 % 4, 9 + number % 4] = (NAN, INF, -INF)[number // 16]
    # Positive, so that the sum of an infinity with numbers is that infinity for every order.
    w = (draw(dtype, (6, 3, *kernel), generator).abs() + 1) / 64
    b = draw(dtype, (6,), generator)
    args = ((4, 4), (2, 2), (1, 1), 1)
    found = conv2d_relu.forward(x, w, b, *args)
    right = reference.forward(x.double(), w.double(), b.double(), *args)
    assert bool(right.isnan().any()) and bool(right.isinf().any()) and bool(right.isfinite().any())
    assert torch.equal(found.isnan(), right.isnan())
    assert torch.equal(found.isinf(), right.isinf())
    torch.testing.assert_close(found.double(), right, rtol=2e-2, atol=2e-2, equal_nan=True)
    grad = draw(dtype, tuple(found.shape), generator)
    ours = conv2d_relu.backward(grad, x, w, found, *args, (False, True, False))[1]
    torchs = reference.backward(grad.double(), x.double(), w.double(), right, *args, (False, True, False))[1]
    assert torch.equal(ours.isfinite(), torchs.isfinite())


def test_images_with_nothing_finite(capability: str, always_deep: None) -> None:
    x, w = torch.full((2, 3, 23, 19), NAN, device=DEVICE).half(), torch.ones((8, 3, 11, 11), device=DEVICE).half()
    assert bool(conv2d_relu.forward(x, w, None, (4, 4), (2, 2), (1, 1), 1).isnan().all())


CONV1 = Geometry(1, 3, 224, 224, 64, 11, 11, (4, 4), (2, 2), (1, 1), 1)


def test_the_page_has_the_times_that_are_computed() -> None:
    """Many images pay for the passes, one does not; four channels are not padded, and go as they are."""
    page = (Path(__file__).parents[1] / "docs" / "cuda-convolution.md").read_text()
    for C, gradient in ((3, False), (3, True), (1, False), (4, False)):
        layers = [CONV1._replace(N=N, C=C) for N in (1, 16, 32, 128)]
        pairs = [first_layer_times(2, layer, gradient, C == 4, CHIPS["H200"]) for layer in layers]
        cells = " | ".join(f"{padded:.0f} / {deep:.0f}" for padded, deep in pairs)
        assert f"| {C}, {'weight gradient' if gradient else 'forward'} | {cells} |" in page


def test_other_convolutions_are_not_asked_for() -> None:
    assert space_to_depth.allows(CONV1) and space_to_depth.allows(CONV1._replace(C=4))
    changes = ({"C": 5}, {"C": 0}, {"stride": (4, 2)}, {"stride": (2, 2)}, {"dilation": (1, 2)}, {"groups": 3})
    for change in changes:
        assert not space_to_depth.allows(CONV1._replace(**change))
