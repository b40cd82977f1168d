"""augment: uint8 images of any sizes to a normalised batch, each image with parameters of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alexkern import dispatch
from alexkern.augmentation import CROPS, IMAGENET_MEAN, IMAGENET_STD, Pair, Policy, Triple
from alexkern.errors import argument_error
from alexkern.ops import checks, seed
from alexkern.ops.description import Description
from alexkern.references.augment import REFERENCE

NAME = "augment"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_SIDE = 2**15  # pixels: a position is a float32, and should be exact to a 256th of a pixel
MAX_SIZE = 2**14  # pixels: kernels count the numbers of one output in 32 bits


def augment(
    images: Tensor | Sequence[Tensor],
    size: int | tuple[int, int],
    *,
    sizes: Tensor | None = None,
    crop: str = "random_resized",
    resize: int | None = None,
    scale: Pair = (0.08, 1.0),
    ratio: Pair = (3 / 4, 4 / 3),
    flip: float = 0.5,
    rotation: float | Pair = 0.0,
    brightness: float | Pair = 0.0,
    contrast: float | Pair = 0.0,
    saturation: float | Pair = 0.0,
    hue: float | Pair = 0.0,
    lighting: float = 0.0,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
    space_to_depth: bool = False,
    seed: Tensor | None = None,
) -> Tensor:
    """uint8 images to a normalised batch: crop, rotation, resize, flip, colours, lighting, mean and std, in that order.

    Each image has its own parameters, drawn on its device by Philox4x32-10. For the same seed every backend draws the
    same parameters, bit for bit, and makes the same picture to float32's accuracy. docs/augment.md has all formulas.

    Args:
        images: uint8 RGB, (N, H, W, 3), or a list of (H, W, 3) of any sizes, which is padded.
        size: height and width that come out, in pixels; an int for both.
        sizes: (N, 2) whole numbers, height and width of each image in a padded batch, whose upper left corner it is;
            default: all of the batch. What exceeds the batch is cut to it.
        crop: "random_resized" is torchvision's RandomResizedCrop. The others resize the shorter side to `resize` and
            cut out `size` then: "center", or of the central square "random" and the four corners "top_left" and so on
            (Krizhevsky, Sutskever, Hinton 2012, section 4.1).
        resize: of the shorter side, in pixels; default: 256 / 224 of the longer side of `size`.
        scale, ratio: of "random_resized": share of the area, and width / height, each (lowest, highest).
        flip: probability of a horizontal flip.
        rotation: degrees, counter-clockwise, about the crop's centre: d for -d to d, or (lowest, highest). What lies
            outside of the image is black.
        brightness, contrast, saturation: factors: b for max(0, 1 - b) to 1 + b, or (lowest, highest).
        hue: shares of a circle, up to 0.5: h for -h to h, or (lowest, highest).
        lighting: standard deviation of the three factors of the paper's PCA lighting; the paper has 0.1.
        mean, std: of each channel of RGB in [0, 1].
        dtype: float32, float16 or bfloat16.
        space_to_depth: whether to lay the batch out for AlexNet's first layer: padded by 2, then blocks of 4 x 4 pixels
            as 48 channels, over which the layer (11 x 11, stride 4) is a 3 x 3 convolution of stride 1.
        seed: int64 tensor of two, (seed, offset), on the images' device; default: drawn from torch's generator.

    Returns:
        (N, 3, *size) in channels_last memory, or (N, 48, P + 2, Q + 2) for the first layer's output (P, Q).

    No gradient.

    Raises:
        TypeError: an argument of the wrong type.
        ArgumentError: (a ValueError and a RuntimeError) a shape, range or dtype that does not fit.
    """
    if isinstance(images, (list, tuple)):
        if sizes is not None:
            raise argument_error(NAME, "sizes", "sizes beside a list of images", "None: a list has its own")
        images, sizes = pad(images)
    images = _checked(images, "images", 4)
    height, width = checks.pair(NAME, "size", size, 1)
    if max(height, width) > MAX_SIZE:
        raise argument_error(NAME, "size", size, f"at most {MAX_SIZE}")
    if dtype not in DTYPES:
        raise argument_error(NAME, "dtype", dtype, "float32, float16 or bfloat16")
    if crop not in CROPS:
        raise argument_error(NAME, "crop", repr(crop), f"one of {', '.join(CROPS)}")
    policy = Policy(
        size=(height, width),
        crop=crop,
        resize=_resize(resize, max(height, width)),
        scale=_range("scale", scale, 0.0, 1.0, positive=True),
        ratio=_range("ratio", ratio, 1 / 16, 16.0),
        flip=checks.probability(NAME, flip, "flip"),
        rotation=_around("rotation", rotation, 0.0, -360.0, 360.0),
        brightness=_around("brightness", brightness, 1.0, 0.0, math.inf),
        contrast=_around("contrast", contrast, 1.0, 0.0, math.inf),
        saturation=_around("saturation", saturation, 1.0, 0.0, math.inf),
        hue=_around("hue", hue, 0.0, -0.5, 0.5),
        lighting=_range("lighting", (0.0, lighting), 0.0, math.inf)[1],
        mean=_triple("mean", mean),
        std=_triple("std", std, positive=True),
        dtype=dtype,
        space_to_depth=bool(space_to_depth),
    )
    drawn = _seed(seed, images.device)
    shapes = _sizes(sizes, images)
    if len(images) == 0:
        return torch.empty(policy.shape(0), dtype=dtype, device=images.device, memory_format=torch.channels_last)
    # What torch.func has wrapped has no memory that a kernel could be given.
    setting = "torch" if torch._C._are_functorch_transforms_active() else dispatch.current_backend()
    serving = dispatch.serving(setting, NAME, images.device, dtype)
    with torch.no_grad():
        batch: Tensor = dispatch.implementation(serving, NAME).forward(images, shapes, drawn, policy)
    return batch


def pad(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Images (H, W, 3) uint8 of any sizes as one batch (N, most H, most W, 3), and their sizes (N, 2) int64."""
    if not images:
        raise argument_error(NAME, "images", "an empty list", "at least one image")
    for index, image in enumerate(images):
        _checked(image, f"images[{index}]", 3)
        if image.device != images[0].device:
            raise argument_error(NAME, f"images[{index}]'s device", image.device, f"the first's, {images[0].device}")
    sizes = torch.tensor([image.shape[:2] for image in images])
    most = sizes.amax(dim=0).tolist()
    batch = torch.zeros((len(images), *most, 3), dtype=torch.uint8, device=images[0].device)
    for slot, image in zip(batch, images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = image
    return batch, sizes.to(batch.device)


def _checked(images: Any, argument: str, dims: int) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"alexkern.{NAME}: {argument} must be a Tensor, got {type(images).__name__}")
    if images.requires_grad:
        raise argument_error(NAME, argument, "a tensor that requires one", "uint8: augment has no gradient")
    if torch._C._functorch.is_batchedtensor(images):
        raise RuntimeError(f"alexkern.{NAME}: vmap is not supported: it takes a batch of images as it is")
    if images.dtype != torch.uint8:
        raise argument_error(NAME, f"{argument}'s dtype", images.dtype, "uint8")
    if images.dim() != dims or images.shape[-1] != 3 or 0 in images.shape[-3:]:
        wanted = "(N, H, W, 3)" if dims == 4 else "(H, W, 3)"
        raise argument_error(NAME, argument, f"shape {tuple(images.shape)}", f"{wanted}, H and W at least 1")
    if max(images.shape[-3:]) > MAX_SIDE:
        raise argument_error(NAME, argument, f"shape {tuple(images.shape)}", f"at most {MAX_SIDE} pixels high and wide")
    return images


