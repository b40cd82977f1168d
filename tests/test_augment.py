"""augment: its draw to the bit, each transform against an implementation of another kind, both backends alike.

The golden values come from PIL (resizing in float32), scipy (rotation), colorsys (hue) and numpy in float64, written
from the formulas in torchvision's documentation; the last test asks torchvision itself, where it is installed.
"""

from __future__ import annotations

import colorsys
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import alexkern
from alexkern import augmentation as A
from alexkern import dispatch
from alexkern.augmentation import COLUMNS, CROPS, Policy
from alexkern.backends.torch import augment as reference
from alexkern.backends.torch import philox
from alexkern.functional import augment
from alexkern.ops.augment import pad
from alexkern.references import augment as definition
from support.backends import DEVICE, dtypes, serving
from support.canaries import canaries
from support.optional import need

BACKENDS = serving("augment")
EXACT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "flip": 0.0}  # pixels in [0, 1]
TOLERANCE = 4e-6  # in [0, 1]: a thousandth of a grey level

every_backend = pytest.mark.parametrize("backend", BACKENDS)


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def run(backend: str, images: Tensor | list[Tensor], size: int | tuple[int, int], **options: object) -> np.ndarray:
    """The batch as (N, H, W, 3) float64."""
    options = {"seed": torch.tensor([20120930, 7])} | options
    images = [image.to(DEVICE) for image in images] if isinstance(images, list) else images.to(DEVICE)
    with alexkern.backend(backend):
        batch = augment(images, size, **options | {"seed": options["seed"].to(DEVICE)})
    return batch.permute(0, 2, 3, 1).double().cpu().numpy()


def table(sizes: list[tuple[int, int]], seed: Tensor, **policy: object) -> list[dict[str, float]]:
    rows = reference.parameters(torch.tensor(sizes), seed, Policy(**policy))
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows.tolist()]


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """PIL's own antialiased bilinear resize, in float32. pixels: (H, W, 3) -> (*size, 3)"""
    planes = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes], axis=-1)


# The draw


def uniform(word: int, low: float, high: float) -> np.float32:
    return np.float32(np.float32(word >> 8) * np.float32(2.0**-24)) * np.float32(high - low) + np.float32(low)


def test_the_counters_are_where_the_documents_say() -> None:
    key, offset, count = 0x0123456789ABCDEF, -5, 3
    seed = torch.tensor([key, offset])
    policy = {
        "rotation": (-10.0, 25.0), "brightness": (0.5, 1.5), "contrast": (0.25, 2.0), "saturation": (0.1, 1.1),
        "hue": (-0.4, 0.3), "lighting": 0.1, "flip": 0.4,
    }  # fmt: skip
    rows = table([(480, 640)] * count, seed, size=(224, 224), **policy)
    for n, row in enumerate(rows):
        words = []
        for block in range(16):
            counter = (offset + 16 * n + block) % 2**64
            words.append(philox.block(counter & 0xFFFFFFFF, counter >> 32, 0, 0, key, key >> 32))
        assert row["flip"] == (words[0][0] < int(0.4 * 2**32))
        angle = uniform(words[0][1], -10.0, 25.0)
        assert row["cos"] == pytest.approx(math.cos(math.radians(angle)), abs=2e-7)
        assert row["sin"] == pytest.approx(math.sin(math.radians(angle)), abs=2e-7)
        assert row["brightness"] == uniform(words[0][2], 0.5, 1.5)
        assert row["contrast"] == uniform(words[0][3], 0.25, 2.0)
        assert row["saturation"] == uniform(words[1][0], 0.1, 1.1)
        assert row["hue"] == uniform(words[1][1], -0.4, 0.3)
        deviates = [sum(sum(word.to_bytes(4, "little")) for word in words[2 + k]) for k in range(3)]
        alphas = [0.1 * (total - 2040) / math.sqrt(16 * (2**16 - 1) / 12) for total in deviates]
        added = np.array(A.EIGENVECTORS) @ (np.array(A.EIGENVALUES) * alphas)
        assert np.allclose([row["red"], row["green"], row["blue"]], added, rtol=0, atol=1e-8)
        for attempt in range(10):
            area, ratio, top, left = words[6 + attempt]
            side = math.sqrt(480 * 640 * uniform(area, 0.08, 1.0))
            root = math.exp(0.5 * uniform(ratio, math.log(3 / 4), math.log(4 / 3)))
            wide, high = math.floor(side * root + 0.5), math.floor(side / root + 0.5)
            if 0 < wide <= 640 and 0 < high <= 480:
                break
        box = (top * (480 - high + 1) >> 32, left * (640 - wide + 1) >> 32, high, wide)
        assert (row["top"], row["left"], row["height"], row["width"]) == box


