"""What the first convolution of a frozen model takes: bytes, float32, any layout, images in depth; on every backend."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alexkern
from alexkern.backends.cuda import conv2d_relu, sm90, space_to_depth
from alexkern.frozen.convolution import FrozenConvolution
from alexkern.frozen.images import in_depth
from alexkern.functional import augment
from support.backends import DEVICE, HALVES, serving
from support.copies import copies
from support.launches import noted

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(params=["torch 8.0", "cuda 8.0", "cuda 9.0"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """And the GPU that the emulator stands for."""
    name, capability = request.param.split()
    if name not in serving("conv2d_relu"):
        pytest.skip(f"{name} does not run here")
    if DEVICE.type == "cuda" and capability == "9.0":
        pytest.skip("the GPU is what it is")
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", capability)
    with alexkern.backend(name):
        yield name


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return noted(monkeypatch, conv2d_relu, sm90, space_to_depth)


def network(dtype: torch.dtype, channels: int = 3, pool: bool = True) -> nn.Sequential:
    """AlexNet's first layers with few filters, and one more to go through."""
    torch.manual_seed(5)
    steps = [nn.Conv2d(channels, 16, 11, stride=4, padding=2), nn.ReLU()]
    return nn.Sequential(
        *steps, *([nn.MaxPool2d(3, 2)] if pool else []), nn.Conv2d(16, 5, 2)
    ).to(DEVICE, dtype).eval()  # fmt: skip


def drawn(
    generator: torch.Generator, shape: tuple[int, ...], mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> tuple[Tensor, Tensor]:
    """Images of bytes, and what they are normalised."""
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(DEVICE)
    mean_, std_ = (torch.tensor(row, dtype=torch.float64, device=DEVICE).view(-1, 1, 1) for row in (mean, std))
    return images, (images.double() / 255 - mean_) / std_


def layouts(images: Tensor) -> list[Tensor]:
    """NCHW, NHWC, and strides that are neither."""
    N, C, H, W = images.shape
    wide = images.new_empty(N, H, 2 * W, C)[:, :, ::2].permute(0, 3, 1, 2).copy_(images)
    return [images.contiguous(), images.contiguous(memory_format=torch.channels_last), wide]


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance * wanted.abs().max().item())


