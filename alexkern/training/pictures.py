"""Pictures of a run: the curves of its log, and the first layer's filters as in the paper's figure 3."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from alexkern.training.log import Row

WIDTH, HEIGHT, MARGIN = 420, 260, 44  # of one panel, in SVG's pixels
COLOURS = {"training": "#1f77b4", "validation": "#d62728"}
Curve = tuple[str, list[tuple[float, float]]]  # name, and points (epoch, value)


def curves(rows: Sequence[Row], path: Path) -> None:
    """Write an SVG file: the loss on the left, the share of right first guesses on the right, by epoch."""
    panels: list[tuple[str, list[Curve]]] = []
    for title, training, validation in (
        ("loss", lambda row: row.train_loss, lambda row: row.val_loss),
        ("top-1", lambda row: row.train_top1, lambda row: row.val_top1),
    ):
        panels.append((title, [("training", _points(rows, training)), ("validation", _points(rows, validation))]))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {2 * WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{2 * WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for index, (title, lines) in enumerate(panels):
        parts += _panel(title, lines, index * WIDTH, 1.0 if title == "top-1" else None)
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _points(rows: Sequence[Row], value: Callable[[Row], float]) -> list[tuple[float, float]]:
    return [(row.epoch, value(row)) for row in rows if math.isfinite(value(row))]


def _panel(title: str, lines: Sequence[Curve], left: float, top: float | None) -> list[str]:
    points = [point for _, line in lines for point in line]
    last = max((epoch for epoch, _ in points), default=1)
    highest = top or max((value for _, value in points), default=1.0) or 1.0
    x0, x1, y0, y1 = left + MARGIN, left + WIDTH - 12, HEIGHT - MARGIN + 8, 28

    def place(epoch: float, value: float) -> tuple[float, float]:
        return x0 + (x1 - x0) * (epoch - 1) / max(1, last - 1), y0 + (y1 - y0) * value / highest

    parts = [f'<text x="{(x0 + x1) / 2:.1f}" y="16" text-anchor="middle">{escape(title)}</text>']
    for tick in range(5):
        value = highest * tick / 4
        _, y = place(1, value)
        parts.append(f'<line x1="{x0}" y1="{y:.1f}" x2="{x1}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2g}</text>')
    for epoch in sorted({1, round((1 + last) / 2), int(last)}):
        x, _ = place(epoch, 0)
        parts.append(f'<text x="{x:.1f}" y="{y0 + 18}" text-anchor="middle">{epoch}</text>')
    parts.append(f'<text x="{(x0 + x1) / 2:.1f}" y="{HEIGHT - 6}" text-anchor="middle">epoch</text>')
    for number, (name, line) in enumerate(lines):
        if not line:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        x, y = place(*line[-1])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x0 + 8 + 80 * number}" y="{y0 - 8}" fill="{COLOURS[name]}">{name}</text>')
    return parts


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
