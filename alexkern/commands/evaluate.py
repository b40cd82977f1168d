"""`alexkern evaluate`: how often a network is right on images whose classes are known."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from alexkern.commands import EXIT_PARTLY, CommandError, add_number, device, network, print_json
from alexkern.console import first_line, printable, table
from alexkern.data import BatchOrder, DataError, Loader, Samples, find_samples
from alexkern.drawing import NotDrawn
from alexkern.models import MODELS, AlexNet
from alexkern.models.weights import HEAD
from alexkern.training import Settings, TrainingError
from alexkern.training.confusion import Confusion, confusion
from alexkern.training.errors import cause

HELP = "how often a network is right on a folder of images"
DESCRIPTION = (
    "Print the share of images whose class a network guesses first, or among five, over all and for each class, as "
    "training does for its validation images."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The network, the images, and how the result is shown."""
    parser.add_argument("weights", metavar="WEIGHTS", help="a .safetensors or .pth file, or IMAGENET1K_V1")
    parser.add_argument("data", metavar="FOLDER", help="FOLDER/CLASS/IMAGE, or a list file with 'IMAGE CLASS' lines")
    parser.add_argument("--model", choices=list(MODELS), help="default: what the weights file says, else alexnet")
    add_number(parser, "--batch-size", 64, "images at once")
    cores = max(1, min(8, (os.cpu_count() or 1) - 1))
    add_number(parser, "--workers", cores, "decoding processes")
    parser.add_argument("--device", help="a torch device; default: cuda where there is a GPU, else cpu")
    parser.add_argument("--ten-crops", action="store_true", help="the mean over the paper's ten crops")
    parser.add_argument("--confusion", type=Path, metavar="F", help="draw what is taken for what: .svg, .png or .pdf")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")


def run(args: argparse.Namespace) -> int:
    """Print it; 1 where an image cannot be read or the picture not be drawn."""
    on = device(args.device)
    model = network(args.weights, args.model).to(on).eval()
    problems: list[tuple[str, str]] = []
    try:
        samples = _samples(args.data, model)
        seen = model.transforms()
        settings = Settings(
            size=seen.crop_size, resize=seen.resize_size, mean=seen.mean, std=seen.std, ten_crops=args.ten_crops
        )
        order = BatchOrder(len(samples), args.batch_size, shuffle=False)
        loader = Loader(samples, order, bound=settings.decoded_size, workers=max(0, args.workers), device=on)
        found = confusion(model, samples.classes, loader, settings, problems.extend)
    except (DataError, TrainingError) as error:
        raise CommandError(str(error)) from None
    except RuntimeError as error:
        raise CommandError(cause(error), EXIT_PARTLY) from None
    for path, reason in problems:
        print(printable(f"alexkern evaluate: {path}: {reason}; left out"), file=sys.stderr)
    if args.json:
        damaged = [{"path": path, "error": reason} for path, reason in problems]
        print_json({"weights": args.weights, "data": args.data, **found.as_data(), "damaged": damaged})
    else:
        print(_text(found))
    drawn = args.confusion is None or _draw(found, args.confusion)
    return EXIT_PARTLY if problems or not drawn else 0


def _samples(source: str, model: AlexNet) -> Samples:
    """The images, with labels in the order of the network's classes: by their names, or by number where it has none."""
    samples = find_samples(source, model.classes)
    count = len(model.get_parameter(f"{HEAD}.bias"))
    if len(samples.classes) != count:
        raise CommandError(f"{source}: {len(samples.classes)} classes, but the network has {count}, without names")
    return samples


def _text(found: Confusion) -> str:
    data = found.as_data()
    if not data["images"]:
        return "no image can be read"
    rows = [("class", "images", "top-1", "top-5", "most often taken for")]
    others = found.counts.clone().fill_diagonal_(0)
    for row, wrong in zip(data["classes"], others, strict=True):
        if row["images"]:
            most = f"{found.classes[int(wrong.argmax())]} ({int(wrong.max())})" if wrong.any() else ""
            cells = row["class"], str(row["images"]), f"{row['top1']:.1%}", f"{row['top5']:.1%}", most
            rows.append(cells)
    head = f"{data['images']} images: loss {data['loss']:.4f}, top-1 {data['top1']:.1%}, top-5 {data['top5']:.1%}"
    return "\n".join([head, "", *map(printable, table(rows))])


def _draw(found: Confusion, path: Path) -> bool:
    try:
        found.draw(path)
    except NotDrawn as error:
        print(f"alexkern evaluate: {error}", file=sys.stderr)
        return False
    except (OSError, ValueError) as error:
        raise CommandError(f"--confusion {path}: {first_line(error)}") from None
    return True
