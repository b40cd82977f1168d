"""The inference preprocessing: torchvision's, to the bit, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alexkern.models import ImageClassification
from support.optional import need

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def random_pixels(generator: torch.Generator, height: int, width: int, n: int | None = None) -> Tensor:
    shape = (3, height, width) if n is None else (n, 3, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def to_pil(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def test_odd_margins_are_cropped_as_torchvision_does(generator):
    """round() takes a half to the even neighbour: a margin of 5 leaves 2 above, one of 7 leaves 4."""
    pixels = random_pixels(generator, 15, 17) / 255
    plain = ImageClassification(crop_size=10, resize_size=15, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert torch.equal(plain(pixels), pixels[:, 2:12, 4:14])
    assert torch.equal(plain(pixels.mT), pixels.mT[:, 4:14, 2:12])


def test_the_input_is_not_changed(generator):
    pixels = torch.rand(3, 256, 256, generator=generator)
    before = pixels.clone()
    ImageClassification()(pixels)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "F"])
def test_every_mode_becomes_rgb(mode, generator):
    image = to_pil(random_pixels(generator, 70, 80)).convert("L").convert(mode)
    ours = ImageClassification(crop_size=63, resize_size=63)(image)
    assert torch.equal(ours, ImageClassification(crop_size=63, resize_size=63)(image.convert("RGB")))
    # Grey came in, so the three channels are one, but for the colour spaces' own rounding.
    unnormalised = ours * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert (unnormalised - unnormalised[:1]).abs().max() < 4 / 255
    assert unnormalised.std() > 0.02


def test_16_bit_grey_keeps_its_tones(generator):
    tones = torch.randint(0, 65536, (64, 64), generator=generator).numpy()
    eight_bit = Image.fromarray((tones // 257).astype(np.uint8))
    want = ImageClassification(crop_size=63, resize_size=63)(eight_bit)
    for image in (Image.fromarray(tones.astype(np.uint16)), Image.fromarray(tones.astype(np.int32))):
        assert torch.equal(ImageClassification(crop_size=63, resize_size=63)(image), want)


@pytest.mark.parametrize(
    "image, error, words",
    [
        (torch.zeros(1, 64, 64, dtype=torch.uint8), ValueError, r"\(3, H, W\).*\(1, 64, 64\)"),
        (torch.zeros(64, 64, dtype=torch.uint8), ValueError, r"\(64, 64\)"),
        (torch.zeros(2, 3, 3, 64, 64, dtype=torch.uint8), ValueError, r"\(2, 3, 3, 64, 64\)"),
        (torch.zeros(3, 0, 64, dtype=torch.uint8), ValueError, r"\(3, 0, 64\)"),
        (torch.zeros(3, 64, 64, dtype=torch.int64), TypeError, "int64"),
        (np.zeros((64, 64, 3), np.uint8), TypeError, "ndarray"),
        ("photo.jpg", TypeError, "str"),
    ],
)
def test_images_it_cannot_take(image, error, words):
    with pytest.raises(error, match=words):
        ImageClassification()(image)


@pytest.mark.parametrize(
    "arguments",
    [
        {"crop_size": 0},
        {"crop_size": 257},
        {"crop_size": 10, "resize_size": 9},
        {"mean": (0.5,)},
        {"std": (0.5, 0.5)},
        {"std": (0.5, 0.5, 0.0)},
        {"std": (0.5, 0.5, float("nan"))},
    ],
)
def test_settings_it_cannot_take(arguments):
    with pytest.raises(ValueError, match="ImageClassification: wanted"):
        ImageClassification(**arguments)


FORMS = {
    "an image": lambda batch: batch[0],
    "a batch": lambda batch: batch,
    "channels_last": lambda batch: batch.contiguous(memory_format=torch.channels_last),
    "an image as it is decoded": lambda batch: batch[0].permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "grey": lambda batch: batch[:, :1].expand(-1, 3, -1, -1),
    "no image": lambda batch: batch[:0],
}


# Of 427 x 640 the longer side is rounded down, not to the nearest.
SIZES = [(300, 427), (427, 640), (640, 427), (256, 256), (256, 999), (81, 64), (2, 3)]


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (1, 9), (9, 1), (2, 31), (255, 257)])
def test_as_torchvision(size, generator):
    """To the bit, whatever comes: torch's own resize in float32 or float64, Pillow's for its images."""
    theirs = need("torchvision").models.AlexNet_Weights.IMAGENET1K_V1.transforms()
    pixels = random_pixels(generator, *size, n=2)
    image = to_pil(pixels[0])
    assert torch.equal(ImageClassification()(image), theirs(image))
    assert ImageClassification()(image).is_contiguous() and ImageClassification()(pixels[0]).is_contiguous()
    fractions = torch.rand(2, 3, *size, generator=generator)
    tensors = {f"{name}, {batch.dtype}": form(batch) for batch in (pixels, fractions) for name, form in FORMS.items()}
    tensors |= {str(dtype): fractions[0].to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)}
    for name, tensor in tensors.items():
        ours, wanted = ImageClassification()(tensor), theirs(tensor)
        assert ours.dtype == wanted.dtype == torch.float32
        assert torch.equal(ours, wanted), name
