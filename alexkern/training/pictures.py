"""Pictures of a run: the curves of its log, and the first layer's filters as in the paper's figure 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn

from alexkern.drawing import blank, style, svg
from alexkern.training.log import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = {"loss": ("train_loss", "val_loss"), "top-1": ("train_top1", "val_top1")}  # columns of the log
LINES = {"training": ("#0072b2", "-"), "validation": ("#d55e00", "--")}


def write_curves(rows: Sequence[Row], path: Path) -> None:
    """Write an SVG file of a log's curves.

    Raises:
        NotDrawn: matplotlib is missing.
    """
    with style():
        path.write_text(svg(curves(rows)), encoding="utf-8")


def curves(rows: Sequence[Row]) -> Figure:
    """The loss on the left, the share of right first guesses on the right, by epoch."""
    figure = blank(8.4, 3, "Loss and share of right first guesses by epoch")
    for axes, (title, columns) in zip(figure.subplots(1, 2), PLOTS.items(), strict=True):
        for column, (name, (color, dashes)) in zip(columns, LINES.items(), strict=True):
            points = [(row.epoch, getattr(row, column)) for row in rows if math.isfinite(getattr(row, column))]
            if points:
                axes.plot(*zip(*points, strict=True), dashes, color=color, marker="o", markevery=[-1], label=name)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.set_ylim(0, 1 if title == "top-1" else None)
        axes.legend(handles=list(axes.lines))
    return figure


def filters(model: nn.Module, path: Path, scale: int = 4, gap: int = 1) -> None:
    """Write a PNG file of the first convolution's filters, each spread over all of black to white.

    The first layer has (K, 3, R, S) weights; the picture has about as many rows as columns.
    """
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    sheet(normalised(first.weight.detach().float().cpu()), path, scale, gap)


def normalised(weight: Tensor) -> Tensor:
    """(K, C, R, S) of any values to (K, R, S, C) uint8, each filter from 0 to 255."""
    low, high = weight.amin(dim=(1, 2, 3), keepdim=True), weight.amax(dim=(1, 2, 3), keepdim=True)
    spread = (weight - low) / (high - low).clamp(min=1e-12)
    return spread.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)


def sheet(images: Tensor, path: Path, scale: int = 1, gap: int = 2, columns: int | None = None) -> None:
    """Write images (N, H, W, 3) uint8 as one PNG file, row after row, white between them."""
    N, H, W, _ = images.shape
    columns = columns or math.ceil(math.sqrt(N))
    rows = math.ceil(N / columns)
    paper = torch.full((rows * (H + gap) + gap, columns * (W + gap) + gap, 3), 255, dtype=torch.uint8)
    for n, image in enumerate(images):
        top, left = gap + n // columns * (H + gap), gap + n % columns * (W + gap)
        paper[top : top + H, left : left + W] = image
    picture = Image.fromarray(paper.numpy())
    picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST).save(path, format="PNG")
