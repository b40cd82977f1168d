"""`alexkern classify`: what a network sees in images."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor

from alexkern.commands import CommandError, add_number, network
from alexkern.console import Console, first_line, printable
from alexkern.data.decode import MAX_PIXELS, UnreadableImage, images_in, opened, upright
from alexkern.data.text import read_lines
from alexkern.models import MODELS, AlexNet, ImageClassification
from alexkern.models.weights import HEAD

HELP = "name what is in images"
DESCRIPTION = "Print the most probable classes of images, by a network of which you have the weights."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The images, and everything about the network that looks at them."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or a folder of them")
    parser.add_argument("--weights", required=True, metavar="W", help="a .safetensors or .pth file, or IMAGENET1K_V1")
    parser.add_argument("--model", choices=list(MODELS), help="default: what the weights file says, else alexnet")
    parser.add_argument("--labels", metavar="F", help="class names, one a line; default: those in the weights file")
    add_number(parser, "--top", 5, "classes to print an image", metavar="K")
    add_number(parser, "--batch-size", 16, "images at once")
    parser.add_argument("--device", help="a torch device; default: cuda where there is a GPU, else cpu")


def run(args: argparse.Namespace) -> int:
    """Print a table an image. Every image that cannot be read gets a line on stderr and makes the exit status 2."""
    device = _device(args.device)
    model = network(args.weights, args.model).to(device).eval()
    names = _class_names(args.labels, model)
    paths, problems = _find_images(args.images)
    _report(problems)
    output, errors = Console(), Console(stderr=True)
    columns = (TextColumn("classify"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("classify", total=len(paths))
        for start in range(0, len(paths), args.batch_size):
            batch = paths[start : start + args.batch_size]
            images, unreadable = _read_images(batch, model.transforms())
            tables = _predict(model, list(images.values()), names, args.top) if images else []
            progress.stop()  # the bar and what is printed may share a terminal
            for path, table in zip(images, tables, strict=True):
                output.print(Text(printable(str(path))), soft_wrap=True)
                output.print(table)
            _report(unreadable)
            problems += unreadable
            progress.start()
            progress.advance(task, len(batch))
    return 2 if problems else 0


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {name}: {first_line(error)}") from error
    return device


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


def _find_images(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files that the arguments name, folders walked in sorted order, and a line for each that is not there."""
    paths, problems = [], []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = images_in(path)
            paths += found
            if not found:
                problems.append(f"{path}: no images in this folder")
        elif path.exists():
            paths.append(path)
        else:
            problems.append(f"{path}: no such file or folder")
    return paths, problems


def _read_images(paths: Sequence[Path], transforms: ImageClassification) -> tuple[dict[Path, Tensor], list[str]]:
    """The images (3, crop_size, crop_size) that can be read, and a line for each that cannot."""
    images, problems = {}, []
    for path in paths:
        try:
            with opened(path) as image:
                # A very long and thin image is small, but not once its shorter side has been enlarged.
                pixels = math.prod(transforms.resized_shape(image.height, image.width))
                if pixels > MAX_PIXELS:
                    raise Image.DecompressionBombError(pixels)
                images[path] = transforms(upright(image))
        except UnreadableImage as error:
            problems.append(f"{path}: {error}")
    return images, problems


@torch.inference_mode()
def _predict(model: AlexNet, images: Sequence[Tensor], names: Sequence[str], top: int) -> list[Table]:
    logits = model(torch.stack(list(images)).to(next(model.parameters()).device))
    probabilities, classes = logits.softmax(dim=1).topk(min(top, logits.shape[1]), dim=1)
    tables = []
    for row in zip(probabilities.tolist(), classes.tolist(), strict=True):
        table = Table()
        table.add_column("probability", justify="right")
        table.add_column("class")
        for probability, index in zip(*row, strict=True):
            # Text, not str: rich would read square brackets in a name as markup.
            table.add_row(f"{probability:.2%}", Text(printable(names[index])))
        tables.append(table)
    return tables


def _report(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"alexkern classify: {printable(problem)}", file=sys.stderr)
