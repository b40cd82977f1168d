"""Convolution in fewer products, by snapshots: only where it is right and pays."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

import alexkern
from alexkern.accuracy import assert_accurate, assert_same
from alexkern.backends import cpu, extension
from alexkern.backends.cpu import winograd
from alexkern.backends.cpu.crossovers import CONVOLUTIONS, measured
from alexkern.backends.cpu.packed_conv2d import InBlocks, InTiles
from alexkern.frozen.convolution import FrozenConvolution
from alexkern.geometry import Geometry
from alexkern.plan import is_channels_last

MISSING = cpu.missing("cpu", torch.float32)
ISA = None if MISSING is not None else measured()
served = pytest.mark.skipif(
    ISA is None or "packed" not in CONVOLUTIONS[ISA], reason=f"no convolution in fewer products: {MISSING or ISA}"
)

IN_BFLOAT16 = cpu.missing("cpu", torch.bfloat16) is None and "packed, bfloat16" in CONVOLUTIONS[measured()]


@served
@pytest.mark.parametrize(("M", "R", "C", "times"), [(2, 3, 256, 0.6), (4, 3, 256, 1.5), (2, 5, 64, 1.5)])
def test_rounding_errors(M: int, R: int, C: int, times: float, generator: torch.Generator) -> None:
    """The root of the mean square error, as docs/snapshots.md has it for AlexNet's layers."""
    image = torch.randn(4, C, 13, 13, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, C, R, R, generator=generator) / math.sqrt(C * R * R)
    of = Geometry(*image.shape, 128, R, R, (1, 1), (R // 2, R // 2), (1, 1), 1)
    output = winograd.convolve(image, winograd.pack(weight, of, M), None, False, True)
    assert output is not None
    reference, torchs = (F.conv2d(image.to(t), weight.to(t), padding=R // 2) for t in (torch.float64, torch.float32))
    ours, torchs = ((value - reference).square().mean().sqrt() for value in (output, torchs))
    assert ours < times * torchs


@served
@pytest.mark.parametrize(
    ("conv", "shape", "kernel"),
    [
        ((32, 32, 3, 1, 1), (40, 32, 8, 8), "max_pool2d"),
        ((3, 32, 11, 4, 2), (torch.get_num_threads(), 3, 99, 95), "winograd"),  # an image for each
    ],
    ids=["pooled behind it", "over blocks of pixels, pooled image by image"],
)
def test_what_is_not_finite_is_left_to_the_convolution(
    conv: tuple[int, ...], shape: tuple[int, ...], kernel: str, generator: torch.Generator
) -> None:
    model = nn.Sequential(nn.Conv2d(*conv), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)).eval()
    image, frozen = torch.randn(shape, generator=generator), alexkern.freeze(model)
    assert ("F(2x2, 3x3) of 4x4 pixels" in repr(frozen)) == (kernel == "winograd")
    assert frozen._current().steps[0].ways[0].serves(image)
    for value in (0.0, math.inf, math.nan):
        image[-1, 0, 4, 3] = value
        with torch.no_grad():
            torch.testing.assert_close(frozen(image), model(image), equal_nan=True)
        assert cpu.native().last_kernel().startswith("max_pool2d" if value else kernel)


@served
def test_only_plain_convolutions_of_enough_channels() -> None:
    def tiled(*settings: int, stride: int = 1, dilation: int = 1, groups: int = 1, dtype: torch.dtype = torch.float32):
        conv = nn.Conv2d(*settings, stride=stride, padding=1, dilation=dilation, groups=groups, dtype=dtype)
        return isinstance(alexkern.freeze(nn.Sequential(conv))._current().steps[0].ways[0], InTiles)

    assert tiled(32, 32, 3) and tiled(33, 47, 5) and tiled(64, 64, 5, groups=2)
    assert not any(tiled(*sizes) for sizes in ((32, 32, 1), (32, 32, 7), (31, 32, 3), (32, 31, 3)))
    assert tiled(3, 32, 11, stride=4) and not tiled(3, 31, 11, stride=4) and not tiled(3, 32, 8, stride=4)
    assert not tiled(32, 32, 3, stride=2) and not tiled(32, 32, 3, dilation=2) and not tiled(32, 32, 3, groups=2)
    assert not tiled(32, 32, 3, dtype=torch.float64)
    assert tiled(32, 32, 3, dtype=torch.bfloat16) == IN_BFLOAT16 and not tiled(32, 32, 5, dtype=torch.bfloat16)


@pytest.mark.skipif(not IN_BFLOAT16, reason="bfloat16 is oneDNN's here")
def test_rounding_errors_in_bfloat16(generator: torch.Generator) -> None:
    """As above, beside those of rounding the output alone. Points that are cut off and not rounded have twice those."""
    image = torch.randn(4, 256, 13, 13, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = (torch.randn(128, 256, 3, 3, generator=generator) / 48).bfloat16()
    of = Geometry(*image.shape, 128, 3, 3, (1, 1), (1, 1), (1, 1), 1)
    reference = F.conv2d(image.double(), weight.double(), padding=1)
    grad = torch.randn(reference.shape, generator=generator).bfloat16()
    outputs = winograd.convolve(image, winograd.pack(weight, of, 2), None, False, True)
    gradients = winograd.weight_grad(grad, image, of, True)
    assert outputs is not None and gradients is not None
    numbers = ([128], *of[7:10], False, (0, 0), 1, (False, True, False))
    of_weight = torch.ops.aten.convolution_backward(grad.double(), image.double(), weight.double(), *numbers)[1]
    for found, wanted in ((outputs, reference), (gradients, of_weight)):
        ours, rounded = ((one.double() - wanted).square().mean().sqrt() for one in (found, wanted.bfloat16()))
        assert ours < 3 * rounded


@pytest.mark.skipif(not IN_BFLOAT16, reason="bfloat16 is oneDNN's here")
def test_in_bfloat16_pooled_and_not(generator: torch.Generator) -> None:
    """By the accuracy rule; an infinity comes where the convolution has it."""
    layers = nn.Conv2d(48, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 33, 3), nn.ReLU(), nn.MaxPool2d(3, 2)
    model = nn.Sequential(*layers).bfloat16().eval()
    image = torch.randn(4, 48, 17, 16, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
    frozen = alexkern.freeze(model)
    with torch.no_grad():
        cpu.native().forget_kernel()
        output = frozen(image)
        assert cpu.native().last_kernel() == "winograd, NHWC, avx512bf16"  # pooled image by image
        assert_accurate(output, copy.deepcopy(model).double()(image.double()), model(image))
        image[1, 2, 3, 4] = math.inf
        assert_same(frozen(image).isfinite(), model(image).isfinite())


@served
def test_it_is_taken_where_it_pays() -> None:
    snapshots = [alexkern.freeze(nn.Sequential(nn.Conv2d(32, 32, size, padding=size // 2))) for size in (3, 5)]
    three, five = (snapshot._current().steps[0].ways[0].serves for snapshot in snapshots)

    def images(size: int) -> Tensor:
        return torch.zeros(100, 32, size, size)

    assert [size for size in range(1, 17) if three(images(size))] == [*range(2, 17)]
    small = [6, 7] if cpu.native().amd else [6]
    assert [size for size in range(1, 17) if five(images(size))] == [*small, *range(8, 17)]
    assert not three(images(2)[:3]) and not five(images(6)[:1])  # few tiles


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*layers, nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 8, 1)).eval()


@pytest.fixture
def image(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 3, 41, 43, generator=generator)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The filters' sizes, for every convolution that a snapshot did so."""
    sizes: list[int] = []
    convolved = InTiles.__call__

    def noted(self: InTiles, *of: Any) -> Tensor | None:
        sizes.append(self.filters[2].geometry.R)
        return convolved(self, *of)

    monkeypatch.setattr(InTiles, "__call__", noted)
    return sizes


@served
def test_a_snapshot_takes_it(model: nn.Sequential, image: Tensor, calls: list[int]) -> None:
    frozen = alexkern.freeze(model, image)
    calls.clear()  # of the example
    assert ["F(2x2" in step.describe() for step in frozen._current().steps] == [False, True, True, False]
    with torch.no_grad():
        wanted = model(image)
        output = frozen(image)
    assert calls == [5, 3]
    torch.testing.assert_close(output, wanted)
    assert output.stride() == wanted.stride()
    with torch.no_grad():
        torch.testing.assert_close(frozen(image[0]), model(image[0]))  # without a batch
    for copied in (pickle.loads(pickle.dumps(frozen)), copy.deepcopy(frozen)):
        assert repr(copied) == repr(frozen) and torch.equal(copied(image), output)
    size = len(pickle.dumps(frozen))
    assert size < 2 * len(pickle.dumps(model)), "filters are packed anew, not stored twice"


@served
@pytest.mark.parametrize("behind", ["nothing", "convolution", "pooling", "average"])
@pytest.mark.parametrize("channels", [32, 16])  # in tiles, and not
def test_one_by_itself_stays_contiguous(
    behind: str, channels: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To channels_last and back takes longer than one layer's blocks save, and its tiles are as quick without."""
    layers = {
        "nothing": [],
        "convolution": [nn.Dropout().eval(), nn.Conv2d(channels, 8, 1)],
        "pooling": [nn.MaxPool2d(2)],
        "average": [nn.AdaptiveAvgPool2d(2)],
    }[behind]
    model = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), *layers)
    images = torch.randn(3, channels, 16, 16, generator=generator)
    frozen, by_itself = alexkern.freeze(model), behind in ("nothing", "average")
    first = frozen._current().steps[0]
    ways: list[tuple[type, bool]] = []
    for way in first.ways:
        call = type(way).__call__

        def noted(self: Any, images: Tensor, channels_last: bool = True, call: Any = call) -> Any:
            ways.append((type(self), channels_last))
            assert is_channels_last(images) is channels_last
            return call(self, images, channels_last)

        monkeypatch.setattr(type(way), "__call__", noted)
    reference = copy.deepcopy(model).double()(images.double()).float()
    with torch.no_grad():
        torch.testing.assert_close(frozen(images), reference)
        assert ways[0] == (InTiles if channels == 32 else InBlocks, not by_itself)
        if by_itself:
            assert not first.ways[-1].packed
            last = images.contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(frozen(last), reference)
            assert ways[1] == (ways[0][0], True)


@served
def test_tracers_see_the_convolution(model: nn.Sequential, image: Tensor, calls: list[int]) -> None:
    frozen = alexkern.freeze(model)
    with torch.no_grad():
        wanted = model(image)
        torch.testing.assert_close(torch.compile(frozen, backend="aot_eager")(image), wanted)
        with torch.autocast("cpu", torch.bfloat16):
            frozen(image)
        with FakeTensorMode(allow_non_fake_inputs=True):
            frozen(image)
        frozen(nn.Parameter(image))
    assert calls == []


def test_without_the_module_there_is_the_convolution(
    model: nn.Sequential, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension.cpu, "module", None)
    frozen = alexkern.freeze(model)
    convolutions = [step for step in frozen._current().steps if isinstance(step, FrozenConvolution)]
    assert len(convolutions) == 4 and all(not isinstance(step.ways[0], InTiles) for step in convolutions)
    buffer = io.BytesIO()
    torch.save(frozen, buffer)
    monkeypatch.undo()
    buffer.seek(0)
    restored = torch.load(buffer, weights_only=False)  # where there is one, perhaps
    with torch.no_grad():
        torch.testing.assert_close(frozen(image), model(image))
        torch.testing.assert_close(restored(image), model(image))
