"""Files as cameras, scanners and the web make them: what is read, as which pixels, and what is damaged."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexkern.data import UnreadableImage, decode

SIZE = (20, 12)
RAMP = np.linspace(0, 255, 20 * 12 * 3).astype(np.uint8).reshape(12, 20, 3)
PICTURE = Image.fromarray(RAMP)
GREY = PICTURE.convert("L")
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM")


def written(picture: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def read(content: bytes, folder: Path, name: str = "a.jpg") -> np.ndarray:
    (folder / name).write_bytes(content)
    return decode(folder / name, 1000).numpy()


@pytest.mark.parametrize("form", FORMATS)
def test_the_content_decides_and_not_the_ending(form: str, tmp_path: Path) -> None:
    content = written(PICTURE, form)
    wanted = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    for name in ("a.jpg", "a.png", "a"):
        assert np.array_equal(read(content, tmp_path, name), wanted)


@pytest.mark.parametrize("form, cut", [(form, cut) for form in FORMATS for cut in (0.5, 0.9)])
def test_a_file_cut_short_is_damaged(form: str, cut: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(120, 160, 3), dtype=np.uint8)
    content = written(Image.fromarray(noise), form)
    with pytest.raises(UnreadableImage, match=r"^(cannot be read \(|not an image$)"):
        read(content[: int(cut * len(content))], tmp_path)


def modes() -> dict[str, tuple[bytes, np.ndarray]]:
    """File, and the pixels that the documents say."""
    deep = np.arange(240, dtype=np.uint16).reshape(12, 20) * 273
    palette = PICTURE.quantize(16)
    grey = np.asarray(GREY)
    alpha = Image.fromarray(np.dstack((RAMP, np.arange(240, dtype=np.uint8).reshape(12, 20))))
    cmyk = PICTURE.convert("CMYK")
    first, second = Image.new("RGB", SIZE, (255, 0, 0)), Image.new("RGB", SIZE, (0, 0, 255))
    frames = {"save_all": True, "append_images": [second]}

    def of_grey(plane: np.ndarray) -> np.ndarray:
        return np.repeat(plane[..., None], 3, axis=2)

    return {
        "16-bit PNG": (written(Image.fromarray(deep), "PNG"), of_grey(deep // 257)),
        "16-bit TIFF": (written(Image.fromarray(deep), "TIFF"), of_grey(deep // 257)),
        "bilevel": (written(GREY.convert("1"), "PNG"), of_grey(np.asarray(GREY.convert("1")).astype(np.uint8) * 255)),
        "palette": (written(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        "palette with transparency": (written(palette, "PNG", transparency=3), np.asarray(palette.convert("RGB"))),
        "transparency by entry": (
            written(palette, "PNG", transparency=bytes(range(16))), np.asarray(palette.convert("RGB")),
        ),
        "RGBA": (written(alpha, "PNG"), RAMP),
        "grey with alpha": (written(Image.merge("LA", (GREY, GREY)), "PNG"), of_grey(grey)),
        "CMYK": (written(cmyk, "TIFF"), np.asarray(cmyk.convert("RGB"))),
        "animated GIF": (written(first, "GIF", **frames), np.asarray(first)),
        "animated PNG": (written(first, "PNG", **frames), np.asarray(first)),
        "TIFF of two pages": (written(first, "TIFF", **frames), np.asarray(first)),
        "animated WebP": (written(first, "WEBP", lossless=True, **frames), np.asarray(first)),
    }  # fmt: skip


MODES = modes()


@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_read_as_the_documents_say(name: str, tmp_path: Path) -> None:
    content, wanted = MODES[name]
    assert np.array_equal(read(content, tmp_path), wanted)


def test_a_jpeg_for_print(tmp_path: Path) -> None:
    """CMYK, which Adobe's programs write inverted; a large one is decoded at a fraction too."""
    content = written(PICTURE.convert("CMYK").resize((800, 480)), "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(content)
    pixels = decode(tmp_path / "a.jpg", 12).numpy()
    assert pixels.shape == RAMP.shape and np.abs(pixels.astype(int) - RAMP).max() < 40


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_images_are_turned_upright(form: str, orientation: int, tmp_path: Path) -> None:
    """As the EXIF standard has it: where row 0 and column 0 are seen."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    pixels = read(written(GREY.convert("RGB"), form, exif=exif, **options), tmp_path).astype(int)
    plain = np.asarray(GREY.convert("RGB")).astype(int)
    turns = {
        2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.swapaxes(0, 1),
        6: plain.swapaxes(0, 1)[:, ::-1], 7: plain.swapaxes(0, 1)[::-1, ::-1], 8: plain.swapaxes(0, 1)[::-1],
    }  # fmt: skip
    wanted = turns.get(orientation, plain)
    assert pixels.shape == wanted.shape and np.abs(pixels - wanted).max() <= (12 if form == "JPEG" else 0)


EXIF = {
    "noise": b"Exif\0\0" + bytes(range(200)),
    "cut short": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01",
    "an entry of no type": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\xff\xff\x01\0\0\0\x06\0\0\0\0\0\0\0",
    "an orientation in words": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\x006\0\0\0\0\0\0\0",
    "many orientations": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x02\0\0\x00\x06\0\x03\0\0\0\0\0",
    "an offset beyond the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "none": b"",
}


@pytest.mark.parametrize("name", EXIF)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_loses_no_image(form: str, name: str, tmp_path: Path) -> None:
    content = written(PICTURE, form, exif=EXIF[name])
    assert sorted(read(content, tmp_path).shape) == sorted(RAMP.shape)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").mkdir()
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(UnreadableImage, match="^no regular file$"):
            decode(tmp_path / name, 64)
    with pytest.raises(UnreadableImage, match="cannot be read .*null"):
        decode(f"{tmp_path}/a\0b.jpg", 64)
