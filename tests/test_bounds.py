"""What is kept and what is asked for in between is bounded: in bytes, and near what it serves."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import alexkern
from alexkern import functional as A
from alexkern._environment import Backend
from alexkern.accuracy import assert_same
from alexkern.augmentation import CROPS
from alexkern.backends.torch import max_pool2d
from alexkern.backends.torch.augment import CHUNK
from alexkern.errors import ArgumentError
from alexkern.models.transforms import ImageClassification
from alexkern.ops.augment import augment
from support.backends import DEVICE, serving
from support.peaks import held, launching_nothing, peak

MIB = 2**20
Call = Callable[[Tensor, Tensor], Tensor]


class Largest(TorchDispatchMode):
    """The bytes of the largest memory that any operator returns."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("window", [(500, 1), (1, 500), (30, 30)])
def test_large_windows_make_no_tables(window: tuple[int, int], generator: torch.Generator) -> None:
    x = torch.randn((1, 2, 500, 510), generator=generator)
    numbers = (window, (1, 2), (0, 0), (1, 1), False)
    with Largest() as largest:
        _, offsets = max_pool2d.forward(x, *numbers, True)
    _, indices = torch.ops.aten.max_pool2d_with_indices(x, *numbers)
    assert offsets is not None
    assert largest.bytes <= 8 * x.numel()
    assert_same(max_pool2d.flat_indices(offsets, max_pool2d.plane(x.shape, *numbers[:4])), indices)


