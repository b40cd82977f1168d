"""augment in torch operators: the draw of every sample's parameters, and the sampling and colours they ask for.

The draw is defined to the bit: integers of Philox, and float32 products, sums, quotients and square roots, each rounded
by itself. The pictures are defined to float32's accuracy: backends may add up in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from alexkern import augmentation as A
from alexkern.augmentation import Policy
from alexkern.backends.torch import philox
from alexkern.plan import Spec, contiguous_strides, empty
from alexkern.resampling import resized_crop

Pictures = Callable[[Tensor, Tensor, Policy, Tensor], None]
CHUNK = 16  # images at once: what is in float32 stays in the cache


def forward(images: Tensor, sizes: Tensor, seed: Tensor, policy: Policy) -> Tensor:
    """images (N, H, W, 3) uint8, sizes (N, 2) int64 of height and width -> the batch as `policy` says."""
    return batch(images, sizes, seed, policy, pictures)


def batch(images: Tensor, sizes: Tensor, seed: Tensor, policy: Policy, pictures: Pictures) -> Tensor:
    """As `forward`, by another backend's `pictures`."""
    table = parameters(sizes, seed, policy)
    rows, columns, before = policy.canvas
    N, (P, Q) = len(images), policy.size
    shape = (N, rows, columns, 3)
    output = empty(Spec(shape, contiguous_strides(shape), policy.dtype), images.device)
    if policy.space_to_depth:
        output.zero_()
    # Without padding the canvas is as large as the image; with it, a few last rows of the image may lie beyond it.
    height, width = min(P, rows - before), min(Q, columns - before)
    for start in range(0, N, CHUNK):
        part = slice(start, start + CHUNK)
        place = output[part, before : before + height, before : before + width]
        pictures(images[part], table[part], policy, place)
    if policy.space_to_depth:
        high, wide = rows // A.FACTOR, columns // A.FACTOR
        output = output.view(N, high, A.FACTOR, wide, A.FACTOR, 3).transpose(2, 3).reshape(N, high, wide, -1)
    return output.permute(0, 3, 1, 2)


# The draw


def parameters(sizes: Tensor, seed: Tensor, policy: Policy) -> Tensor:
    """The table (N, len(COLUMNS)), float32."""
    N = len(sizes)
    words = philox.words(seed, 4 * A.BLOCKS * N).view(N, A.BLOCKS, 4)
    height, width = sizes[:, 0], sizes[:, 1]
    box = _resized_box(words, height, width, policy) if policy.crop == "random_resized" else None
    top, left, high, wide = _placed_box(words[:, A.PLACE], height, width, policy) if box is None else box
    angle = _uniform(words[:, A.SWITCHES, 1], policy.rotation)
    cos, sin = _cos_sin(angle)
    turned = angle != 0
    # A crop that comes before the resize ends at its edges, unless it is turned: then the whole image is there to see.
    bounded = ~turned & (policy.crop == "random_resized")
    zero = torch.zeros_like(top)
    window = (
        torch.where(bounded, top, zero),
        torch.where(bounded, top + high, height.float()),
        torch.where(bounded, left, zero),
        torch.where(bounded, left + wide, width.float()),
    )
    flip = (words[:, A.SWITCHES, 0] < int(policy.flip * 2**32)).float()
    colours = (
        _uniform(words[:, A.SWITCHES, 2], policy.brightness),
        _uniform(words[:, A.SWITCHES, 3], policy.contrast),
        _uniform(words[:, A.COLOURS, 0], policy.saturation),
        _uniform(words[:, A.COLOURS, 1], policy.hue),
    )
    deviates = _deviates(words[:, A.LIGHTING : A.LIGHTING + 3], policy.lighting)
    light = (deviates[0] * a + deviates[1] * b + deviates[2] * c for a, b, c in A.lighting_matrix())
    return torch.stack((top, left, high, wide, cos, sin, flip, *window, turned.float(), *colours, *light), dim=1)


