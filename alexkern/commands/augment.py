"""`alexkern augment`: a contact sheet of augmented images, to see what a network is trained on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexkern.augmentation import CROPS
from alexkern.commands import CommandError, add_number
from alexkern.commands.classify import find_images
from alexkern.console import first_line
from alexkern.data.decode import MAX_PIXELS, UnreadableImage, decode
from alexkern.functional import augment
from alexkern.training.pictures import sheet

HELP = "write a contact sheet of augmented images"
DESCRIPTION = "Augment each image a few times, as training would, and write the results side by side as one PNG file."
IDENTITY: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The images, what is done to them, and where the sheet goes."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or a folder of them")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), metavar="F", help="default: sheet.png")
    add_number(parser, "--count", 8, "pictures of each image")
    add_number(parser, "--most", 8, "images at most")
    add_number(parser, "--size", 112, "pixels", "thumbnail")
    parser.add_argument("--crop", choices=CROPS, default="random_resized", help="default: random_resized")
    add_number(parser, "--seed", 0)
    for name, default in (
        ("flip", 0.5), ("rotation", 10.0), ("brightness", 0.3), ("contrast", 0.3), ("saturation", 0.3), ("hue", 0.05),
        ("lighting", 0.1),
    ):  # fmt: skip
        add_number(parser, f"--{name}", default, metavar="X")


def run(args: argparse.Namespace) -> int:
    """Write the sheet: a row an image, first the centre crop, then its augmentations."""
    images = _read(args.images, args.most, 2 * args.size)
    pixels = len(images) * (args.count + 1) * args.size**2
    if pixels > MAX_PIXELS:
        raise CommandError(
            f"a sheet of {pixels:,} pixels; wanted at most {MAX_PIXELS:,}: less --most, --count or --size"
        )
    try:
        sheet(_pictures(images, args), args.out, columns=args.count + 1)
    except ValueError as error:
        raise CommandError(first_line(error)) from None
    except OSError as error:
        raise CommandError(f"--out {args.out}: cannot be written ({first_line(error)})") from None
    print(f"{args.out}: {len(images)} images, {args.count} times each")
    return 0


def _pictures(images: list[Tensor], args: argparse.Namespace) -> Tensor:
    """(N * (count + 1), size, size, 3) uint8."""
    names = ("crop", "flip", "rotation", "brightness", "contrast", "saturation", "hue", "lighting")
    options = {name: getattr(args, name) for name in names}
    repeated = [image for image in images for _ in range(args.count)]
    drawn = augment(repeated, args.size, seed=torch.tensor([args.seed, 0]), **options, **IDENTITY)
    plain = augment(images, args.size, crop="center", flip=0.0, **IDENTITY)
    both = torch.cat((plain.unsqueeze(1), drawn.unflatten(0, (len(images), args.count))), dim=1).flatten(0, 1)
    return both.permute(0, 2, 3, 1).mul(255).round().clamp(0, 255).to(torch.uint8)


def _read(arguments: list[str], most: int, bound: int) -> list[Tensor]:
    files, absent = find_images(arguments)
    for path, reason in absent.items():
        raise CommandError(f"{path}: {reason}")
    images: list[Tensor] = []
    for file in files[:most]:
        try:
            images.append(decode(file, bound))
        except UnreadableImage as error:
            raise CommandError(f"{file}: {error}") from None
    return images
