"""What augment's checks and its backends share: the policy, the table of parameters, the counters, the constants."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

Pair = tuple[float, float]
Triple = tuple[float, float, float]

# Of RGB in [0, 1].
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

CROPS = ("random_resized", "random", "center", "top_left", "top_right", "bottom_left", "bottom_right")

# A sample's numbers in the table that the draw makes and the sampling reads, float32, in this order. The box is where
# the output lies in the source, in pixels; the window has the only pixels that are read; `fill` is 1 where what is
# missing from it counts as black, 0 where the weights of what is there are scaled up instead.
COLUMNS = (
    "top", "left", "height", "width", "cos", "sin", "flip",
    "window_top", "window_bottom", "window_left", "window_right", "fill",
    "brightness", "contrast", "saturation", "hue", "red", "green", "blue",
)  # fmt: skip

# Sample n owns the Philox blocks 16 * n to 16 * n + 15 behind the offset, and these are what they decide.
BLOCKS = 16
SWITCHES = 0  # words: flip, angle, brightness, contrast
COLOURS = 1  # words: saturation, hue, unused, unused
LIGHTING = 2  # blocks 2, 3 and 4: the 16 bytes of each make one normal deviate
PLACE = 5  # words: top and left of the crop "random", unused, unused
ATTEMPTS = 6  # blocks 6 to 15: area, aspect ratio, top, left of ten attempts at a "random_resized" crop
MAX_ATTEMPTS = 10

# The sum of 16 bytes has mean 16 * 127.5 and variance 16 * (256**2 - 1) / 12.
BYTES_MEAN, BYTES_SCALE = 2040.0, (16 * (2**16 - 1) / 12) ** -0.5

# Of RGB in [0, 1] over ImageNet. Krizhevsky, Sutskever, Hinton (2012) give none in section 4.1; these are the numbers
# of fb.resnet.torch (datasets/imagenet.lua). A row of VECTORS belongs to a channel, a column to an eigenvalue.
EIGENVALUES: Triple = (0.2175, 0.0188, 0.0045)
EIGENVECTORS: tuple[Triple, Triple, Triple] = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
GREY: Triple = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue

# Taylor coefficients, lowest power first: of sin(r * pi / 2) / r and cos(r * pi / 2) in r**2, and of 2**f in f. Both
# backends evaluate them by Horner's rule in float32, each product and sum rounded by itself.
SINE = tuple((-1) ** k * (math.pi / 2) ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(5))
COSINE = tuple((-1) ** k * (math.pi / 2) ** (2 * k) / math.factorial(2 * k) for k in range(6))
EXP2 = tuple(math.log(2) ** k / math.factorial(k) for k in range(7))

# The first layer of AlexNet: an 11 x 11 filter at every 4th pixel, 2 pixels of padding.
FACTOR, KERNEL, PADDING = 4, 11, 2


@dataclass(frozen=True)
class Policy:
    """What is done to every image of a batch: ranges, from which each image has its own numbers drawn.

    Angles are in degrees; scale is a share of the image's area. Everything is checked by `alexkern.functional.augment`.
    """

    size: tuple[int, int]  # height and width that come out
    crop: str = "random_resized"
    resize: int = 256  # the shorter side before every crop but "random_resized"
    scale: Pair = (0.08, 1.0)
    ratio: Pair = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotation: Pair = (0.0, 0.0)
    brightness: Pair = (1.0, 1.0)
    contrast: Pair = (1.0, 1.0)
    saturation: Pair = (1.0, 1.0)
    hue: Pair = (0.0, 0.0)
    lighting: float = 0.0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    dtype: torch.dtype = torch.float32
    space_to_depth: bool = False

    @property
    def log_ratio(self) -> Pair:
        return math.log2(self.ratio[0]), math.log2(self.ratio[1])

    @property
    def canvas(self) -> tuple[int, int, int]:
        """Rows and columns of pixels that are written, and how many rows and columns of zeros come before the image."""
        if not self.space_to_depth:
            return (*self.size, 0)
        rows, columns = ((size + 2 * PADDING - KERNEL) // FACTOR + 1 + 2 for size in self.size)
        return FACTOR * rows, FACTOR * columns, PADDING

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """Of the output for `count` images, (N, C, H, W)."""
        rows, columns, _ = self.canvas
        if self.space_to_depth:
            return count, 3 * FACTOR * FACTOR, rows // FACTOR, columns // FACTOR
        return count, 3, rows, columns


def lighting_matrix() -> tuple[Triple, Triple, Triple]:
    """Rows for red, green and blue: what each of three deviates adds to it."""
    red, green, blue = (
        tuple(part * value for part, value in zip(row, EIGENVALUES, strict=True)) for row in EIGENVECTORS
    )
    return red, green, blue  # type: ignore[return-value]