def test_kept_tables_are_bounded(generator: torch.Generator) -> None:
    """Whatever comes, in bytes, and the AlexNets' are kept."""
    before = {id(tensor) for tensor in gc.get_objects() if type(tensor) is Tensor}
    for width in range(8, 400, 8):
        for window in (3, 3), (2, 40), (40, 2):
            x = torch.randn((1, 1, 48, width), generator=generator)
            if width >= window[1]:
                arguments = (x, window, (1, 1), (0, 0))
                with alexkern.backend("torch"):
                    A.max_pool2d(arguments[0].requires_grad_(), *arguments[1:]).sum().backward()
    del x, arguments
    gc.collect()
    kept = [t for t in gc.get_objects() if type(t) is Tensor and id(t) not in before]
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept) <= 8 * MIB
    max_pool2d._kept.cache_clear()
    for size in (55, 27, 13):
        offsets = torch.zeros((1, 1, size // 2, size // 2), dtype=torch.uint8)
        max_pool2d.flat_indices(offsets, max_pool2d.plane((1, 1, size, size), (3, 3), (2, 2), (0, 0), (1, 1)))
    assert max_pool2d._kept.cache_info().currsize == 3


@pytest.mark.parametrize("backend", serving("augment"))
@pytest.mark.parametrize("shape", [(1, 32768, 1, 3), (16, 1024, 4, 3), (2, 3, 5000, 3), (1, 2000, 1000, 3)])
def test_augment_samples_from_the_source(
    shape: tuple[int, ...], backend: Backend, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most twice what it reads and returns, and some float32 pictures of the images that it has at work."""
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    for crop, changes in itertools.product(CROPS[:3], ({}, {"rotation": 20.0, "brightness": 0.4, "hue": 0.1})):
        with alexkern.backend(backend), launching_nothing(backend, monkeypatch):
            (batch,), besides = peak(partial(augment, images, 112, crop=crop, **changes))
        bound = 2 * held((images, batch)) + 8 * min(len(images), CHUNK) * 112 * 112 * 3 * 4
        assert besides <= bound, f"{crop}, {changes}: {besides} of {bound}"


@pytest.mark.parametrize("kind", ["PIL", "uint8", "float32"])
def test_transforms_cut_a_long_image_out_of_the_source(kind: str, generator: torch.Generator) -> None:
    pixels = torch.randint(256, (3, 40, 3000), dtype=torch.uint8, generator=generator)
    transforms = ImageClassification(crop_size=56, resize_size=64)
    image = {
        "PIL": Image.fromarray(pixels.permute(1, 2, 0).numpy()),
        "uint8": pixels,
        "float32": pixels.float() / 255,
    }[kind]
    with Largest() as largest:
        ours = transforms(image)
    assert largest.bytes <= 2 * 4 * pixels.numel()
    whole = F.interpolate(pixels[None].double(), size=(64, 4800), mode="bilinear", antialias=True)[0] / 255
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (transforms.mean, transforms.std))
    wanted = (whole[:, 4:60, 2372:2428] - mean) / std
    # Bytes are rounded, by PIL after either axis.
    torch.testing.assert_close(
        ours.double(), wanted, rtol=0, atol={"PIL": 1.5, "uint8": 0.6, "float32": 1e-2}[kind] / 56
    )


@pytest.mark.parametrize("number", [2**28 + 1, 2**31, 2**63, 2**64])
def test_numbers_that_kernels_cannot_count(number: int) -> None:
    x, w = torch.zeros(1, 4, 5, 5), torch.zeros(4, 4, 1, 1)
    for call, name in (
        (lambda: A.conv2d_relu(x, w, stride=number), "stride"),
        (lambda: A.conv2d_relu(x, w, padding=(0, number)), "padding"),
        (lambda: A.conv2d_relu(x, w, dilation=(number, 1)), "dilation"),
        (lambda: A.conv2d_relu_max_pool2d(x, w, pool_stride=number), "pool_stride"),
        (lambda: A.max_pool2d(x, 1, stride=number), "stride"),
        (lambda: A.max_pool2d(x, (number, 1)), "kernel_size"),
        (lambda: A.max_pool2d(x, 1, dilation=number), "dilation"),
    ):
        with pytest.raises(ArgumentError, match=rf"{name} must be at least \d and at most 2\*\*28"):
            call()


FAR = 2**28


def rows(x: Tensor, w: Tensor) -> Tensor:
    """The first row of a convolution with ReLU."""
    return torch.conv2d(x[:, :, :1], w).relu()


@pytest.mark.parametrize("backend", serving("max_pool2d"))
@pytest.mark.parametrize(
    ("far", "near"),
    [
        (lambda x, w: A.conv2d_relu(x, w[:, :, :1], None, FAR, 0, FAR), lambda x, w: rows(x[..., :1], w[:, :, :1])),
        # Of three rows of outputs the first and the last see the padding.
        (
            lambda x, w: A.conv2d_relu(x, w[:, :, :1], None, (FAR, 1), (FAR, 0)),
            lambda x, w: F.pad(rows(x, w[:, :, :1]), (0, 0, 1, 1)),
        ),
        # Of two, one sees the image with its second tap and the other with its first.
        (
            lambda x, w: A.conv2d_relu(x, w, None, (FAR, 1), (FAR, 0), (FAR, 1)),
            lambda x, w: torch.cat((rows(x, w[:, :, 1:]), rows(x, w[:, :, :1])), dim=2),
        ),
        (lambda x, w: A.max_pool2d(x, 3, FAR), lambda x, w: torch.max_pool2d(x[..., :3, :3], 3)),
        (lambda x, w: A.max_pool2d(x, 1, 1, 0, FAR), lambda x, w: x),
    ],
    ids=["stride", "padding", "dilation", "window's stride", "window's dilation"],
)
def test_the_largest_numbers_are_counted(far: Call, near: Call, backend: Backend, generator: torch.Generator) -> None:
    results = []
    given = torch.randn((1, 4, 5, 5), generator=generator), torch.randn((4, 4, 2, 1), generator=generator)
    for call in far, near:
        x, w = (value.to(DEVICE, copy=True).requires_grad_() for value in given)
        with alexkern.backend(backend):
            output = call(x, w)
            output.backward(output.detach() + 1)
        results.append((output, x.grad, torch.zeros_like(w) if w.grad is None else w.grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