def _uniform(word: Tensor, bounds: A.Pair) -> Tensor:
    """Between the bounds, from the upper 24 bits of a word."""
    return (word >> 8).float() * 2.0**-24 * (bounds[1] - bounds[0]) + bounds[0]


def _below(word: Tensor, count: Tensor | int) -> Tensor:
    """A whole number from 0 to count - 1."""
    return (word * count) >> 32


def _deviates(words: Tensor, deviation: float) -> tuple[Tensor, ...]:
    """Three nearly normal deviates, from the sum of the 16 bytes of a block each. words: (N, 3, 4)."""
    total = sum((words >> shift).bitwise_and_(255) for shift in (0, 8, 16, 24)).sum(dim=-1)  # type: ignore[union-attr]
    return tuple(((total.float() - A.BYTES_MEAN) * (A.BYTES_SCALE * deviation)).unbind(dim=1))


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _cos_sin(degrees: Tensor) -> tuple[Tensor, Tensor]:
    quarters = degrees / 90
    whole = (quarters + 0.5).floor()
    rest = quarters - whole
    square = rest * rest
    sine, cosine = _horner(square, A.SINE) * rest, _horner(square, A.COSINE)
    quadrant = whole.long() & 3
    odd = (quadrant & 1) == 1
    cos, sin = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    return torch.where((quadrant == 1) | (quadrant == 2), -cos, cos), torch.where(quadrant >= 2, -sin, sin)


def _exp2(x: Tensor) -> Tensor:
    whole = (x + 0.5).floor()
    power = ((whole.to(torch.int32) + 127) << 23).view(torch.float32)
    return _horner(x - whole, A.EXP2) * power


def _resized_box(words: Tensor, height: Tensor, width: Tensor, policy: Policy) -> tuple[Tensor, ...]:
    """The first of ten attempts that fits, else the largest centred box of an allowed aspect ratio.

    As torchvision's RandomResizedCrop: area uniform in `scale`, aspect ratio uniform in its logarithm.
    """
    attempts = words[:, A.ATTEMPTS : A.ATTEMPTS + A.MAX_ATTEMPTS]  # (N, attempts, 4)
    area_word, ratio_word, top_word, left_word = attempts.unbind(dim=2)
    height, width = height.unsqueeze(1), width.unsqueeze(1)
    side = (height.float() * width.float() * _uniform(area_word, policy.scale)).sqrt()
    root = _exp2(_uniform(ratio_word, policy.log_ratio) * 0.5)  # of the ratio of width to height
    wide, high = (side * root + 0.5).floor().long(), (side / root + 0.5).floor().long()
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    boxes = (_below(top_word, height - high + 1), _below(left_word, width - wide + 1), high, wide)
    central = _central_box(height, width, policy)
    # argmax finds the first of equal ones, and the central box comes last.
    first = torch.cat((fits, torch.ones_like(fits[:, :1])), dim=1).int().argmax(dim=1, keepdim=True)
    top, left, high, wide = (
        torch.cat(pair, dim=1).gather(1, first).squeeze(1).float() for pair in zip(boxes, central, strict=True)
    )
    return top, left, high, wide


def _central_box(height: Tensor, width: Tensor, policy: Policy) -> tuple[Tensor, ...]:
    tall, broad = height.float(), width.float()
    ratio = broad / tall
    low, most = policy.ratio
    high = torch.where(ratio < low, (broad / low + 0.5).floor().long(), height)
    wide = torch.where(ratio > most, (tall * most + 0.5).floor().long(), width)
    high, wide = torch.minimum(high, height).clamp(min=1), torch.minimum(wide, width).clamp(min=1)
    return (height - high) >> 1, (width - wide) >> 1, high, wide


