"""How far augment's pixels are from exact ones and from torchvision's: what docs/augment.md prints is measured here."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import alexkern
from alexkern.augmentation import COLUMNS, Policy
from alexkern.backends.torch import augment as reference
from alexkern.functional import augment
from support.optional import need

DOCUMENT = Path(__file__).parent.parent / "docs" / "augment.md"
SHAPES = ((375, 500), (480, 360), (90, 64))  # the larger the image, the less exact is a position in float32
SIZE, SCALE = (24, 28), (0.002, 0.02)  # so that little is shrunk: a mean over many pixels hides errors
DEGREES = 33.0
SEED = torch.tensor([20120930, 3])


def pictures(images: list[Tensor], size: tuple[int, int], **options: object) -> Tensor:
    """(N, 3, *size) in [0, 1], by the backend that is the definition."""
    with alexkern.backend("torch"):
        return augment(images, size, seed=SEED, flip=0.0, mean=(0.0,) * 3, std=(1.0,) * 3, **options)


def weights(start: int, count: int, new_count: int) -> np.ndarray:
    """The document's triangle over a box that is not turned: (new_count, count), each row adding up to 1."""
    step = count / new_count
    centres = start + count / 2 + (np.arange(new_count) + 0.5 - new_count / 2) * step
    found = np.clip(1 - np.abs(np.arange(start, start + count) + 0.5 - centres[:, None]) / max(1, step), 0, None)
    return found / found.sum(axis=1, keepdims=True)


def cropped(image: Tensor, box: list[int]) -> np.ndarray:
    top, left, height, width = box
    part = image[top : top + height, left : left + width].double().numpy() / 255
    return np.einsum("ph,qw,hwc->cpq", weights(top, height, SIZE[0]), weights(left, width, SIZE[1]), part)


def rotated(image: Tensor) -> np.ndarray:
    H, W, _ = image.shape
    u, v = np.meshgrid(np.arange(W) + 0.5 - W / 2, np.arange(H) + 0.5 - H / 2)
    cos, sin = math.cos(math.radians(DEGREES)), math.sin(math.radians(DEGREES))
    places = np.stack([H / 2 + u * sin + v * cos, W / 2 + u * cos - v * sin]) - 0.5
    planes = image.permute(2, 0, 1).double().numpy() / 255
    sample = need("scipy.ndimage").map_coordinates
    return np.stack([sample(plane, places, order=1, mode="grid-constant") for plane in planes])


@pytest.fixture
def images(generator: torch.Generator) -> list[Tensor]:
    return [torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8) for shape in SHAPES]


def assert_documented(kind: str, found: list[Tensor], exact: list[np.ndarray], theirs: list[Tensor]) -> None:
    """The page's numbers are no less than the largest that were measured, and at most four times those."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (numbers,) = re.findall(rf"^\| {kind} \| (\S+) \| (\S+) \|$", text, re.MULTILINE)
    for printed, wanted in zip(numbers, (exact, theirs), strict=True):
        pairs = zip(found, map(torch.as_tensor, wanted), strict=True)
        measured = max((one.to(other.dtype) - other).abs().max().item() for one, other in pairs)
        assert measured <= float(printed) <= 4 * measured, f"{kind}: measured {measured:.1e}, printed {printed}"


def planes(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1).float() / 255


def test_crops(images: list[Tensor]) -> None:
    theirs = need("torchvision").transforms.functional.resized_crop
    table = reference.parameters(torch.tensor(SHAPES), SEED, Policy(SIZE, scale=SCALE, flip=0.0)).tolist()
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table]
    boxes = [[int(row[name]) for name in ("top", "left", "height", "width")] for row in rows]
    assert_documented(
        "cropped and resized",
        [*pictures(images, SIZE, scale=SCALE)],
        [cropped(image, box) for image, box in zip(images, boxes, strict=True)],
        [theirs(planes(image), *box, list(SIZE), antialias=True) for image, box in zip(images, boxes, strict=True)],
    )


def test_rotations(images: list[Tensor]) -> None:
    """Of each image, all of it."""
    torchvision = need("torchvision").transforms
    turn, bilinear = torchvision.functional.rotate, torchvision.InterpolationMode.BILINEAR
    whole = {"rotation": (DEGREES, DEGREES), "scale": (1.0, 1.0)}
    found = [pictures([one], (H, W), ratio=(W / H, W / H), **whole)[0] for one in images for H, W in [one.shape[:2]]]
    theirs = [turn(planes(image), DEGREES, bilinear) for image in images]
    assert_documented("rotated as a whole", found, [*map(rotated, images)], theirs)