def test_random_crops_are_placed_evenly_in_the_central_square() -> None:
    rows = table([(256, 300)] * 4000, torch.tensor([3, 4]), size=(224, 224), crop="random", resize=256)
    tops, lefts = ({row[name] for row in rows} for name in ("top", "left"))
    assert tops == set(range(33)) and lefts == set(range(22, 55))
    assert {(row["height"], row["width"]) for row in rows} == {(224.0, 224.0)}


def test_an_image_that_no_attempt_fits_gives_its_largest_allowed_box() -> None:
    boxes = {(100, 10): (43, 0, 13, 10), (10, 100): (0, 43, 10, 13), (79, 70): (0, 0, 79, 70), (70, 79): (0, 0, 70, 79)}
    rows = table([*boxes], torch.tensor([1, 2]), size=(8, 8), scale=(1.0, 1.0))
    assert [(row["top"], row["left"], row["height"], row["width"]) for row in rows] == [*boxes.values()]


@pytest.mark.parametrize("size", [(8, 16), (16, 8)])
def test_an_attempt_as_high_or_as_wide_as_its_image_fits(size: tuple[int, int]) -> None:
    """And `alexkern verify` has the same boxes."""
    seed, policy = torch.tensor([1, 2]), {"size": (8, 8), "scale": (0.5, 0.5), "ratio": (1.0, 1.0)}
    rows = table([size] * 9, seed, **policy)
    boxes = [(row["top"], row["left"], row["height"], row["width"]) for row in rows]
    words = philox.words(seed, 4 * A.BLOCKS * 9).view(9, A.BLOCKS, 4)
    assert boxes == [definition.resized_box(torch.empty(*size, 3), w[A.ATTEMPTS :], Policy(**policy)) for w in words]
    assert len(set(boxes)) > 1 and {box[2:] for box in boxes} == {(8, 8)}  # not those in the middle


@pytest.mark.parametrize(
    "change", ["brightness", "contrast", "saturation", "hue", "lighting", "rotation", "flip", "scale"]
)
def test_what_verify_holds_backends_to_changes_what_they_change(change: str, generator: torch.Generator) -> None:
    range_of = {"lighting": 0.4, "flip": 1.0, "hue": (-0.4, -0.1), "rotation": (20.0, 30.0)}.get(change, (0.3, 0.6))
    images = torch.randint(256, (2, 21, 17, 3), generator=generator, dtype=torch.uint8)
    sizes, seed = torch.tensor([(21, 17), (15, 16)]), torch.tensor([3, 5])
    plain = {"size": (9, 8), "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}
    with_it, without = (Policy(**plain | more) for more in ({change: range_of}, {}))
    wanted = definition.forward(images, sizes, seed, replace(with_it, dtype=torch.float64))
    torch.testing.assert_close(reference.forward(images, sizes, seed, with_it).double(), wanted, rtol=0, atol=2e-5)
    assert (wanted - definition.forward(images, sizes, seed, without)).abs().max() > 0.05


@pytest.mark.skipif("triton" not in BACKENDS, reason="no Triton backend here")
@pytest.mark.parametrize("crop, scale", [*((crop, (0.08, 1.0)) for crop in CROPS), (CROPS[0], (1.0, 1.0))])
def test_both_backends_draw_the_same_bits(crop: str, scale: tuple, generator: torch.Generator) -> None:
    from alexkern.kernels import augment as kernels

    sizes = torch.randint(1, 2000, (70, 2), generator=generator).to(DEVICE)
    policy = Policy(
        (60, 91), crop, 97, scale=scale, rotation=(-200.0, 300.0), brightness=(0.1, 2.3), contrast=(0.3, 1.2),
        saturation=(0.0, 3.1), hue=(-0.5, 0.1), lighting=0.37, flip=0.3, ratio=(0.3, 1.9),
    )  # fmt: skip
    for seed in ([-1, -1], [2**63 - 1, 2**32 - 70], [0, 0]):
        place = torch.tensor(seed, device=DEVICE)
        with canaries() as buffers:
            ours = kernels.parameters(sizes, place, policy)
        wanted = reference.parameters(sizes, place, policy)
        assert len(buffers) == 1 and not wanted.isnan().any()
        assert torch.equal(ours.view(torch.int32), wanted.view(torch.int32))


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name in ("torch", "triton")])
@pytest.mark.parametrize(("size", "ratio"), [((3, 1), 1 / 9), ((1, 3), 9.0)], ids=["columns", "rows"])
def test_an_attempt_without_rows_or_columns_does_not_fit(size: tuple[int, int], ratio: float, backend: str) -> None:
    policy = Policy((8, 8), scale=(1 / 3, 1 / 3), ratio=(ratio, ratio))
    drawn = dispatch.implementation(backend, "augment").parameters
    sizes, seed = torch.tensor([size], device=DEVICE), torch.tensor([1, 2], device=DEVICE)
    row = dict(zip(COLUMNS, drawn(sizes, seed, policy)[0].tolist(), strict=True))
    assert (row["top"], row["left"], row["height"], row["width"]) == (0, 0, *size)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name in ("torch", "triton")])
