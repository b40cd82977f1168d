"""One file to uint8 pixels of a bounded size."""

from __future__ import annotations

import os
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                image.draft("RGB", bounded(image.width, image.height, bound))
                ImageOps.exif_transpose(image, in_place=True)
                upright = image if image.mode == "RGB" else to_rgb(image)
                size = bounded(upright.width, upright.height, bound)
                if size != upright.size:
                    upright = upright.resize(size, Image.Resampling.BILINEAR)
                return torch.from_numpy(np.array(upright))
    except UnidentifiedImageError:
        raise UnreadableImage("not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(f"too large, over {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # a damaged file may make a decoder fail in any way at all
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnreadableImage(f"cannot be read ({reason})") from None


def bounded(width: int, height: int, bound: int) -> tuple[int, int]:
    """Width and height after shrinking, at least 1 pixel each."""
    factor = max(min(width, height) / bound, max(width, height) / (MAX_ASPECT * bound), 1.0)
    return max(1, round(width / factor)), max(1, round(height / factor))
