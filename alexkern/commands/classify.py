"""`alexkern classify`: what a network sees in images."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor

from alexkern.commands import EXIT_BAD_INPUT, EXIT_PARTLY, CommandError, add_number, device, network, print_json
from alexkern.console import Console, first_line, printable
from alexkern.data.decode import UnreadableImage, images_in, opened, upright
from alexkern.data.text import read_lines
from alexkern.models import MODELS, AlexNet, ImageClassification
from alexkern.models.weights import HEAD

HELP = "name what is in images"
DESCRIPTION = "Print the most probable classes of images, by a network of which you have the weights."
Guess = tuple[str, int, float]  # class name, index, probability


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The images, and everything about the network that looks at them."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or a folder of them")
    parser.add_argument("--weights", required=True, metavar="W", help="a .safetensors or .pth file, or IMAGENET1K_V1")
    parser.add_argument("--model", choices=list(MODELS), help="default: what the weights file says, else alexnet")
    parser.add_argument("--labels", metavar="F", help="class names, one a line; default: those in the weights file")
    add_number(parser, "--top", 5, "classes to print an image", metavar="K")
    add_number(parser, "--batch-size", 16, "images at once")
    form = parser.add_mutually_exclusive_group()
    for name in filter(None, FORMS):
        told = f"print {name.upper()} in place of tables"
        form.add_argument(f"--{name}", action="store_const", dest="form", const=name, help=told)
    parser.add_argument("--quiet", action="store_true", help="no bar")
    parser.add_argument("--device", help="a torch device; default: cuda where there is a GPU, else cpu")


def run(args: argparse.Namespace) -> int:
    """Print what is in each image, in order; 1 where one cannot be read, 2 where one is not there.

    What is wrong with an image is a line on stderr, and its row in JSON and CSV.
    """
    model = network(args.weights, args.model).to(device(args.device)).eval()
    names = _class_names(args.labels, model)
    paths, absent = find_images(args.images)
    show = FORMS[args.form]()
    for path, reason in absent.items():
        _report(path, reason)
        show.error(path, reason)
    unreadable: dict[Path, str] = {}
    errors = Console(stderr=True)
    columns = (TextColumn("classify"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = args.quiet or not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=hidden) as progress:
        task = progress.add_task("classify", total=len(paths))
        for start in range(0, len(paths), args.batch_size):
            batch = paths[start : start + args.batch_size]
            images, damaged = _read_images(batch, model.transforms())
            found = iter(_predict(model, list(images.values()), args.top) if images else [])
            progress.stop()  # the bar and what is printed may share a terminal
            for path in dict.fromkeys(batch):
                if path in damaged:
                    _report(path, damaged[path])
                    show.error(path, damaged[path])
                else:
                    show.guesses(path, [(names[index], index, share) for share, index in next(found)])
            unreadable |= damaged
            progress.start()
            progress.advance(task, len(batch))
    show.end()
    return EXIT_BAD_INPUT if absent else EXIT_PARTLY if unreadable else 0


class _Tables:
    """An image's path, and a table of its classes."""

    def guesses(self, path: Path, guesses: Sequence[Guess]) -> None:
        table = Table()
        table.add_column("probability", justify="right")
        table.add_column("class")
        for name, _, share in guesses:
            # Text, not str: rich would read square brackets in a name as markup.
            table.add_row(f"{share:.2%}", Text(printable(name)))
        output = Console()
        output.print(Text(printable(str(path))), soft_wrap=True)
        output.print(table)

    def error(self, path: Path, reason: str) -> None:
        """An image that is not there or cannot be read."""

    def end(self) -> None:
        """There are no more."""


class _Csv(_Tables):
    """A row a class, and a row an image that cannot be read, as they come."""

    def __init__(self) -> None:
        self.writer = csv.writer(sys.stdout, lineterminator="\n")
        self.writer.writerow(("path", "rank", "class", "index", "probability", "error"))

    def guesses(self, path: Path, guesses: Sequence[Guess]) -> None:
        self.writer.writerows((path, rank, *guess, "") for rank, guess in enumerate(guesses, 1))

    def error(self, path: Path, reason: str) -> None:
        self.writer.writerow((path, "", "", "", "", reason))


class _Json(_Tables):
    """One object, when all is known."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []

    def guesses(self, path: Path, guesses: Sequence[Guess]) -> None:
        classes = [{"class": name, "index": index, "probability": share} for name, index, share in guesses]
        self.images.append({"path": str(path), "classes": classes})

    def error(self, path: Path, reason: str) -> None:
        self.images.append({"path": str(path), "error": reason})

    def end(self) -> None:
        print_json({"images": self.images})


FORMS: dict[str | None, type[_Tables]] = {None: _Tables, "json": _Json, "csv": _Csv}


def _class_names(labels: str | None, model: AlexNet) -> Sequence[str]:
    num_classes = len(model.get_parameter(f"{HEAD}.bias"))
    if labels is None:
        return model.classes or [str(index) for index in range(num_classes)]
    try:
        names = [line for line in read_lines(labels) if line.strip()]
    except (OSError, ValueError) as error:
        raise CommandError(f"--labels {labels}: cannot be read ({first_line(error)})") from error
    if len(names) != num_classes:
        raise CommandError(f"--labels {labels}: {len(names)} lines, but the network has {num_classes} classes")
    return names


def find_images(arguments: Sequence[str]) -> tuple[list[Path], dict[Path, str]]:
    """The files that the arguments name, folders walked in sorted order, and why there is none for some of them."""
    paths: list[Path] = []
    absent = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = images_in(path)
            paths += found
            if not found:
                absent[path] = "no images in this folder"
        elif path.exists():
            paths.append(path)
        else:
            absent[path] = "no such file or folder"
    return paths, absent


def _read_images(paths: Sequence[Path], transforms: ImageClassification) -> tuple[dict[Path, Tensor], dict[Path, str]]:
    """The images (3, crop_size, crop_size) that can be read, and what is wrong with each that cannot."""
    images, damaged = {}, {}
    for path in paths:
        try:
            with opened(path) as image:
                images[path] = transforms(upright(image))
        except UnreadableImage as error:
            damaged[path] = str(error)
    return images, damaged


@torch.inference_mode()
def _predict(model: AlexNet, images: Sequence[Tensor], top: int) -> list[list[tuple[float, int]]]:
    """For each image (probability, class), the most probable first."""
    logits = model(torch.stack(list(images)).to(next(model.parameters()).device))
    best = logits.softmax(dim=1).topk(min(top, logits.shape[1]), dim=1)
    return [list(zip(*row, strict=True)) for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def _report(path: Path, reason: str) -> None:
    print(printable(f"alexkern classify: {path}: {reason}"), file=sys.stderr)
