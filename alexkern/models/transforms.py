"""From an image to what a network was trained on: the inference preprocessing, without torchvision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexkern.augmentation import IMAGENET_MEAN, IMAGENET_STD, Triple
from alexkern.resampling import IntPair, is_far_larger, resized_crop


@dataclass(frozen=True)
class ImageClassification:
    """Resize the shorter side to `resize_size`, crop the centre, scale to [0, 1] and normalise each channel.

    The defaults are those of torchvision's `AlexNet_Weights.IMAGENET1K_V1.transforms()`: bilinear with antialiasing,
    256 then 224 pixels, ImageNet's mean and standard deviation (of RGB in [0, 1]). So are the steps, and with them the
    result, bit for bit.

    Takes a PIL image of any mode (converted to RGB), or a tensor (3, H, W) or (N, 3, H, W): uint8 in [0, 255], or
    floating point in [0, 1]. Returns a float32 tensor (3, crop_size, crop_size) or (N, 3, crop_size, crop_size) on the
    tensor's own device.
    """

    crop_size: int = 224
    resize_size: int = 256
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 1 <= self.crop_size <= self.resize_size:
            raise ValueError(
                "ImageClassification: wanted 1 <= crop_size <= resize_size, "
                f"got crop_size={self.crop_size}, resize_size={self.resize_size}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise ValueError(
                "ImageClassification: wanted three numbers each for mean and std, those of std positive, "
                f"got mean={self.mean}, std={self.std}"
            )

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        pixels = self._resized_crop(image)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels after the resize and before the crop; the longer side is rounded down."""
        if height <= width:
            return self.resize_size, int(self.resize_size * width / height)
        return int(self.resize_size * height / width), self.resize_size

    def _resized_crop(self, image: Image.Image | Tensor) -> Tensor:
        size = (self.crop_size, self.crop_size)
        if isinstance(image, Tensor):
            _check_tensor(image)
            whole = self.resized_shape(image.shape[-2], image.shape[-1])
            return _cut_tensor(image, whole, _middle(whole, size), size)
        if not isinstance(image, Image.Image):
            raise TypeError(f"ImageClassification: wanted a PIL image or a tensor, got {type(image).__name__}")
        height, width = whole = self.resized_shape(image.height, image.width)
        (top, left), image = _middle(whole, size), to_rgb(image)
        if is_far_larger(whole, size):
            y, x = image.height / height, image.width / width
            box = (left * x, top * y, (left + self.crop_size) * x, (top + self.crop_size) * y)
            resized = image.resize(size, Image.Resampling.BILINEAR, box)
        else:
            cut = (left, top, left + self.crop_size, top + self.crop_size)
            resized = image.resize((width, height), Image.Resampling.BILINEAR).crop(cut)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def _middle(whole: IntPair, size: IntPair) -> IntPair:
    return round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2)


def _check_tensor(image: Tensor) -> None:
    if image.dim() not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape[-2:]:
        raise ValueError(
            f"ImageClassification: wanted a tensor (3, H, W) or (N, 3, H, W), got shape {tuple(image.shape)}"
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"ImageClassification: wanted a uint8 or a floating-point tensor, got {image.dtype}")


def _cut_tensor(image: Tensor, whole: IntPair, first: IntPair, size: IntPair) -> Tensor:
    if image.shape[-2:] == whole:
        return image[..., first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
    pixels = image if image.dim() == 4 else image.unsqueeze(0)
    # As torchvision does it: torch resizes uint8 too, on the CPU alone, but then rounds after each axis.
    pixels = resized_crop(pixels, whole, first, size)
    if image.dtype == torch.uint8:
        pixels = pixels.round()
    pixels = pixels.to(image.dtype)
    return pixels if image.dim() == 4 else pixels.squeeze(0)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB; what is transparent shows the colour beneath."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # 16-bit grey: PIL's own conversion would turn every value over 255 white.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")
