"""One file to uint8 pixels of a bounded size."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from alexkern.console import first_line
from alexkern.data.folders import walk
from alexkern.models.transforms import to_rgb

# Of files in folders. What a file is decides what it has in it.
EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 89_478_485  # PIL's own limit, above which it only warns: 256 MiB of pixels
MAX_ASPECT = 4  # the longer side is bounded by so many shorter ones: an image sets the size of its whole batch
ORIENTATION = 0x0112  # EXIF's number of the tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """A file that is no image, is damaged, or is absurdly large. The message says which, without the path."""


def decode(path: str | os.PathLike[str], bound: int) -> Tensor:
    """The image in a file as RGB, (H, W, 3) uint8, upright as its EXIF orientation says.

    An image whose shorter side is over `bound` pixels, or whose longer side is over 4 * bound, is shrunk to that, with
    antialiasing; a JPEG is then decoded at an eighth, a quarter or a half where that is enough.

    Raises:
        UnreadableImage: no image of these formats, damaged, cut short, or over 89,478,485 pixels.
    """
    return torch.from_numpy(np.array(read(path, bound)))


def read(path: str | os.PathLike[str], bound: int) -> Image.Image:
    """The same as a PIL image, of mode RGB."""
    with opened(path) as image:
        image.draft("RGB", bounded(image.width, image.height, bound))
        found = to_rgb(upright(image))
        size = bounded(found.width, found.height, bound)
        return found if size == found.size else found.resize(size, Image.Resampling.BILINEAR)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Within the block the image of a file; whatever goes wrong with it there is an UnreadableImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if os.path.exists(path) and not os.path.isfile(path):  # opening a FIFO would wait for its writer
                raise UnreadableImage("no regular file")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(image.width * image.height)
                yield image
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        size = f", {int(pixels[0]):,} pixels" if pixels else ""
        raise UnreadableImage(f"too large{size}; wanted at most {MAX_PIXELS:,}") from None
    except Exception as error:  # a damaged file may make a decoder fail in any way at all
        raise UnreadableImage(f"cannot be read ({first_line(error)})") from None


def upright(image: Image.Image) -> Image.Image:
    """The image, decoded, and turned as its EXIF orientation says; damaged EXIF says nothing."""
    image.load()  # a TIFF is upright then, and says so
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as damaged files do
        return image
    return image if turn is None else image.transpose(turn)


def images_in(folder: Path) -> list[Path]:
    """The files below a folder that are called images, by code point, as training finds them."""
    return [Path(file) for file in walk(str(folder))[0] if file.lower().endswith(EXTENSIONS)]


def bounded(width: int, height: int, bound: int) -> tuple[int, int]:
    """Width and height after shrinking, at least 1 pixel each."""
    factor = max(min(width, height) / bound, max(width, height) / (MAX_ASPECT * bound), 1.0)
    return max(1, round(width / factor)), max(1, round(height / factor))