def _sizes(sizes: Tensor | None, images: Tensor) -> Tensor:
    N, H, W, _ = images.shape
    if sizes is None:
        return torch.tensor((H, W), device=images.device).expand(N, 2)
    if not isinstance(sizes, Tensor):
        raise TypeError(f"alexkern.{NAME}: sizes must be a Tensor, got {type(sizes).__name__}")
    if sizes.shape != (N, 2) or sizes.is_floating_point() or sizes.is_complex():
        raise argument_error(NAME, "sizes", f"shape {tuple(sizes.shape)} of {sizes.dtype}", f"({N}, 2) whole numbers")
    # Looking at the numbers would stall a GPU; cutting them keeps every read inside the batch.
    most = torch.tensor((H, W), device=images.device)
    return torch.minimum(sizes.to(images.device, torch.int64), most).clamp(min=1)


def _seed(given: Tensor | None, device: torch.device) -> Tensor:
    if given is None:
        return seed.draw(device)
    if not isinstance(given, Tensor) or given.dtype != torch.int64 or given.shape != (2,) or given.device != device:
        came = f"{given.dtype} of shape {tuple(given.shape)} on {given.device}" if isinstance(given, Tensor) else given
        raise argument_error(NAME, "seed", came, f"an int64 tensor of two on {device}")
    return given.contiguous()


def _resize(value: int | None, longer: int) -> int:
    if value is None:
        return max(longer, round(longer * 256 / 224))
    value = checks.integer(NAME, "resize", value)
    if not longer <= value <= MAX_SIDE:
        raise argument_error(NAME, "resize", value, f"from size's longer side, {longer}, to {MAX_SIDE}")
    return value


def _numbers(argument: str, values: Any, count: int) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise TypeError(f"alexkern.{NAME}: {argument} must be {count} floats, got {values!r}")
    return tuple(checks.number(NAME, argument, value) for value in values)


def _range(argument: str, values: Any, least: float, most: float, positive: bool = False) -> Pair:
    low, high = _numbers(argument, values, 2)
    above = low > least if positive else low >= least
    if not (above and low <= high <= most and math.isfinite(high)):
        lowest = f"over {least:g}" if positive else f"at least {least:g}"
        highest = f" and at most {most:g}" if math.isfinite(most) else ""
        raise argument_error(NAME, argument, values, f"(lowest, highest), {lowest}{highest}")
    return low, high


def _around(argument: str, value: Any, neutral: float, least: float, most: float) -> Pair:
    """A pair as it is, and a number as so much to both sides of what changes nothing."""
    if isinstance(value, Sequence):
        return _range(argument, value, least, most)
    reach = checks.number(NAME, argument, value)
    if not 0 <= reach <= most:
        raise argument_error(NAME, argument, value, "at least 0" + (f" and at most {most:g}" if most < 1e9 else ""))
    return _range(argument, (max(least, neutral - reach), neutral + reach), least, most)


def _triple(argument: str, values: Any, positive: bool = False) -> Triple:
    red, green, blue = _numbers(argument, values, 3)
    if not all(math.isfinite(value) and (value > 0 or not positive) for value in (red, green, blue)):
        raise argument_error(NAME, argument, values, "three " + ("positive " if positive else "") + "numbers")
    return red, green, blue


class Augment(Description):
    """It stands for no layers, and is known to no dispatcher: there is nothing to differentiate or to compile."""

    name = NAME
    reference = REFERENCE


OPERATOR = Augment()
