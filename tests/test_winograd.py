"""Convolution in fewer products: as accurate as the rule for operators asks, and only where it is right and pays."""

from __future__ import annotations

import copy
import io
import math
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

import alexkern
from alexkern.accuracy import assert_accurate
from alexkern.backends import extension
from alexkern.backends.cpu import winograd
from alexkern.frozen import FrozenConvolution
from alexkern.frozen.convolution import InTiles
from support.canaries import canaries

ROOT = Path(__file__).resolve().parent.parent

MISSING = winograd.missing("cpu", torch.float32)
served = pytest.mark.skipif(MISSING is not None, reason=f"no host convolution: {MISSING}")

# N, C and K of a group, H, W, R, padding, groups
CASES = [
    (1, 64, 192, 27, 27, 5, (2, 2), 1),
    (2, 192, 384, 13, 13, 3, (1, 1), 1),
    (3, 48, 128, 13, 11, 5, (2, 2), 2),
    (5, 16, 32, 6, 9, 3, (0, 0), 3),
    (1, 16, 64, 1, 1, 3, (1, 1), 1),
    (2, 32, 32, 4, 1, 5, (4, 3), 1),
    (1, 32, 32, 1, 7, 3, (5, 0), 1),
    (7, 16, 32, 5, 5, 5, (0, 0), 1),
    (0, 16, 32, 5, 5, 3, (1, 1), 1),
    (1, 512, 64, 30, 3, 3, (1, 1), 1),
]


class Convolution:
    def __init__(self, case: tuple, generator: torch.Generator, bias: bool = True) -> None:
        N, C, K, H, W, R, self.padding, self.groups = case
        image = torch.randn(N, C * self.groups, max(H, R - 2 * self.padding[0]), W, generator=generator)
        self.image = image[:, :, :, : max(W, 1)]
        if W + 2 * self.padding[1] < R:
            self.image = F.pad(self.image, (0, R - W))
        self.weight = torch.randn(K * self.groups, C, R, R, generator=generator) / math.sqrt(C * R * R)
        self.bias = torch.randn(K * self.groups, generator=generator) if bias else None

    def filters(self) -> winograd.Filters:
        filters = winograd.pack(self.weight, (1, 1), self.padding, (1, 1), self.groups)
        assert filters is not None
        return filters

    def wanted(self, dtype: torch.dtype, relu: bool) -> Tensor:
        """Over channels_last, as the convolution is done where this one stands in for it."""
        image, weight, bias = (None if t is None else t.to(dtype) for t in (self.image, self.weight, self.bias))
        image = image.contiguous(memory_format=torch.channels_last)
        value = F.conv2d(image, weight, bias, padding=self.padding, groups=self.groups)
        return value.relu() if relu else value


@served
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_convolution(case: tuple, relu: bool, generator: torch.Generator) -> None:
    layer = Convolution(case, generator, bias=relu)
    filters = layer.filters()
    with canaries() as buffers:
        output = winograd.convolve(layer.image, filters, layer.bias, relu)
        assert output is not None and len(buffers) == 2  # the workspace is the other
        output = output.clone()
    assert output.is_contiguous(memory_format=torch.channels_last)
    reference = layer.wanted(torch.float64, relu)
    if winograd.pays(layer.image, filters):
        assert_accurate(output, reference, layer.wanted(torch.float32, relu))
    else:
        # Where most of a tile lies in the padding, the convolution has few terms, and these products have all of them.
        torch.testing.assert_close(output.double(), reference, rtol=1e-5, atol=1e-5)


