"""Train AlexNet on real handwriting, on a CPU, in a few minutes; then read digits with it.

scikit-learn ships 1,797 handwritten digits of 8 x 8 pixels (a part of UCI's optical recognition of handwritten digits).
They are enlarged to 63 x 63, the smallest image that AlexNet takes. A fifth of them, never seen in training, tells how
well the network reads.

    python examples/digits.py --out digits.safetensors --images digits
    alexkern classify digits --weights digits.safetensors --top 3
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

import alexkern
from alexkern.models import AlexNet, ImageClassification, save_weights

CLASSES = tuple("0123456789")
SIZE = 63
TRANSFORMS = ImageClassification(crop_size=SIZE, resize_size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
MAX_SHIFT = 6  # pixels of 63: less than one of the 8 x 8
HELD_OUT = 0.2


@dataclass(frozen=True)
class Digits:
    """Images (N, 3, 8, 8) uint8, black paper, and their classes (N,) int64."""

    images: Tensor
    classes: Tensor


def load(seed: int = 0) -> tuple[Digits, Digits]:
    """The digits to train with, and the held-out fifth: the same share of each class in both."""
    digits = load_digits()
    pixels = (torch.from_numpy(digits.images) * (255 / 16)).round().to(torch.uint8)  # (N, 8, 8), 0 to 16 in the file
    images, classes = pixels.unsqueeze(1).expand(-1, 3, -1, -1), torch.from_numpy(digits.target)
    parts = train_test_split(range(len(classes)), test_size=HELD_OUT, stratify=digits.target, random_state=seed)
    train, test = (Digits(images[part], classes[part]) for part in parts)
    return train, test


def build() -> AlexNet:
    """An untrained AlexNet for digits, which knows its classes and how its images are prepared."""
    model = alexkern.models.alexnet(num_classes=len(CLASSES))
    model.classes, model.preprocessing = CLASSES, TRANSFORMS
    return model


def train(model: AlexNet, digits: Digits, epochs: int, batch_size: int, learning_rate: float) -> Iterator[float]:
    """Train the model in place, and yield the loss of every step, `steps(...)` of them."""
    inputs = model.transforms()(digits.images)  # (N, 3, 63, 63)
    # Fused, a step over the 57 million parameters takes a tenth of forward and backward; otherwise as long as they do.
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01, fused=True)
    total = steps(digits, epochs, batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=total, pct_start=0.2)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(batch_size):
            loss = F.cross_entropy(model(shifted(inputs[batch])), digits.classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            yield loss.item()


def steps(digits: Digits, epochs: int, batch_size: int) -> int:
    """How many steps `train` takes."""
    return epochs * math.ceil(len(digits.classes) / batch_size)


def shifted(inputs: Tensor) -> Tensor:
    """Each image (3, H, W) of the batch moved by its own few pixels, black (-1) where nothing was."""
    height, width = inputs.shape[-2:]
    padded = F.pad(inputs, (MAX_SHIFT,) * 4, value=-1.0)
    corners = torch.randint(0, 2 * MAX_SHIFT + 1, (len(inputs), 2)).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)])


@torch.inference_mode()
def predict(model: AlexNet, images: Tensor) -> Tensor:
    """The most probable class of each image (N, 3, 8, 8): (N,) int64."""
    model.eval()
    inputs = model.transforms()(images)
    return torch.cat([model(batch).argmax(dim=1) for batch in inputs.split(128)])


def confusion_matrix(classes: Tensor, predictions: Tensor) -> Tensor:
    """Counts (10, 10): how many digits of class row were read as column."""
    cells = classes * len(CLASSES) + predictions
    return torch.bincount(cells, minlength=len(CLASSES) ** 2).view(len(CLASSES), len(CLASSES))


def report(console: Console, matrix: Tensor) -> None:
    """Print the confusion matrix, and each confusion in words, the most frequent first."""
    table = Table("written", *CLASSES, title="read as", title_justify="left")
    for name, row in zip(CLASSES, matrix.tolist(), strict=True):
        table.add_row(name, *(str(count) if count else "." for count in row))
    console.print(table)
    mistakes = matrix - matrix.diag().diag()
    for cell in mistakes.flatten().argsort(descending=True, stable=True)[: mistakes.count_nonzero()].tolist():
        written, read = divmod(cell, len(CLASSES))
        console.print(f"{CLASSES[written]} read as {CLASSES[read]}: {matrix[written, read]}", highlight=False)


def write_images(digits: Digits, folder: Path) -> None:
    """Write the digits as 8 x 8 greyscale PNG files, the class first in the name."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(digits.images, digits.classes.tolist(), strict=True)):
        Image.fromarray(image[0].numpy()).save(folder / f"{CLASSES[label]}_{index:03d}.png")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train AlexNet on scikit-learn's handwritten digits.")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the digits (default: 12)")
    parser.add_argument("--batch-size", type=int, default=64, help="digits a step (default: 64)")
    parser.add_argument("--learning-rate", type=float, default=6e-4, help="AdamW's, at its peak (default: 6e-4)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, shifts and dropout (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("digits.safetensors"), help="the weights file to write")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="write the held-out digits there as PNG files")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.batch_size < 1:
        parser.error(f"--epochs and --batch-size must be at least 1, got {args.epochs} and {args.batch_size}")
    if args.out.suffix != ".safetensors" or not args.out.parent.is_dir():
        parser.error(f"--out must be a .safetensors file in a folder that exists, got {args.out}")

    torch.manual_seed(args.seed)
    console = Console()
    training, held_out = load()
    model = build()
    start = time.monotonic()
    bar = (TextColumn("loss {task.fields[loss]:.3f}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bar, TimeRemainingColumn(), console=console) as progress:
        total = steps(training, args.epochs, args.batch_size)
        task = progress.add_task("train", total=total, loss=math.log(len(CLASSES)))
        for loss in train(model, training, args.epochs, args.batch_size, args.learning_rate):
            progress.update(task, advance=1, loss=loss)
    predictions = predict(model, held_out.images)
    report(console, confusion_matrix(held_out.classes, predictions))
    right, count = int((predictions == held_out.classes).sum()), len(predictions)
    console.print(f"{right} of {count} held-out digits read right: {right / count:.1%}", highlight=False)
    save_weights(model, args.out)
    console.print(f"{args.out} written; {time.monotonic() - start:.0f} s", highlight=False)
    if args.images is not None:
        write_images(held_out, args.images)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