def test_a_word_as_high_as_the_threshold_does_not_flip(backend: str) -> None:
    word = philox.block(2, 0, 0, 0, 1, 0)[0]
    sizes, seed = torch.tensor([(8, 8)], device=DEVICE), torch.tensor([1, 2], device=DEVICE)
    for flip, flipped in ((word / 2**32, 0.0), ((word + 1) / 2**32, 1.0)):
        rows = dispatch.implementation(backend, "augment").parameters(sizes, seed, Policy((8, 8), flip=flip))
        assert rows[0, COLUMNS.index("flip")] == flipped


# Each transform alone, against another implementation


@every_backend
@pytest.mark.parametrize("shape, size", [((23, 31), (10, 12)), ((12, 9), (21, 30)), ((40, 7), (11, 16)), ((5, 5), 5)])
def test_random_resized_crop(backend: str, shape: tuple, size: object, generator: torch.Generator) -> None:
    images = noise(generator, 3, *shape, 3)
    seed = torch.tensor([11, 12])
    found = run(backend, images, size, seed=seed, **EXACT)
    target = size if isinstance(size, tuple) else (size, size)
    for pixels, row, ours in zip(images.numpy(), table([shape] * 3, seed, size=target), found, strict=True):
        top, left, high, wide = (int(row[name]) for name in ("top", "left", "height", "width"))
        wanted = resized(pixels[top : top + high, left : left + wide], target) / 255
        assert np.abs(ours - wanted).max() <= TOLERANCE