@pytest.mark.parametrize("pool", [True, False], ids=["pool", "no pool"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_images_of_every_kind(
    backend: str, dtype: torch.dtype, pool: bool, monkeypatch, launched: list[str], generator: torch.Generator
) -> None:
    monkeypatch.setattr(space_to_depth, "first_layer_times", lambda *_: (1.0, 0.0))  # depth is faster
    model = network(dtype, pool=pool)
    double = copy.deepcopy(model).double()
    frozen = alexkern.freeze(model, mean=MEAN, std=STD)
    for size, kinds in (((31, 35), 3), ((42, 27), 1)):
        bytes_in, exact = drawn(generator, (3, 3, *size))
        for images in (bytes_in, exact.float(), exact.to(dtype)):
            wanted = double(exact.to(dtype).double())
            for layout in layouts(images)[-kinds:]:
                launched.clear()
                found = frozen(layout)
                close(found, wanted, dtype)
                # torch's own rule, whatever the way was.
                assert found.is_contiguous(memory_format=torch.channels_last) == (layout.stride(1) == 1)
                if backend == "cuda":
                    first = [name for name in launched if name != "conv2d_relu_reduce"][:3]
                    assert first[0] == "space_to_depth_relayout" and first[2] == "space_to_depth_amend"
                    assert "conv2d_relu_pack" not in launched[:3]
                else:
                    assert launched == []
            close(frozen(images[0]), wanted[0], dtype)
            assert frozen(images[:0]).shape == (0, *wanted.shape[1:])
            assert torch.equal(frozen(images), frozen(images))


def test_images_that_need_no_cast_go_to_depth_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, launched: list[str], generator: torch.Generator
) -> None:
    if "cuda" not in serving("conv2d_relu"):
        pytest.skip("the CUDA kernels do not run here")
    model = network(torch.float32)
    frozen = alexkern.freeze(model)
    images = torch.randn((2, 3, 31, 35), generator=generator).to(DEVICE)
    for times, kernel in (((1.0, 2.0), "conv2d_relu_pack"), ((2.0, 1.0), "space_to_depth_relayout")):
        monkeypatch.setattr(space_to_depth, "first_layer_times", lambda *_, times=times: times)
        launched.clear()
        with alexkern.backend("cuda"):
            close(frozen(images), copy.deepcopy(model).double()(images.double()), torch.float32)
        # On a CPU the other way is oneDNN's.
        assert launched[:1] == ([kernel] if DEVICE.type == "cuda" or "depth" in kernel else [])


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_other_channels(backend: str, channels: int, generator: torch.Generator) -> None:
    """Five take the usual way."""
    model = network(torch.float32, channels)
    numbers = {"mean": [0.1 * c for c in range(channels)], "std": [1 + 0.1 * c for c in range(channels)]}
    frozen = alexkern.freeze(model, **numbers)
    assert ("filters in depth" in repr(frozen)) == (channels < 5)
    bytes_in, exact = drawn(generator, (2, channels, 33, 33), **numbers)
    close(frozen(bytes_in), copy.deepcopy(model).double()(exact), torch.float32)


def test_the_padding_is_zero_behind_the_normalisation(backend: str) -> None:
    """Black images, which the mean makes negative: only the pixels inside count. The filters are two times 4 wide."""
    model = nn.Sequential(nn.Conv2d(1, 1, 8, stride=4, padding=4, bias=False), nn.ReLU()).to(DEVICE)
    nn.init.constant_(model[0].weight, -1.0)
    frozen = alexkern.freeze(model, mean=[0.5], std=[0.5])
    found = frozen(torch.zeros((1, 1, 8, 8), dtype=torch.uint8, device=DEVICE))
    assert found.tolist() == [[[[16.0, 32.0, 16.0], [32.0, 64.0, 32.0], [16.0, 32.0, 16.0]]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_of_stride_1_takes_bytes_too(backend: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).to(DEVICE, dtype).eval()
    frozen = alexkern.freeze(model, mean=MEAN, std=STD)
    bytes_in, exact = drawn(generator, (2, 3, 9, 8))
    wanted = copy.deepcopy(model).double()(exact.to(dtype).double())
    for images in (bytes_in, exact.float()):
        close(frozen(images), wanted, dtype)


def test_infinities_just_outside_of_a_window_stay_there(backend: str, generator: torch.Generator) -> None:
    model = network(torch.float16, pool=False)[:2]
    frozen = alexkern.freeze(model)
    images = torch.randn((1, 3, 31, 31), generator=generator).to(DEVICE)
    images[0, 1, 17, 17] = 1e6  # an infinity in float16; the twelfth row and column of the windows at 2
    wanted = copy.deepcopy(model).double()(images.half().double())
    assert torch.equal(frozen(images).isfinite(), wanted.isfinite()) and not bool(wanted.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_images_that_augment_has_brought_to_depth(backend: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    model = network(dtype)
    frozen = alexkern.freeze(model)
    images = torch.randint(256, (2, 40, 44, 3), generator=generator, dtype=torch.uint8).to(DEVICE)
    seed = torch.tensor([3, 4], device=DEVICE)
    with alexkern.backend("torch"):
        plain = augment(images, (35, 39), seed=seed, dtype=dtype)
        deep = augment(images, (35, 39), seed=seed, dtype=dtype, space_to_depth=True)
    close(frozen(deep), copy.deepcopy(model).double()(plain.double()), dtype)


def test_example_may_be_what_the_model_will_get(backend: str, generator: torch.Generator) -> None:
    model = network(torch.bfloat16)
    bytes_in, _ = drawn(generator, (2, 3, 31, 31))
    wanted = alexkern.freeze(model, mean=MEAN, std=STD)(bytes_in)
    for example in (bytes_in, bytes_in.float()):
        torch.testing.assert_close(alexkern.freeze(model, example, mean=MEAN, std=STD)(bytes_in), wanted)


def test_pickle_deepcopy_and_repr(backend: str, generator: torch.Generator) -> None:
    frozen = alexkern.freeze(network(torch.float32), mean=MEAN, std=STD)
    text = repr(frozen)
    for words in ("filters in depth=(16, 3, 3, 48)", f"mean={MEAN}, std={STD}"):
        assert words in text and text.count(words) == 1
    assert "mean=" not in repr(alexkern.freeze(network(torch.float32)))
    bytes_in, _ = drawn(generator, (2, 3, 31, 31))
    wanted = frozen(bytes_in)
    for again in copies(frozen):
        assert torch.equal(again(bytes_in), wanted) and repr(again) == text


def test_only_the_first_convolution_takes_them(backend: str) -> None:
    frozen = alexkern.freeze(network(torch.bfloat16), mean=MEAN, std=STD)
    first, *_, last = frozen._current().steps
    assert isinstance(first, FrozenConvolution) and isinstance(last, FrozenConvolution)
    assert first.images is not None and last.images is None
    with pytest.raises((RuntimeError, alexkern.ArgumentError)):
        frozen[3:](torch.zeros((1, 16, 9, 9), device=DEVICE))


def test_bad_arguments(backend: str) -> None:
    model = network(torch.float32)
    bad: list[tuple[str, Any, Any]] = [
        ("std must be given where mean is, got None", MEAN, None),
        ("mean must be given where std is, got None", None, STD),
        (r"mean must be 3 finite numbers, one for each channel, got \(0\.1, 0\.2\)", (0.1, 0.2), STD),
        (r"std must be 3 finite numbers, one for each channel, above 0, got \(1, 0, 1\)", MEAN, (1, 0, 1)),
        (r"mean must be 3 finite numbers.* got \[nan", [float("nan")] * 3, STD),
        ("mean must be 3 finite numbers.* got 'abc'", "abc", STD),
        (r"std must be 3 finite numbers.* got 0\.5", MEAN, 0.5),
    ]
    for message, mean, std in bad:
        with pytest.raises(alexkern.ArgumentError, match=f"alexkern.freeze: {message}"):
            alexkern.freeze(model, mean=mean, std=std)
    with pytest.raises(TypeError):
        alexkern.freeze(model, None, MEAN, STD)  # type: ignore[misc]
    for other in (nn.Linear(3, 3), nn.ModuleList([type("Own", (nn.Conv2d,), {})(3, 4, 11, 4)])):
        with pytest.raises(alexkern.ArgumentError, match="the model has no nn.Conv2d that takes its images"):
            alexkern.freeze(other, mean=MEAN, std=STD)
    for name, numbers in (("mean", MEAN), ("std", STD)):
        with pytest.raises(alexkern.ArgumentError, match=f"{name} must be None where the model has no nn.Conv2d"):
            alexkern.freeze(nn.Linear(3, 3), **{name: numbers})  # type: ignore[arg-type]


def test_bad_images(backend: str) -> None:
    image = torch.zeros((1, 3, 31, 31), device=DEVICE)
    plain = alexkern.freeze(network(torch.float32))
    for wrong in (image.to(torch.uint8), image.double(), image.to(torch.int64)):
        with pytest.raises(alexkern.ArgumentError, match="input"):
            plain(wrong)
    frozen = alexkern.freeze(network(torch.float32), mean=MEAN, std=STD)
    for wrong in (image.double(), image[:, :2], image[:, :2].to(torch.uint8)):
        with pytest.raises(alexkern.ArgumentError, match="input"):
            frozen(wrong)
    with pytest.raises(RuntimeError):
        frozen(image[:, :, :5].to(torch.uint8))


def test_what_does_not_go_in_depth() -> None:
    weight, pairs = torch.zeros(6, 2, 11, 11), ((4, 4), (2, 2), (1, 1))
    assert in_depth(weight, *pairs, 1) is not None and in_depth(torch.zeros(6, 4, 11, 11), *pairs, 1) is not None
    assert in_depth(weight, *pairs, 2) is None and in_depth(torch.zeros(6, 5, 11, 11), *pairs, 1) is None
    for stride, dilation in (((4, 3), (1, 1)), ((3, 4), (1, 1)), ((4, 4), (1, 2)), ((4, 4), (2, 1))):
        assert in_depth(weight, stride, (2, 2), dilation, 1) is None
