"""augment: every pixel of the output as the mean of all pixels of its image, by the formulas of docs/augment.md.

What is drawn is drawn as there; which pixels a crop has is decided in float64 in any dtype. There is no gradient.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern import augmentation as A
from alexkern.augmentation import Policy
from alexkern.backends.torch import philox
from alexkern.references.reference import Case, Reference, Shape


class Batch(Case):
    """Images (N, H, W, 3) of noise, all sizes up to (H, W) among them; channels_last, or a plane a channel."""

    __slots__ = ()

    def draw(self, dtype: torch.dtype, device: torch.device, channels_last: bool = False) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(20120930)
        N, H, W, _ = shape = cast(Shape, self.shapes[0])
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device)
        if not channels_last:
            images = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        smaller = torch.stack([torch.randint(side // 2, side + 1, (N,), generator=generator) for side in (H, W)], dim=1)
        smaller[0] = torch.tensor((H, W))
        seed = torch.tensor((2012, 2**62 + 930), device=device)
        return images, smaller.to(device), seed, replace(self.arguments[0], dtype=dtype)


def forward(images: Tensor, sizes: Tensor, seed: Tensor, policy: Policy) -> Tensor:
    """In float64 if that is the policy's dtype, else in float32, rounded at the end."""
    dtype = torch.promote_types(policy.dtype, torch.float32)
    words = philox.words(seed.cpu(), 4 * A.BLOCKS * len(images)).view(-1, A.BLOCKS, 4)
    parts = zip(images, sizes.tolist(), words, strict=True)
    batch = torch.stack([picture(image[:H, :W].to(dtype), word, policy) for image, (H, W), word in parts])
    batch = batch.to(policy.dtype).permute(0, 3, 1, 2)
    if not policy.space_to_depth:
        return batch
    rows, columns, before = policy.canvas
    (P, Q), N = policy.size, len(batch)
    deep = F.pixel_unshuffle(F.pad(batch, (before, columns - before - Q, before, rows - before - P)), A.FACTOR)
    return deep.view(N, 3, A.FACTOR**2, *deep.shape[2:]).transpose(1, 2).reshape(deep.shape)


def picture(image: Tensor, words: Tensor, policy: Policy) -> Tensor:
    """An image (H, W, 3) of bytes -> (P, Q, 3), by its 16 blocks of words."""

    def number(block: int, word: int, bounds: A.Pair) -> Tensor:
        value = (words[block, word] >> 8).to(image) * 2.0**-24
        return value * (bounds[1] - bounds[0]) + bounds[0]

    angle = number(A.SWITCHES, 1, policy.rotation)
    if policy.crop == "random_resized":
        top, left, high, wide = resized_box(image, words[A.ATTEMPTS :], policy)
        if angle == 0:  # ends at the box
            image, top, left = image[top : top + high, left : left + wide], 0, 0
        box = image.new_tensor((top, left, high, wide))
    else:
        box = central_box(image, policy)
    pixels = resampled(image, box, angle * (math.pi / 180), policy.size) / 255
    if words[A.SWITCHES, 0] < int(policy.flip * 2**32):
        pixels = pixels.flip(1)
    for name, block, word, change in COLOURS:
        if getattr(policy, name) != getattr(Policy, name):
            pixels = change(pixels, number(block, word, getattr(policy, name))).clamp(0, 1)
    if policy.lighting != 0:
        blocks = words[A.LIGHTING : A.LIGHTING + 3]
        sums = torch.stack([blocks >> shift & 255 for shift in (0, 8, 16, 24)]).sum(dim=(0, 2))
        deviates = (sums.to(image) - A.BYTES_MEAN) * (A.BYTES_SCALE * policy.lighting)
        pixels = pixels + (image.new_tensor(A.lighting_matrix()) * deviates).sum(dim=1)
    return (pixels - image.new_tensor(policy.mean)) / image.new_tensor(policy.std)


def resized_box(image: Tensor, attempts: Tensor, policy: Policy) -> tuple[int, int, int, int]:
    """Top, left, height and width: the first attempt that fits, else the largest central box of an allowed ratio."""

    def number(word: int, low: float, high: float) -> float:
        return (word >> 8) * 2.0**-24 * (high - low) + low

    H, W, _ = image.shape
    for area, ratio, top, left in attempts.tolist():
        side, root = math.sqrt(H * W * number(area, *policy.scale)), 2 ** (number(ratio, *policy.log_ratio) / 2)
        wide, high = math.floor(side * root + 0.5), math.floor(side / root + 0.5)
        if 0 < wide <= W and 0 < high <= H:
            return top * (H - high + 1) >> 32, left * (W - wide + 1) >> 32, high, wide
    low, most = policy.ratio
    high = math.floor(W / low + 0.5) if W / H < low else H
    wide = math.floor(H * most + 0.5) if W / H > most else W
    return (H - high) // 2, (W - wide) // 2, high, wide