@served
@pytest.mark.parametrize(("R", "C", "times"), [(3, 256, 1.0), (5, 64, 2.0)])
def test_rounding_errors(R: int, C: int, times: float, generator: torch.Generator) -> None:
    """The root of the mean square error, as docs/snapshots.md has it for AlexNet's layers."""
    layer = Convolution((4, C, 128, 13, 13, R, (R // 2, R // 2), 1), generator)
    output = winograd.convolve(layer.image, layer.filters(), layer.bias, False)
    assert output is not None
    reference = layer.wanted(torch.float64, False)
    ours, torchs = ((v - reference).square().mean().sqrt() for v in (output, layer.wanted(torch.float32, False)))
    assert ours < times * torchs


@served
def test_bits_depend_on_no_batch_and_no_threads(generator: torch.Generator) -> None:
    """However tiles and filters are shared out, a sum is added up in one order."""
    threads = torch.get_num_threads()
    for case in ((9, 32, 96, 13, 12, 3, (1, 1), 1), (5, 16, 64, 9, 9, 5, (2, 2), 2)):
        layer = Convolution(case, generator)
        filters = layer.filters()
        wanted = winograd.convolve(layer.image, filters, layer.bias, True)
        assert wanted is not None
        try:
            for count in (1, 2, 3, 7):
                torch.set_num_threads(count)
                for start, stop in ((0, case[0]), (2, 3), (1, 5)):
                    part = winograd.convolve(layer.image[start:stop], filters, layer.bias, True)
                    assert part is not None and torch.equal(part, wanted[start:stop])
        finally:
            torch.set_num_threads(threads)


@served
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_left_to_the_convolution(value: float, generator: torch.Generator) -> None:
    layer = Convolution((40, 16, 32, 8, 8, 3, (1, 1), 1), generator)  # several blocks of tiles for every thread
    filters = layer.filters()
    for place in ((0, 3, 0, 0), (17, 0, 4, 3), (39, 15, 7, 7)):
        image = layer.image.clone()
        image[place] = value
        assert winograd.convolve(image, filters, layer.bias, True) is None
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).eval()
    frozen = alexkern.freeze(model)
    assert frozen._current().steps[0].ways[0].serves(image)
    with torch.no_grad():
        torch.testing.assert_close(frozen(image), model(image), equal_nan=True)
    weight = layer.weight.clone()
    weight[31, 15, 2, 2] = value
    filters = winograd.pack(weight, (1, 1), (1, 1), (1, 1), 1)
    assert filters is not None and winograd.convolve(layer.image, filters, None, False) is None


@served
def test_only_plain_float32_convolutions_of_whole_vectors() -> None:
    def packed(*shape: int, stride: int = 1, dilation: int = 1, groups: int = 1, dtype: torch.dtype = torch.float32):
        weight = torch.zeros(shape, dtype=dtype)
        return winograd.pack(weight, (stride, stride), (1, 1), (dilation, dilation), groups)

    assert packed(32, 16, 3, 3) is not None and packed(64, 16, 5, 5, groups=2) is not None
    weight = torch.randn(64, 16, 3, 3)
    plain, channels_last = (
        winograd.pack(weight.contiguous(memory_format=memory), (1, 1), (1, 1), (1, 1), 1)
        for memory in (torch.contiguous_format, torch.channels_last)
    )
    assert plain is not None and plain.packed.shape == (2, 16, 16, 32)
    assert channels_last is not None and torch.equal(plain.packed, channels_last.packed)
    for shape in ((32, 16, 1, 1), (32, 16, 3, 5), (32, 16, 7, 7), (32, 24, 3, 3), (48, 16, 3, 3)):
        assert packed(*shape) is None
    assert packed(32, 16, 3, 3, stride=2) is None and packed(32, 16, 3, 3, dilation=2) is None
    assert packed(32, 16, 3, 3, groups=2) is None  # 16 filters in a group
    assert packed(32, 16, 3, 3, dtype=torch.float64) is None and packed(32, 16, 3, 3, dtype=torch.bfloat16) is None
    assert winograd.pack(torch.zeros(32, 16, 3, 3, device="meta"), (1, 1), (1, 1), (1, 1), 1) is None


@served
def test_it_is_taken_where_it_pays() -> None:
    snapshots = [alexkern.freeze(nn.Sequential(nn.Conv2d(16, 32, size, padding=size // 2))) for size in (3, 5)]
    three, five = (snapshot._current().steps[0].ways[0].serves for snapshot in snapshots)

    def images(size: int) -> Tensor:
        return torch.zeros(1, 16, size, size)

    assert [size for size in range(1, 17) if three(images(size))] == [4, 6, *range(8, 17)]
    assert [size for size in range(1, 17) if five(images(size))] == [6, *range(8, 17)]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*layers, nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 8, 1)).eval()


@pytest.fixture
def image(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 3, 41, 43, generator=generator)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The filters' sizes, for every convolution that was done so."""
    sizes: list[int] = []
    convolve = winograd.convolve

    def noted(images: Tensor, filters: winograd.Filters, bias: Tensor | None, relu: bool) -> Tensor | None:
        sizes.append(filters.geometry.R)
        return convolve(images, filters, bias, relu)

    monkeypatch.setattr(winograd, "convolve", noted)
    yield sizes


@served
def test_a_snapshot_takes_it(model: nn.Sequential, image: Tensor, calls: list[int]) -> None:
    frozen = alexkern.freeze(model, image)
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


def test_on_another_processor_there_is_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension.cpu, "module", SimpleNamespace(winograd_is_supported=lambda: False))
    assert winograd.pack(torch.zeros(32, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1) is None


@pytest.mark.full
@served
def test_no_stray_access(tmp_path: Path) -> None:
    """Under AddressSanitizer, with every buffer as long as it has to be and not longer."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not there to build csrc/cpu/winograd with AddressSanitizer")
    program = tmp_path / "memory"
    sources = [ROOT / "csrc/cpu/winograd/winograd.cpp", ROOT / "tests/support/winograd_memory.cpp"]
    flags = ["-std=c++17", "-O1", "-g", "-fopenmp", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([compiler, *flags, f"-I{ROOT / 'csrc'}", *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "13 shapes\n", done.stdout + done.stderr
