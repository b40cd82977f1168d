"""The inference preprocessing: against PIL, against a float64 reference, and against torchvision where it is."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alexkern.models import ImageClassification
from support.optional import need

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
SIZES = [(300, 427), (427, 300), (256, 256), (256, 999), (81, 64), (2, 3)]


def random_pixels(generator: torch.Generator, height: int, width: int, n: int | None = None) -> Tensor:
    shape = (3, height, width) if n is None else (n, 3, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def to_pil(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def triangle_filter(length: int, new_length: int) -> np.ndarray:
    """The matrix (new_length, length) of an antialiased bilinear resize: a triangle as wide as the shrinkage."""
    scale = length / new_length
    support = max(scale, 1.0)
    centres = (np.arange(new_length) + 0.5) * scale
    distances = np.abs(np.arange(length) + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distances, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def reference(pixels: Tensor) -> np.ndarray:
    """The defaults in float64, without rounding after the resize: (3, H, W) uint8 to (3, 224, 224)."""
    height, width = pixels.shape[1:]
    new_height, new_width = (256, 256 * width // height) if height <= width else (256 * height // width, 256)
    rows, columns = triangle_filter(height, new_height), triangle_filter(width, new_width)
    resized = rows @ pixels.double().numpy() @ columns.T
    top, left = round((new_height - 224) / 2), round((new_width - 224) / 2)
    cropped = resized[:, top : top + 224, left : left + 224] / 255
    return (cropped - MEAN[:, None, None]) / STD[:, None, None]


@pytest.mark.parametrize("size", SIZES)
def test_against_a_float64_reference(size, generator):
    pixels = random_pixels(generator, *size)
    want = torch.from_numpy(reference(pixels))
    # In steps of 8 bits: Pillow rounds after each axis; a tensor is rounded once, with 0.005 from positions in float32.
    for image, steps in ((to_pil(pixels), 1.001), (pixels, 0.506)):
        ours = ImageClassification()(image)
        assert ours.dtype == torch.float32 and ours.shape == (3, 224, 224) and ours.is_contiguous()
        assert (ours.double() - want).abs().max() <= steps / 255 / STD.min()
    exact = ImageClassification()(pixels.double() / 255)
    torch.testing.assert_close(exact.double(), want, rtol=0, atol=1e-6)


def test_a_pil_image_is_resized_by_pil(generator):
    image = to_pil(random_pixels(generator, 333, 500))
    resized = np.array(image.resize((384, 256), Image.Resampling.BILINEAR))[16:240, 80:304]
    want = (resized / 255 - MEAN) / STD
    ours = ImageClassification()(image).double().permute(1, 2, 0)
    torch.testing.assert_close(ours, torch.from_numpy(want), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "height, width, want",
    [
        (480, 640, (256, 341)),
        (640, 427, (383, 256)),
        (427, 640, (256, 383)),
        (256, 300, (256, 300)),
        (1, 1000, (256, 256000)),
    ],
)
def test_resized_shape(height, width, want):
    assert ImageClassification().resized_shape(height, width) == want


def test_odd_margins_are_cropped_as_torchvision_does(generator):
    """round() takes a half to the even neighbour: a margin of 5 leaves 2 above, one of 7 leaves 4."""
    pixels = random_pixels(generator, 15, 17) / 255
    plain = ImageClassification(crop_size=10, resize_size=15, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert torch.equal(plain(pixels), pixels[:, 2:12, 4:14])
    assert torch.equal(plain(pixels.mT), pixels.mT[:, 4:14, 2:12])


def test_a_batch_gives_what_its_images_give(generator):
    transforms = ImageClassification(crop_size=63, resize_size=70)
    batch = random_pixels(generator, 100, 90, n=3)
    for images in (batch, batch.float() / 255):
        assert torch.equal(transforms(images), torch.stack([transforms(image) for image in images]))
    assert transforms(batch[:0]).shape == (0, 3, 63, 63)


def test_any_strides(generator):
    """Grey images expanded to three channels, and channels_last ones."""
    transforms = ImageClassification(crop_size=63, resize_size=63)
    grey = random_pixels(generator, 8, 8)[:1].expand(3, -1, -1)
    assert torch.equal(transforms(grey), transforms(grey.contiguous()))
    batch = random_pixels(generator, 80, 90, n=2)
    assert torch.equal(transforms(batch.contiguous(memory_format=torch.channels_last)), transforms(batch))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_point_dtype_becomes_float32(dtype, generator):
    pixels = random_pixels(generator, 90, 100)
    ours = ImageClassification()(pixels.to(dtype) / 255)
    assert ours.dtype == torch.float32
    # The image, then the resized one, each rounded to the dtype.
    rounding = torch.finfo(dtype).eps / STD.min() + 1e-6
    torch.testing.assert_close(ours.double(), torch.from_numpy(reference(pixels)), rtol=0, atol=rounding)


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


def test_it_is_a_value():
    transforms = ImageClassification(crop_size=63, resize_size=70)
    assert repr(transforms) == (
        "ImageClassification(crop_size=63, resize_size=70, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
    )
    assert transforms == copy.deepcopy(transforms) == pickle.loads(pickle.dumps(transforms))
    assert transforms != ImageClassification()


FORMS = {
    "an image": lambda batch: batch[0],
    "a batch": lambda batch: batch,
    "channels_last": lambda batch: batch.contiguous(memory_format=torch.channels_last),
    "an image as it is decoded": lambda batch: batch[0].permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "grey": lambda batch: batch[:, :1].expand(-1, 3, -1, -1),
    "no image": lambda batch: batch[:0],
}


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (1, 9), (9, 1), (2, 31), (255, 257)])
def test_as_torchvision(size, generator):
    """To the bit, whatever comes: torch's own resize in float32 or float64, Pillow's for its images."""
    theirs = need("torchvision").models.AlexNet_Weights.IMAGENET1K_V1.transforms()
    pixels = random_pixels(generator, *size, n=2)
    image = to_pil(pixels[0])
    assert torch.equal(ImageClassification()(image), theirs(image))
    fractions = torch.rand(2, 3, *size, generator=generator)
    tensors = {f"{name}, {batch.dtype}": form(batch) for batch in (pixels, fractions) for name, form in FORMS.items()}
    tensors |= {str(dtype): fractions[0].to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)}
    for name, tensor in tensors.items():
        ours, wanted = ImageClassification()(tensor), theirs(tensor)
        assert ours.dtype == wanted.dtype == torch.float32
        assert torch.equal(ours, wanted), name