def central_box(image: Tensor, policy: Policy) -> Tensor:
    """The same of the centre of the image whose shorter side was resized, halves of pixels to the even number."""
    shorter = min(image.shape[:2])
    whole = [policy.resize * side // shorter for side in image.shape[:2]]
    first = image.new_tensor([round((side - part) / 2) for side, part in zip(whole, policy.size, strict=True)])
    step = image.new_tensor(image.shape[:2]) / image.new_tensor(whole)
    return torch.cat((first * step, step * image.new_tensor(policy.size)))


def resampled(image: Tensor, box: Tensor, angle: Tensor, size: tuple[int, int]) -> Tensor:
    """The box (top, left, height, width), turned about its centre. Where it is turned, what is missing is black."""
    (P, Q), (H, W, _), (top, left, high, wide) = size, image.shape, box
    places = partial(torch.arange, dtype=image.dtype, device=image.device)
    cos, sin = angle.cos(), angle.sin()
    u, v = (places(Q) + 0.5 - Q / 2) * (wide / Q), ((places(P) + 0.5 - P / 2) * (high / P)).view(P, 1)
    x = left + wide / 2 + u * cos - v * sin  # (P, Q)
    y = top + high / 2 + u * sin + v * cos
    reach_x = (wide / Q * cos).hypot(high / P * sin).clamp(min=1)
    reach_y = (wide / Q * sin).hypot(high / P * cos).clamp(min=1)
    turned = bool(angle != 0)
    if not turned:
        x, y = x[:1], y[:, :1]
    rows, columns = weights(y, reach_y, H, turned), weights(x, reach_x, W, turned)
    return torch.einsum("pqic,pqi->pqc", torch.einsum("pqj,ijc->pqic", columns, image), rows)


def weights(centre: Tensor, reach: Tensor, count: int, beyond: bool) -> Tensor:
    """Of each of `count` pixels: a triangle, of sum 1 over those that are there or, if `beyond`, over all."""

    def triangle(first: Tensor | int, number: int) -> Tensor:
        place = first + torch.arange(number, device=centre.device).to(centre) + 0.5
        return (1 - (place - centre.unsqueeze(-1)).abs() / reach).clamp(min=0)

    here, side = triangle(0, count), math.ceil(reach) + 1
    every = triangle(centre.unsqueeze(-1).floor() - side, 2 * side + 1) if beyond else here
    return here / every.sum(dim=-1, keepdim=True)


def grey(pixels: Tensor) -> Tensor:
    return (pixels * pixels.new_tensor(A.GREY)).sum(dim=-1, keepdim=True)


def turned_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Through hue, saturation and value (Smith, 1978), the hue in sixths of a circle."""
    red, green, blue = pixels.unbind(dim=-1)
    value, chroma = pixels.amax(dim=-1), pixels.amax(dim=-1) - pixels.amin(dim=-1)
    some = chroma.clamp(min=1e-30)
    hue = torch.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some)
    hue = torch.where(value == red, (green - blue) / some, hue) + 6 * shift
    sixths = (hue.unsqueeze(-1) + pixels.new_tensor((5.0, 3.0, 1.0))) % 6
    return value.unsqueeze(-1) - chroma.unsqueeze(-1) * torch.minimum(sixths, 4 - sixths).clamp(0, 1)


COLOURS = (
    ("brightness", A.SWITCHES, 2, lambda pixels, factor: pixels * factor),
    ("contrast", A.SWITCHES, 3, lambda pixels, factor: torch.lerp(grey(pixels).mean(dim=(0, 1)), pixels, factor)),
    ("saturation", A.COLOURS, 0, lambda pixels, factor: torch.lerp(grey(pixels), pixels, factor)),
    ("hue", A.COLOURS, 1, turned_hue),
)
COLOURFUL = Policy((9, 12), brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.6, 1.4), lighting=0.1)

REFERENCE = Reference(
    cases=(
        Batch("centre crop", ((3, 20, 27, 3),), (Policy((14, 14), "center", resize=16, flip=0.0),)),
        Batch("random crop and colours", ((4, 33, 26, 3),), (COLOURFUL,)),
        Batch("turned", ((3, 17, 24, 3),), (Policy((13, 11), scale=(0.5, 1.0), rotation=(-40.0, 50.0)),)),
        Batch("no attempt fits", ((2, 30, 9, 3),), (Policy((7, 8), scale=(1.0, 1.0)),)),
        Batch("hue", ((2, 12, 16, 3),), (Policy((10, 9), flip=1.0, hue=(-0.3, 0.3)),)),
        Batch("in depth", ((2, 40, 37, 3),), (Policy((35, 39), space_to_depth=True),)),
    ),
    layers=(Batch("alexnet's images", ((32, 375, 500, 3),), (Policy((224, 224)),)),),
    forward=forward,
)