@every_backend
@pytest.mark.parametrize("shape", [(23, 37), (50, 26), (31, 31), (9, 12)])
def test_the_crops_after_a_resize(backend: str, shape: tuple[int, int], generator: torch.Generator) -> None:
    """torchvision's Resize(19), then CenterCrop or a corner of the central square."""
    image = noise(generator, *shape, 3)
    high, wide = (19, 19 * shape[1] // shape[0]) if shape[0] <= shape[1] else (19 * shape[0] // shape[1], 19)
    whole = resized(image.numpy(), (high, wide)) / 255
    squared = (round((high - 19) / 2), round((wide - 19) / 2))
    places = {"center": (round((high - 14) / 2), round((wide - 11) / 2))}
    for crop in CROPS[3:]:
        below, right = 5 * crop.startswith("bottom"), 8 * crop.endswith("right")
        places[crop] = (squared[0] + below, squared[1] + right)
    for crop, (top, left) in places.items():
        (found,) = run(backend, [image], (14, 11), crop=crop, resize=19, **EXACT)
        assert np.abs(found - whole[top : top + 14, left : left + 11]).max() <= TOLERANCE, crop


@every_backend
@pytest.mark.parametrize("angle", [0.0, 90.0, 180.0, -37.0, 203.5, 12.25])
def test_rotation(backend: str, angle: float, generator: torch.Generator) -> None:
    """torchvision's rotate: counter-clockwise about the centre, bilinear, black outside."""
    map_coordinates = need("scipy.ndimage").map_coordinates
    shape = (13, 18)
    image = noise(generator, *shape, 3)
    whole = {"scale": (1.0, 1.0), "ratio": (18 / 13, 18 / 13)}
    (found,) = run(backend, [image], shape, rotation=(angle, angle), **EXACT, **whole)
    p, q = np.meshgrid(*(np.arange(size) + 0.5 - size / 2 for size in shape), indexing="ij")
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    places = np.stack([sin * q + cos * p + shape[0] / 2 - 0.5, cos * q - sin * p + shape[1] / 2 - 0.5])
    pixels = image.numpy().astype(np.float64) / 255
    wanted = [map_coordinates(pixels[..., c], places, order=1, mode="grid-constant") for c in range(3)]
    assert np.abs(found - np.stack(wanted, axis=-1)).max() <= TOLERANCE


@every_backend
def test_a_turned_and_shrunk_picture_has_no_aliases(backend: str) -> None:
    """A chessboard of single pixels, shrunk to a fifth and turned, is grey all over; without antialiasing it is not."""
    board = (torch.arange(60).view(-1, 1) + torch.arange(60)).remainder(2).mul(255).to(torch.uint8)
    image = board.unsqueeze(-1).expand(60, 60, 3)
    (found,) = run(backend, [image], 12, rotation=(30.0, 30.0), crop="center", resize=24, **EXACT)
    assert np.abs(found - 0.5).max() < 0.02


@every_backend
def test_flip(backend: str, generator: torch.Generator) -> None:
    images = noise(generator, 12, 6, 9, 3)
    same = {"crop": "center", "resize": 9}
    upright = run(backend, images, (6, 9), **EXACT | same)
    turned = run(backend, images, (6, 9), **EXACT | same | {"flip": 1.0})
    assert np.array_equal(turned, upright[:, :, ::-1])
    some = run(backend, images, (6, 9), **EXACT | same | {"flip": 0.5})
    kinds = [(np.array_equal(a, b), np.array_equal(a, c)) for a, b, c in zip(some, upright, turned, strict=True)]
    assert set(kinds) == {(True, False), (False, True)}


def grey(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.array([0.2989, 0.587, 0.114])


def hued(pixels: np.ndarray, shift: float) -> np.ndarray:
    def turn(rgb: np.ndarray) -> tuple[float, float, float]:
        h, s, v = colorsys.rgb_to_hsv(*rgb)
        return colorsys.hsv_to_rgb((h + shift) % 1, s, v)

    return np.apply_along_axis(turn, -1, pixels)


def contrasted(x: np.ndarray, f: float) -> np.ndarray:
    return np.clip(f * x + (1 - f) * grey(x).mean(axis=(1, 2))[:, None, None, None], 0, 1)


GOLDEN = {
    "brightness": lambda x, f: np.clip(x * f, 0, 1),
    "contrast": contrasted,
    "saturation": lambda x, f: np.clip(f * x + (1 - f) * grey(x)[..., None], 0, 1),
    "hue": hued,
}


@every_backend
@pytest.mark.parametrize(
    "name, value", [("brightness", 0.3), ("brightness", 1.9), ("contrast", 0.4), ("contrast", 2.5), ("contrast", 0.0),
                    ("saturation", 0.0), ("saturation", 2.2), ("hue", 0.31), ("hue", -0.5), ("hue", -0.07)],
)  # fmt: skip
def test_a_colour_alone(name: str, value: float, backend: str, generator: torch.Generator) -> None:
    images = noise(generator, 2, 17, 19, 3)
    images[0, :3] = images[0, :3, :, :1]  # greys, which have no hue
    images[0, 4, :6] = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 8]])
    pixels = run(backend, images, (17, 19), crop="center", resize=19, **EXACT)  # which other tests hold to PIL
    found = run(backend, images, (17, 19), crop="center", resize=19, **EXACT | {name: (value, value)})
    assert np.abs(found - GOLDEN[name](pixels, value)).max() <= TOLERANCE


