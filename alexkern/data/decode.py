"""One file to uint8 pixels of a bounded size."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from alexkern.console import first_line
from alexkern.models.transforms import to_rgb

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
MAX_PIXELS = 89_478_485  # PIL's own limit, above which it only warns: 256 MiB of pixels
MAX_ASPECT = 4  # the longer side is bounded by so many shorter ones: an image sets the size of its whole batch


class UnreadableImage(Exception):
    """A file that is no image, is damaged, or is absurdly large. The message says which, without the path."""


def decode(path: str | os.PathLike[str], bound: int) -> Tensor:
    """The image in a file as RGB, (H, W, 3) uint8, upright as its EXIF orientation says.

    An image whose shorter side is over `bound` pixels, or whose longer side is over 4 * bound, is shrunk to that, with
    antialiasing; a JPEG is then decoded at an eighth, a quarter or a half where that is enough.

    Raises:
        UnreadableImage: no image of these formats, damaged, cut short, or over 89,478,485 pixels.
    """
    with opened(path, FORMATS, "an image") as image:
        image.draft("RGB", bounded(image.width, image.height, bound))
        ImageOps.exif_transpose(image, in_place=True)
        upright = image if image.mode == "RGB" else to_rgb(image)
        size = bounded(upright.width, upright.height, bound)
        if size != upright.size:
            upright = upright.resize(size, Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(upright))


@contextmanager
def opened(path: str | os.PathLike[str], formats: tuple[str, ...], what: str) -> Iterator[Image.Image]:
    """Within the block the image of a file; whatever goes wrong with it there is an UnreadableImage, no `what`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except UnidentifiedImageError:
        raise UnreadableImage(f"not {what}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(f"too large, over {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # a damaged file may make a decoder fail in any way at all
        raise UnreadableImage(f"cannot be read ({first_line(error)})") from None


def images_in(folder: Path, endings: tuple[str, ...] = EXTENSIONS) -> list[Path]:
    """The files below a folder that are called images, sorted; those that begin with a dot are hidden."""
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sorted(file for file in files if file.suffix.lower() in endings and file.name[0] != ".")


def bounded(width: int, height: int, bound: int) -> tuple[int, int]:
    """Width and height after shrinking, at least 1 pixel each."""
    factor = max(min(width, height) / bound, max(width, height) / (MAX_ASPECT * bound), 1.0)
    return max(1, round(width / factor)), max(1, round(height / factor))