def _placed_box(words: Tensor, height: Tensor, width: Tensor, policy: Policy) -> tuple[Tensor, ...]:
    """A crop of the output's size from the image resized to `resize` on its shorter side, in source pixels.

    "center" is the whole resized image's; the others are of its central square, as in Krizhevsky's section 4.1.
    """
    resize = policy.resize
    upright = height > width
    rows = torch.where(upright, resize * height // width, resize)
    columns = torch.where(upright, resize, resize * width // height)
    places = []
    for axis, (count, most) in enumerate(zip((rows, columns), policy.size, strict=True)):
        if policy.crop == "center":
            places.append(_middle(count - most))
            continue
        spare = resize - most
        if policy.crop == "random":
            within = _below(words[:, axis], spare + 1)
        else:
            first = policy.crop.startswith("top") if axis == 0 else policy.crop.endswith("left")
            within = torch.full_like(count, 0 if first else spare)
        places.append(_middle(count - resize) + within)
    step_y, step_x = height.float() / rows.float(), width.float() / columns.float()
    top, left = places[0].float() * step_y, places[1].float() * step_x
    return top, left, step_y * float(policy.size[0]), step_x * float(policy.size[1])


def _middle(spare: Tensor) -> Tensor:
    """spare / 2, halves to the even number, as torchvision's center_crop rounds."""
    half = spare >> 1
    return half + (spare & half & 1)


# The pictures


def pictures(images: Tensor, table: Tensor, policy: Policy, output: Tensor) -> None:
    """images (n, H, W, 3) uint8, their rows of the table -> output, the upper left corner of (n, P, Q, 3), normalised.

    The table is read on the host: each image is sampled by itself, with only as many taps as it needs.
    """
    rows = [dict(zip(A.COLUMNS, row, strict=True)) for row in table.tolist()]
    sampled = [sample(image, row, policy.size) for image, row in zip(images, rows, strict=True)]
    pixels = torch.stack([image.flip(1) if row["flip"] else image for image, row in zip(sampled, rows, strict=True)])
    finish(pixels.div_(255), table, policy, output)


def colours(policy: Policy) -> list[str]:
    """What is to be done to the pixels but sampling and normalising."""
    return [name for name in (*_COLOURS, "lighting") if getattr(policy, name) != getattr(Policy, name)]


def finish(pixels: Tensor, table: Tensor, policy: Policy, output: Tensor) -> None:
    """The colours and the normalisation of pixels (n, P, Q, 3) in [0, 1], which may be written to."""
    columns = {name: table[:, index].view(-1, 1, 1, 1) for index, name in enumerate(A.COLUMNS)}
    for name in colours(policy):
        if name == "lighting":
            pixels = pixels + torch.cat([columns[name] for name in ("red", "green", "blue")], dim=-1)
        else:
            pixels = _COLOURS[name](pixels, columns[name])
    mean, std = (torch.tensor(values, device=pixels.device) for values in (policy.mean, policy.std))
    output.copy_(pixels.sub_(mean).div_(std)[:, : output.shape[1], : output.shape[2]])


def sample(image: Tensor, row: dict[str, float], size: tuple[int, int]) -> Tensor:
    """image (H, W, 3) uint8 -> (*size, 3) float32, from 0 to 255."""
    return sample_turned(image, row, size) if row["fill"] else sample_straight(image, row, size)


def sample_straight(image: Tensor, row: dict[str, float], size: tuple[int, int]) -> Tensor:
    """A box that is not turned is a part of its resized window, which torch resizes with the very same filter."""
    top, bottom, left, right = (int(row[f"window_{side}"]) for side in ("top", "bottom", "left", "right"))
    whole = round((bottom - top) * size[0] / row["height"]), round((right - left) * size[1] / row["width"])
    first = round((row["top"] - top) * size[0] / row["height"])
    second = round((row["left"] - left) * size[1] / row["width"])
    window = image[top:bottom, left:right].permute(2, 0, 1).unsqueeze(0)
    return resized_crop(window, whole, (first, second), size)[0].permute(1, 2, 0)


def sample_turned(image: Tensor, row: dict[str, float], size: tuple[int, int]) -> Tensor:
    """A turned box: every tap of the filter in turn, gathered."""
    image = image[: int(row["window_bottom"]), : int(row["window_right"])]
    (H, W, _), (P, Q), device = image.shape, size, image.device
    cos, sin = row["cos"], row["sin"]
    step_y, step_x = row["height"] / P, row["width"] / Q
    across = (torch.arange(Q, device=device) + 0.5 - 0.5 * Q) * step_x  # from the box's centre: (Q,)
    down = (torch.arange(P, device=device).view(-1, 1) + 0.5 - 0.5 * P) * step_y  # (P, 1)
    x = row["left"] + 0.5 * row["width"] + (cos * across - sin * down)  # (P, Q), as everything below
    y = row["top"] + 0.5 * row["height"] + (sin * across + cos * down)
    reach_x = max(1.0, math.hypot(step_x * cos, step_y * sin))
    reach_y = max(1.0, math.hypot(step_x * sin, step_y * cos))
    first_x, first_y = (x - reach_x + 0.5).floor(), (y - reach_y + 0.5).floor()
    horizontal = [_tap(first_x + tap, x, reach_x, W) for tap in range(int(2 * reach_x) + 2)]
    vertical = (_tap(first_y + tap, y, reach_y, H) for tap in range(int(2 * reach_y) + 2))  # one held at a time
    flat = image.reshape(H * W, 3)
    total = torch.zeros((P * Q, 3), device=device)
    weights = torch.zeros((P, Q), device=device)
    for line, weight_y, inside_y in vertical:
        for column, weight_x, inside_x in horizontal:
            weight = weight_y * weight_x
            weights += weight
            seen = (weight * (inside_y & inside_x)).view(-1, 1)
            total += seen * flat.index_select(0, (line * W + column).view(-1))
    return total.view(P, Q, 3).div_(weights.unsqueeze(-1))


def _tap(place: Tensor, centre: Tensor, reach: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """One source row or column of each output pixel: its number, kept in bounds; its weight; whether it is there."""
    weight = (1 - (place + 0.5 - centre).abs() / reach).clamp_(min=0)
    return place.clamp(0, count - 1).long(), weight, (place >= 0) & (place < count)


# The colours: pixels (n, P, Q, 3) in [0, 1], factors (n, 1, 1, 1). All of them but lighting end within [0, 1].


def _grey(pixels: Tensor) -> Tensor:
    return pixels[..., :1] * A.GREY[0] + pixels[..., 1:2] * A.GREY[1] + pixels[..., 2:] * A.GREY[2]


def _brighten(pixels: Tensor, factor: Tensor) -> Tensor:
    return (pixels * factor).clamp_(0, 1)


def _stretch(pixels: Tensor, factor: Tensor) -> Tensor:
    mean = _grey(pixels).mean(dim=(1, 2), keepdim=True)
    return (pixels * factor + mean * (1 - factor)).clamp_(0, 1)


def _saturate(pixels: Tensor, factor: Tensor) -> Tensor:
    return (pixels * factor + _grey(pixels) * (1 - factor)).clamp_(0, 1)


def _turn_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Through hue, saturation and value, with the hue turned by `shift` of a circle."""
    red, green, blue = pixels.unbind(dim=-1)
    value, lowest = pixels.amax(dim=-1), pixels.amin(dim=-1)
    chroma = value - lowest
    safe = torch.where(chroma == 0, 1.0, chroma)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = sector + shift.squeeze(-1) * 6 + 12  # in sixths of a circle, above 0
    # A channel falls from value to lowest and comes back along a trapezium, each a third of a circle from the next.
    turned = []
    for ahead in (5.0, 3.0, 1.0):
        k = torch.remainder(hue + ahead, 6)
        turned.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(turned, dim=-1)


_COLOURS = {"brightness": _brighten, "contrast": _stretch, "saturation": _saturate, "hue": _turn_hue}
