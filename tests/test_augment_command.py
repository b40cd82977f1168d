"""`alexkern augment`: the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexkern import cli
from alexkern.data import decode
from alexkern.functional import augment
from support.tiny import write_images


def test_the_sheet(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = write_images(tmp_path / "images", 1)
    out = tmp_path / "sheet.png"
    line = ["augment", str(images), "--out", str(out), "--count", "4", "--size", "32", "--seed", "3"]
    assert cli.main(line) == 0
    assert capsys.readouterr().out == f"{out}: 3 images, 4 times each\n"
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (3 * 34 + 2, 5 * 34 + 2, 3) and (sheet[:2] == 255).all() and (sheet[:, 34:36] == 255).all()
    pictures = [[sheet[2 + 34 * r :, 2 + 34 * c :][:32, :32] for c in range(5)] for r in range(3)]
    for row, channel in zip(pictures, (2, 1, 0), strict=True):  # blue, green, red: the first is as it is
        assert row[0].reshape(-1, 3).mean(axis=0).argmax() == channel
        assert len({picture.tobytes() for picture in row}) == 5
    for name, row in zip(("blue", "green", "red"), pictures, strict=True):
        source = decode(images / name / "0.png", 64)
        same = {"crop": "center", "flip": 0.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        plain = augment([source], 32, **same)[0].permute(1, 2, 0).mul(255).round().numpy()
        assert np.array_equal(row[0], plain)
    assert cli.main(line) == 0 and np.array_equal(np.asarray(Image.open(out)), sheet)
    assert cli.main([*line, "--seed", "4"]) == 0 and not np.array_equal(np.asarray(Image.open(out)), sheet)
    capsys.readouterr()
    assert cli.main([*line, "--most", "1"]) == 0
    assert capsys.readouterr().out == f"{out}: 1 images, 4 times each\n"


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = write_images(tmp_path / "images", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_text("no image")
    for arguments, words in (
        ([tmp_path / "nothing"], "nothing: no such file or folder"),
        ([tmp_path / "empty"], "empty: no images in this folder"),
        ([tmp_path / "bad.png"], "bad.png: not an image"),
        (
            [images, "--size", "1024", "--count", "100"],
            "a sheet of 317,718,528 pixels; wanted at most 89,478,485: less",
        ),
        ([images, "--out", tmp_path / "none" / "s.png"], "none/s.png: cannot be written"),
    ):
        assert cli.main(["augment", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("alexkern augment: ") and words in line