@every_backend
def test_colours_come_in_their_order_with_lighting_and_norm_last(backend: str, generator: torch.Generator) -> None:
    images = noise(generator, 3, 20, 20, 3)
    seed = torch.tensor([8, 9])
    ranges = {"brightness": (0.5, 1.6), "contrast": (0.5, 1.6), "saturation": (0.5, 1.6), "hue": (-0.2, 0.2)}
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    options = {"crop": "center", "resize": 20, "flip": 0.0, "lighting": 0.5}
    found = run(backend, images, 20, mean=mean, std=std, seed=seed, **options, **ranges)
    rows = table([(20, 20)] * 3, seed, size=(20, 20), **options, **ranges)
    pixels = images.numpy() / 255
    for name in ("brightness", "contrast", "saturation", "hue"):
        pixels = np.concatenate([GOLDEN[name](pixels[n : n + 1], row[name]) for n, row in enumerate(rows)])
    light = np.array([[row["red"], row["green"], row["blue"]] for row in rows])
    assert np.abs(light).min() > 1e-3
    assert np.abs(found - (pixels + light[:, None, None] - mean) / std).max() <= 5 * TOLERANCE


# What goes in and what comes out


@every_backend
def test_a_padded_batch_is_a_list_is_one_by_one(backend: str, generator: torch.Generator) -> None:
    images = [noise(generator, *shape, 3) for shape in ((9, 30), (25, 8), (1, 1))]
    batch, sizes = pad(images)
    batch[0, 9:], batch[1, :, 8:], batch[2, 1:] = 201, 202, 203  # the padding is not to be seen
    options = {"rotation": 30.0, "brightness": 0.3, "contrast": 0.4, "hue": 0.1, "seed": torch.tensor([5, 100])}
    padded = run(backend, batch, (7, 11), sizes=sizes.to(torch.int32), **options)
    assert np.array_equal(padded, run(backend, images, (7, 11), **options))
    for n, image in enumerate(images):  # image n of a batch is the first of one whose offset is 16 * n further
        options["seed"] = torch.tensor([5, 100 + 16 * n])
        assert np.abs(run(backend, [image], (7, 11), **options)[0] - padded[n]).max() <= 5 * TOLERANCE


