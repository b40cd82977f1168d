"""augment: uint8 images of any sizes to a normalised batch, one read and one write.

Two kernels, and a third where the contrast is changed (docs/augment.md has the formulas):

    draw      one thread a sample     seed -> the table of parameters, [N, len(COLUMNS)] float32
    grey      BLOCK output pixels     the sum of their grey values, for the contrast's mean -> [N, programs]
    augment   BLOCK output pixels     samples, changes colours, normalises, stores

An output pixel is the mean of the source pixels under a triangle filter, weights x * y: a loop over the taps of the
filter, of which there are 2 x 2 or 3 x 3 where the image does not shrink. Channels are three values of one thread, so
that every colour change happens in registers. The table is 76 bytes a sample and comes from the cache; keeping the draw
apart makes it exact: it is compiled without fused multiply-add, and its quotients and roots are rounded correctly.

The stores cover the canvas: the image itself, or the padded image in blocks of 4 x 4 for AlexNet's first layer.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern import augmentation as A
from alexkern.augmentation import Policy
from alexkern.backends.torch.philox import threshold
from alexkern.kernels.philox import block_words
from alexkern.plan import Spec, contiguous_strides, empty

SAMPLES = 32  # of a program that draws
BLOCK = 256  # output pixels a program
WARPS = 4
COLUMNS = tl.constexpr(len(A.COLUMNS))
BLOCKS = tl.constexpr(A.BLOCKS)
SWITCHES, COLOURS, LIGHTING = tl.constexpr(A.SWITCHES), tl.constexpr(A.COLOURS), tl.constexpr(A.LIGHTING)
PLACE, ATTEMPTS, MAX_ATTEMPTS = tl.constexpr(A.PLACE), tl.constexpr(A.ATTEMPTS), tl.constexpr(A.MAX_ATTEMPTS)
BYTES_MEAN = tl.constexpr(A.BYTES_MEAN)
SINE, COSINE, EXP2 = tl.constexpr(A.SINE), tl.constexpr(A.COSINE), tl.constexpr(A.EXP2)
SINE_TERMS, COSINE_TERMS, EXP2_TERMS = (tl.constexpr(len(series)) for series in (A.SINE, A.COSINE, A.EXP2))
LIGHT = tl.constexpr(tuple(value for row in A.lighting_matrix() for value in row))
GREY = tl.constexpr(A.GREY)
FACTOR = tl.constexpr(A.FACTOR)
# How the crops other than "random_resized" are placed.
RANDOM_RESIZED, CENTER, RANDOM, CORNER = (tl.constexpr(number) for number in range(4))


# The draw: every line as in alexkern/backends/torch/augment.py, to the bit.


@triton.jit
def uniform(word, low, extent):
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08 * extent + low  # 2**-24


@triton.jit
def below(word, count):
    return (word.to(tl.int64) * count) >> 32


@triton.jit
def horner(x, COEFFICIENTS: tl.constexpr, TERMS: tl.constexpr):
    total = x * 0.0 + COEFFICIENTS[TERMS - 1]
    for k in tl.static_range(1, TERMS):
        total = total * x + COEFFICIENTS[TERMS - 1 - k]
    return total


@triton.jit
def cos_sin(degrees):
    quarters = tl.div_rn(degrees, degrees * 0.0 + 90.0)
    whole = tl.floor(quarters + 0.5)
    rest = quarters - whole
    square = rest * rest
    sine, cosine = horner(square, SINE, SINE_TERMS) * rest, horner(square, COSINE, COSINE_TERMS)
    quadrant = whole.to(tl.int32) & 3
    odd = (quadrant & 1) == 1
    cos, sin = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    return tl.where((quadrant == 1) | (quadrant == 2), -cos, cos), tl.where(quadrant >= 2, -sin, sin)


@triton.jit
def exp2(x):
    whole = tl.floor(x + 0.5)
    power = ((whole.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return horner(x - whole, EXP2, EXP2_TERMS) * power


@triton.jit
def deviate(seed, block, factor):
    word0, word1, word2, word3 = block_words(seed, block)
    total = byte_sum(word0) + byte_sum(word1) + byte_sum(word2) + byte_sum(word3)
    return (total.to(tl.float32) - BYTES_MEAN) * factor


@triton.jit
def byte_sum(word):
    return ((word & 255) + ((word >> 8) & 255) + ((word >> 16) & 255) + (word >> 24)).to(tl.int32)


@triton.jit
def middle(spare):
    half = spare >> 1
    return half + (spare & half & 1)


@triton.jit
def resized_box(seed, first, height, width, scale, scale_extent, log_ratio, log_extent, low, most):
    tall, broad = height.to(tl.float32), width.to(tl.float32)
    ratio = tl.div_rn(broad, tall)
    narrow = tl.floor(tl.div_rn(broad, broad * 0.0 + low) + 0.5).to(tl.int64)
    high = tl.where(ratio < low, narrow, height)
    wide = tl.where(ratio > most, tl.floor(tall * most + 0.5).to(tl.int64), width)
    high, wide = tl.maximum(tl.minimum(high, height), 1), tl.maximum(tl.minimum(wide, width), 1)
    top, left = (height - high) >> 1, (width - wide) >> 1
    for k in range(MAX_ATTEMPTS):
        # From the last attempt to the first, so that the first that fits is the one that stays.
        area_word, ratio_word, top_word, left_word = block_words(seed, first + ATTEMPTS + (MAX_ATTEMPTS - 1 - k))
        side = tl.sqrt_rn(tall * broad * uniform(area_word, scale, scale_extent))
        root = exp2(uniform(ratio_word, log_ratio, log_extent) * 0.5)
        w = tl.floor(side * root + 0.5).to(tl.int64)
        h = tl.floor(tl.div_rn(side, root) + 0.5).to(tl.int64)
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        high, wide = tl.where(fits, h, high), tl.where(fits, w, wide)
        top = tl.where(fits, below(top_word, height - h + 1), top)
        left = tl.where(fits, below(left_word, width - w + 1), left)
    return top.to(tl.float32), left.to(tl.float32), high.to(tl.float32), wide.to(tl.float32)


@triton.jit
def place(count, most, resize, word, last, CROP: tl.constexpr):
    spare = resize - most
    if CROP == CENTER:
        at = middle(count - most)
    elif CROP == RANDOM:
        at = middle(count - resize) + below(word, spare + 1)
    else:
        at = middle(count - resize) + last * spare
    return at.to(tl.float32)


@triton.jit
def placed_box(seed, first, height, width, resize, P, Q, last_y, last_x, CROP: tl.constexpr):
    word_y, word_x, _, _ = block_words(seed, first + PLACE)
    upright = height > width
    rows = tl.where(upright, resize * height // width, resize)
    columns = tl.where(upright, resize, resize * width // height)
    step_y = tl.div_rn(height.to(tl.float32), rows.to(tl.float32))
    step_x = tl.div_rn(width.to(tl.float32), columns.to(tl.float32))
    top = place(rows, P, resize, word_y, last_y, CROP) * step_y
    left = place(columns, Q, resize, word_x, last_x, CROP) * step_x
    return top, left, step_y * P.to(tl.float32), step_x * Q.to(tl.float32)


@triton.jit(do_not_specialize=["flip_limit", "resize", "P", "Q", "last_y", "last_x"])
def augment_draw_kernel(
    seed,  # [2] int64: (seed, offset)
    sizes,  # [N, 2] int64: height, width
    stride_n, stride_d,
    table,  # [N, COLUMNS]
    N, flip_limit, resize, P, Q, last_y, last_x,
    scale, scale_extent, log_ratio, log_extent, low, most,
    angle, angle_extent, brightness, brightness_extent, contrast, contrast_extent,
    saturation, saturation_extent, hue, hue_extent, lighting,
    CROP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = n < N
    height = tl.load(sizes + n * stride_n, mask=real, other=1).to(tl.int64)  # [BLOCK]
    width = tl.load(sizes + n * stride_n + stride_d, mask=real, other=1).to(tl.int64)
    first = n * BLOCKS
    if CROP == RANDOM_RESIZED:
        top, left, high, wide = resized_box(
            seed, first, height, width, scale, scale_extent, log_ratio, log_extent, low, most
        )
    else:
        top, left, high, wide = placed_box(
            seed, first, height, width, resize.to(tl.int64), P, Q, last_y, last_x, CROP
        )  # fmt: skip
    flip_word, angle_word, brightness_word, contrast_word = block_words(seed, first + SWITCHES)
    saturation_word, hue_word, _, _ = block_words(seed, first + COLOURS)
    cos, sin = cos_sin(uniform(angle_word, angle, angle_extent))
    turned = uniform(angle_word, angle, angle_extent) != 0.0
    bounded = (turned == 0) & (CROP == RANDOM_RESIZED)
    at = table + n * COLUMNS
    tl.store(at, top, mask=real)
    tl.store(at + 1, left, mask=real)
    tl.store(at + 2, high, mask=real)
    tl.store(at + 3, wide, mask=real)
    tl.store(at + 4, cos, mask=real)
    tl.store(at + 5, sin, mask=real)
    tl.store(at + 6, (flip_word.to(tl.int64) < flip_limit).to(tl.float32), mask=real)
    tl.store(at + 7, tl.where(bounded, top, 0.0), mask=real)
    tl.store(at + 8, tl.where(bounded, top + high, height.to(tl.float32)), mask=real)
    tl.store(at + 9, tl.where(bounded, left, 0.0), mask=real)
    tl.store(at + 10, tl.where(bounded, left + wide, width.to(tl.float32)), mask=real)
    tl.store(at + 11, turned.to(tl.float32), mask=real)
    tl.store(at + 12, uniform(brightness_word, brightness, brightness_extent), mask=real)
    tl.store(at + 13, uniform(contrast_word, contrast, contrast_extent), mask=real)
    tl.store(at + 14, uniform(saturation_word, saturation, saturation_extent), mask=real)
    tl.store(at + 15, uniform(hue_word, hue, hue_extent), mask=real)
    light0 = deviate(seed, first + LIGHTING, lighting)
    light1 = deviate(seed, first + LIGHTING + 1, lighting)
    light2 = deviate(seed, first + LIGHTING + 2, lighting)
    tl.store(at + 16, light0 * LIGHT[0] + light1 * LIGHT[1] + light2 * LIGHT[2], mask=real)
    tl.store(at + 17, light0 * LIGHT[3] + light1 * LIGHT[4] + light2 * LIGHT[5], mask=real)
    tl.store(at + 18, light0 * LIGHT[6] + light1 * LIGHT[7] + light2 * LIGHT[8], mask=real)


# The pictures


@triton.jit
def sample(images, stride_n, stride_h, stride_w, stride_c, at, n, p, q, P, Q):
    """The filtered source at output pixels (p, q) of image n, before colours: three values in [0, 1]. at: its table."""
    top, left, high, wide = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
    cos, sin = tl.load(at + 4), tl.load(at + 5)
    q = tl.where(tl.load(at + 6) != 0.0, Q - 1 - q, q)
    row_first, row_end = tl.load(at + 7).to(tl.int32), tl.load(at + 8).to(tl.int32)
    column_first, column_end = tl.load(at + 9).to(tl.int32), tl.load(at + 10).to(tl.int32)
    fill = tl.load(at + 11)
    step_y, step_x = high / P, wide / Q
    across = (q.to(tl.float32) + 0.5 - 0.5 * Q) * step_x  # [BLOCK], from the box's centre
    down = (p.to(tl.float32) + 0.5 - 0.5 * P) * step_y
    x = left + 0.5 * wide + (cos * across - sin * down)
    y = top + 0.5 * high + (sin * across + cos * down)
    reach_x = tl.maximum(tl.sqrt(step_x * cos * step_x * cos + step_y * sin * step_y * sin), 1.0)
    reach_y = tl.maximum(tl.sqrt(step_x * sin * step_x * sin + step_y * cos * step_y * cos), 1.0)
    first_x, first_y = tl.floor(x - reach_x + 0.5).to(tl.int32), tl.floor(y - reach_y + 0.5).to(tl.int32)
    taps_x, taps_y = (2 * reach_x).to(tl.int32) + 2, (2 * reach_y).to(tl.int32) + 2
    source = images + n * stride_n
    red = x * 0.0
    green, blue, weights = red, red, red
    for tap_y in range(taps_y):
        row = first_y + tap_y
        weight_y = tl.maximum(1.0 - tl.abs(row.to(tl.float32) + 0.5 - y) / reach_y, 0.0)
        inside_y = (row >= row_first) & (row < row_end)
        line = source + row.to(tl.int64) * stride_h
        for tap_x in range(taps_x):
            column = first_x + tap_x
            weight = weight_y * tl.maximum(1.0 - tl.abs(column.to(tl.float32) + 0.5 - x) / reach_x, 0.0)
            inside = inside_y & (column >= column_first) & (column < column_end)
            weights += tl.where(inside, weight, weight * fill)
            pixel = line + column.to(tl.int64) * stride_w
            seen = inside & (weight > 0.0)
            red += weight * tl.load(pixel, mask=seen, other=0).to(tl.float32)
            green += weight * tl.load(pixel + stride_c, mask=seen, other=0).to(tl.float32)
            # Twice a stride might wrap.
            blue += weight * tl.load(pixel + stride_c + stride_c, mask=seen, other=0).to(tl.float32)
    weights = tl.where(weights > 0.0, weights * 255.0, 1.0)  # beyond the output there are none
    return red / weights, green / weights, blue / weights


@triton.jit
def clamp01(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def grey_of(red, green, blue):
    return red * GREY[0] + green * GREY[1] + blue * GREY[2]


@triton.jit
def brighten(red, green, blue, factor):
    return clamp01(red * factor), clamp01(green * factor), clamp01(blue * factor)


@triton.jit
def blend(red, green, blue, other, factor):
    other = other * (1.0 - factor)
    return clamp01(red * factor + other), clamp01(green * factor + other), clamp01(blue * factor + other)


@triton.jit
def turn_hue(red, green, blue, shift):
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    safe = tl.where(chroma == 0.0, 1.0, chroma)
    later = tl.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe)
    hue = tl.where(value == red, (green - blue) / safe, later) + shift * 6.0 + 12.0
    return trapezium(hue + 5.0, value, chroma), trapezium(hue + 3.0, value, chroma), trapezium(hue + 1.0, value, chroma)


@triton.jit
def trapezium(k, value, chroma):
    k -= 6.0 * tl.floor(k / 6.0)
    return value - chroma * clamp01(tl.minimum(k, 4.0 - k))


@triton.jit
def augment_grey_kernel(
    images, stride_n, stride_h, stride_w, stride_c,  # (N, H, W, 3) uint8
    table,  # [N, COLUMNS]
    sums,  # [N, programs]
    P, Q, programs,
    BRIGHTNESS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n, program = (tl.program_id(0) // programs).to(tl.int64), tl.program_id(0) % programs
    place = program * BLOCK + tl.arange(0, BLOCK)
    at = table + n * COLUMNS
    red, green, blue = sample(
        images, stride_n, stride_h, stride_w, stride_c, at, n, place // Q, place % Q, P, Q
    )  # fmt: skip
    if BRIGHTNESS:
        red, green, blue = brighten(red, green, blue, tl.load(at + 12))
    grey = tl.where(place < P * Q, grey_of(red, green, blue), 0.0)
    tl.store(sums + n * programs + program, tl.sum(grey, 0))


@triton.jit
def augment_kernel(
    images, stride_n, stride_h, stride_w, stride_c,  # (N, H, W, 3) uint8
    table,  # [N, COLUMNS]
    sums,  # [N, programs], read where CONTRAST
    y,  # [N, rows, columns, 3], or [N, rows / 4, columns / 4, 48] where IN_DEPTH
    P, Q, rows, columns, before, programs, tiles,  # tiles: programs an image here, programs: in the kernel before
    mean_r, mean_g, mean_b, std_r, std_g, std_b,
    BRIGHTNESS: tl.constexpr, CONTRAST: tl.constexpr, SATURATION: tl.constexpr, HUE: tl.constexpr,
    LIGHTING: tl.constexpr, IN_DEPTH: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // tiles).to(tl.int64)
    place = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)  # on the canvas
    row, column = place // columns, place % columns
    p, q = row - before, column - before
    image = (p >= 0) & (p < P) & (q >= 0) & (q < Q)
    at = table + n * COLUMNS
    red, green, blue = sample(images, stride_n, stride_h, stride_w, stride_c, at, n, p, q, P, Q)
    if BRIGHTNESS:
        red, green, blue = brighten(red, green, blue, tl.load(at + 12))
    if CONTRAST:
        part = tl.arange(0, PROGRAMS)
        total = tl.sum(tl.load(sums + n * programs + part, mask=part < programs, other=0.0), 0)
        red, green, blue = blend(red, green, blue, total / (P * Q).to(tl.float32), tl.load(at + 13))
    if SATURATION:
        red, green, blue = blend(red, green, blue, grey_of(red, green, blue), tl.load(at + 14))
    if HUE:
        red, green, blue = turn_hue(red, green, blue, tl.load(at + 15))
    if LIGHTING:
        red += tl.load(at + 16)
        green += tl.load(at + 17)
        blue += tl.load(at + 18)
    red, green, blue = (red - mean_r) / std_r, (green - mean_g) / std_g, (blue - mean_b) / std_b
    if IN_DEPTH:
        pixel = (row // FACTOR * (columns // FACTOR) + column // FACTOR) * FACTOR * FACTOR
        pixel += row % FACTOR * FACTOR + column % FACTOR
    else:
        pixel = place
    real = place < rows * columns
    out = y + n * (rows * columns * 3) + pixel * 3
    tl.store(out, tl.where(image, red, 0.0).to(y.dtype.element_ty), mask=real)
    tl.store(out + 1, tl.where(image, green, 0.0).to(y.dtype.element_ty), mask=real)
    tl.store(out + 2, tl.where(image, blue, 0.0).to(y.dtype.element_ty), mask=real)


def parameters(sizes: Tensor, seed: Tensor, policy: Policy) -> Tensor:
    """The table (N, len(COLUMNS)), float32: the bits of alexkern.backends.torch.augment.parameters."""
    N = len(sizes)
    shape = (N, len(A.COLUMNS))
    table = empty(Spec(shape, contiguous_strides(shape), torch.float32), sizes.device)
    crop = {"random_resized": RANDOM_RESIZED, "center": CENTER, "random": RANDOM}.get(policy.crop, CORNER)
    ranges = (policy.scale, policy.log_ratio)
    colours = (policy.rotation, policy.brightness, policy.contrast, policy.saturation, policy.hue)
    augment_draw_kernel[(triton.cdiv(N, SAMPLES),)](
        seed, sizes, *sizes.stride(), table,
        N, threshold(policy.flip), policy.resize, *policy.size,
        int(not policy.crop.startswith("top")), int(not policy.crop.endswith("left")),
        *(value for low, high in ranges for value in (low, high - low)), *policy.ratio,
        *(value for low, high in colours for value in (low, high - low)), A.BYTES_SCALE * policy.lighting,
        CROP=crop, BLOCK=SAMPLES, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    return table


def forward(images: Tensor, sizes: Tensor, seed: Tensor, policy: Policy) -> Tensor:
    """images (N, H, W, 3) uint8, sizes (N, 2) int64 of height and width -> the batch as `policy` says."""
    with torch.cuda.device_of(images):
        return pictures(images, parameters(sizes, seed, policy), policy)


def pictures(images: Tensor, table: Tensor, policy: Policy) -> Tensor:
    """images (N, H, W, 3) uint8 and the table of their parameters -> the batch as `policy` says."""
    N, (P, Q) = len(images), policy.size
    rows, columns, before = policy.canvas
    shape = policy.shape(N)
    _, C, height, width = shape
    y = empty(Spec(shape, (height * width * C, 1, width * C, C), policy.dtype), images.device)
    changed = {name: getattr(policy, name) != getattr(Policy, name) for name in A.COLUMNS[12:16]}
    programs = triton.cdiv(P * Q, BLOCK)
    sums = table
    if changed["contrast"]:
        sums = empty(Spec((N, programs), (programs, 1), torch.float32), images.device)
        augment_grey_kernel[(N * programs,)](
            images, *images.stride(), table, sums, P, Q, programs,
            BRIGHTNESS=changed["brightness"], BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    tiles = triton.cdiv(rows * columns, BLOCK)
    augment_kernel[(N * tiles,)](
        images, *images.stride(), table, sums, y, P, Q, rows, columns, before, programs, tiles,
        *policy.mean, *policy.std,
        BRIGHTNESS=changed["brightness"], CONTRAST=changed["contrast"], SATURATION=changed["saturation"],
        HUE=changed["hue"], LIGHTING=policy.lighting != 0, IN_DEPTH=policy.space_to_depth,
        PROGRAMS=triton.next_power_of_2(programs), BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return y