@every_backend
def test_any_strides_and_oversized_sizes(backend: str, generator: torch.Generator) -> None:
    stored = noise(generator, 2, 3, 12, 26)
    images = stored.permute(0, 2, 3, 1)[:, 1:, ::2]
    wanted = run(backend, images.contiguous(), 8)
    assert np.abs(run(backend, images, 8) - wanted).max() <= 5 * TOLERANCE
    assert np.array_equal(run(backend, images, 8, sizes=torch.full((2, 2), 10**6)), run(backend, images, 8))


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_and_layout(backend: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    if backend == "triton" and DEVICE.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter computes bfloat16 wrong")
    if dtype not in dtypes(backend):
        pytest.skip(f"backend {backend} has no {dtype}")
    images = noise(generator, 2, 20, 17, 3).to(DEVICE)
    seed = torch.tensor([1, 2], device=DEVICE)
    with alexkern.backend(backend):
        exact = augment(images, (9, 13), seed=seed)
        with canaries() as buffers:
            batch = augment(images, (9, 13), seed=seed, dtype=dtype)
    assert batch.dtype == dtype and batch.shape == (2, 3, 9, 13) and not batch.requires_grad
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert (batch.float() - exact).abs().max() <= torch.finfo(dtype).eps * 3
    assert buffers or backend == "torch"


def test_images_go_to_depth_where_that_is_asked_for() -> None:
    assert Policy((20, 24)).shape(2) == (2, 3, 20, 24)
    assert Policy((20, 24), space_to_depth=True).shape(2) == (2, 48, 6, 7)


@every_backend
@pytest.mark.parametrize("size", [(63, 64), (65, 70)])
def test_space_to_depth_is_the_first_layers_input(
    backend: str, size: tuple[int, int], generator: torch.Generator
) -> None:
    images = noise(generator, 1, 66, 68, 3).to(DEVICE)
    seed = torch.tensor([1, 2], device=DEVICE)
    with alexkern.backend(backend):
        plain = augment(images, size, seed=seed, rotation=5.0)
        with canaries():
            deep = augment(images, size, seed=seed, rotation=5.0, space_to_depth=True)
    weight = torch.randn(4, 3, 11, 11, generator=generator).to(DEVICE)
    wanted = F.conv2d(plain, weight, stride=4, padding=2)
    assert deep.shape == (1, 48, wanted.shape[2] + 2, wanted.shape[3] + 2)
    assert deep.is_contiguous(memory_format=torch.channels_last)
    blocks = F.pad(weight, (0, 1, 0, 1)).view(4, 3, 3, 4, 3, 4).permute(0, 3, 5, 1, 2, 4).reshape(4, 48, 3, 3)
    torch.testing.assert_close(F.conv2d(deep, blocks), wanted, rtol=1e-4, atol=1e-3)


@every_backend
def test_the_same_seed_gives_the_same_picture(backend: str, generator: torch.Generator) -> None:
    images = noise(generator, 4, 14, 15, 3)
    with alexkern.backend(backend):
        pictures = []
        for manual in (1, 1, 2):
            torch.manual_seed(manual)
            pictures.append(augment(images.to(DEVICE), 8, contrast=0.5))
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    assert not torch.equal(pictures[0][0], pictures[0][1])


@every_backend
def test_an_empty_batch(backend: str) -> None:
    assert run(backend, torch.empty(0, 5, 5, 3, dtype=torch.uint8), (4, 6)).shape == (0, 4, 6, 3)


IMAGE = torch.zeros(4, 5, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    "arguments, options, words",
    [
        ((IMAGE, 4), {}, r"images must be \(N, H, W, 3\), .* got shape \(4, 5, 3\)"),
        ((IMAGE[None].float(), 4), {}, "images's dtype must be uint8, got torch.float32"),
        ((torch.zeros(1, 0, 5, 3, dtype=torch.uint8), 4), {}, "H and W at least 1"),
        ((torch.zeros(1, 1, 40000, 3, dtype=torch.uint8), 4), {}, "at most 32768 pixels"),
        ((IMAGE[None].float().requires_grad_(), 4), {}, "images must be uint8: augment has no gradient, got"),
        (([], 4), {}, "at least one image, got an empty list"),
        (([IMAGE, IMAGE[0]], 4), {}, r"images\[1\] must be \(H, W, 3\)"),
        (([IMAGE], 4), {"sizes": torch.ones(1, 2)}, "a list has its own"),
        ((IMAGE[None], 0), {}, "size must be at least 1 and at most .*, got 0"),
        ((IMAGE[None], (4, 20000)), {}, "size must be at most 16384"),
        ((IMAGE[None], 4), {"sizes": torch.ones(1, 2)}, r"sizes must be \(1, 2\) whole numbers"),
        ((IMAGE[None], 4), {"crop": "middle"}, "crop must be one of random_resized, .* got 'middle'"),
        ((IMAGE[None], 4), {"resize": 3}, "resize must be from size's longer side, 4, to"),
        ((IMAGE[None], 4), {"scale": (0.0, 1.0)}, "scale must be .*over 0 and at most 1"),
        ((IMAGE[None], 4), {"ratio": (2.0, 1.0)}, "ratio must be"),
        ((IMAGE[None], 4), {"flip": 1.5}, "flip must be a probability"),
        ((IMAGE[None], 4), {"rotation": -3.0}, "rotation must be at least 0"),
        ((IMAGE[None], 4), {"hue": 0.6}, "hue must be at least 0 and at most 0.5, got 0.6"),
        ((IMAGE[None], 4), {"brightness": (-1.0, 1.0)}, "brightness must be"),
        ((IMAGE[None], 4), {"lighting": float("nan")}, "lighting must be"),
        ((IMAGE[None], 4), {"std": (1.0, 0.0, 1.0)}, "std must be three positive numbers"),
        ((IMAGE[None], 4), {"dtype": torch.float64}, "dtype must be float32, float16 or bfloat16"),
        ((IMAGE[None], 4), {"seed": torch.zeros(2)}, "seed must be an int64 tensor of two on cpu"),
    ],
)
def test_bad_arguments(arguments: tuple, options: dict, words: str) -> None:
    with pytest.raises(alexkern.ArgumentError, match=f"^alexkern.augment: .*{words}") as caught:
        augment(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_under_transforms() -> None:
    """Beside what is differentiated it works; of itself it says what it has not."""
    with pytest.raises(RuntimeError, match="alexkern.augment: vmap is not supported"):
        torch.func.vmap(lambda image: augment(image, 4), randomness="different")(IMAGE[None, None])
    with pytest.raises(alexkern.ArgumentError, match="augment has no gradient"):
        torch.func.grad(lambda image: augment(image, 4).sum())(IMAGE[None].float())
    scale = torch.ones(3, 1, 1)
    assert torch.func.grad(lambda scale: (scale * augment(IMAGE[None], 4)).sum())(scale).shape == scale.shape


@pytest.mark.parametrize(
    "options", [{"images": 3}, {"resize": 5.5}, {"mean": (1.0, 2.0)}, {"sizes": [(1, 2)]}, {"flip": "half"}]
)
def test_wrong_types(options: dict) -> None:
    with pytest.raises(TypeError, match="^alexkern.augment: "):
        augment(**{"images": IMAGE[None], "size": 4} | options)


# The kernels ahead of time

AHEAD = """
import dataclasses, json, sys
import torch
from alexkern.kernels import augment
from alexkern.tools import aot
from alexkern.augmentation import Policy

for dtype in (torch.float32, torch.float16, torch.bfloat16):
    for space_to_depth in (False, True):
        policies = [Policy((224, 224), dtype=dtype, space_to_depth=space_to_depth, lighting=0.1)]
        jitter = dict(brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.6, 1.4), hue=(-0.1, 0.1))
        policies.append(dataclasses.replace(policies[0], crop="random", rotation=(-9.0, 9.0), **jitter))
        for policy in policies:
            images = torch.empty(128, 256, 341, 3, dtype=torch.uint8, device="meta")
            sizes = torch.empty(128, 2, dtype=torch.int64, device="meta")
            seed = torch.empty(2, dtype=torch.int64, device="meta")
            if sys.argv[2] == "quick" and (policy is policies[0] or not space_to_depth):
                continue
            launches, _ = aot.record(lambda: augment.forward(images, sizes, seed, policy))
            for launch in launches:
                for target in json.loads(sys.argv[1]):
                    if launch.kernel.__name__ == "augment_draw_kernel":  # to the bit: nothing fused or approximate
                        ptx = aot.compile(launch, target).asm["ptx"]
                        assert not any(name in ptx for name in ("fma.rn.f32", "approx", "div.full")), ptx
                    report = dataclasses.asdict(aot.report(launch, target))
                    print(json.dumps(report | {"workload": "augment", "arithmetic": str(dtype)[6:]}), flush=True)
    if sys.argv[2] == "quick":
        break
"""


@pytest.mark.skipif("triton" not in BACKENDS, reason="no Triton backend here")
@pytest.mark.parametrize("extent", ["quick", pytest.param("all", marks=pytest.mark.full)])
def test_the_kernels_keep_their_budget(extent: str, tmp_path: object) -> None:
    from alexkern.tools.aot import Report
    from alexkern.tools.triton_budget import violations

    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    targets = [80, 90, 100] if extent == "all" else [90]
    command = [sys.executable, "-c", AHEAD, json.dumps(targets), extent]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reports = []
    for line in done.stdout.splitlines():
        fields = json.loads(line)
        for name in ("loads", "stores", "copies"):
            fields[name] = {int(width): number for width, number in fields[name].items()}
        reports.append(Report(**fields))
    assert {report.kernel for report in reports} == {"augment_draw_kernel", "augment_grey_kernel", "augment_kernel"}
    broken = [line for report in reports for line in violations(report)]
    assert not broken, "\n".join(broken)


def test_torchvision_itself(generator: torch.Generator) -> None:
    """Each functional of torchvision on the picture in float32, but for those that test_augment_error.py measures."""
    need("torchvision")
    from torchvision.transforms import functional as V

    image = noise(generator, 40, 52, 3)
    square = {"crop": "center", "resize": 26}

    def ours(**options: object) -> Tensor:
        return torch.from_numpy(run("torch", [image], 24, **EXACT | square | options)[0]).permute(2, 0, 1).float()

    small = V.center_crop(V.resize(image.permute(2, 0, 1).float() / 255, 26, antialias=True), [24, 24])
    pairs = [(ours(), small), (ours(flip=1.0), V.hflip(small))]
    for name, value in (("brightness", 1.7), ("contrast", 0.4), ("saturation", 2.0), ("hue", 0.2)):
        pairs.append((ours(**{name: (value, value)}), getattr(V, f"adjust_{name}")(small, value)))
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
