"""What a network takes images of each class for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern.data import Loader
from alexkern.drawing import blank, style
from alexkern.training.evaluate import Damaged, probabilities
from alexkern.training.settings import Settings


@dataclass(frozen=True)
class Confusion:
    """counts[i, j]: images of class i that are taken for class j; among_five: those of each class that are found so."""

    classes: Sequence[str]
    counts: Tensor
    among_five: Tensor
    loss: float

    def as_data(self) -> dict[str, Any]:
        """For JSON: shares are of 1, and nan where there is no image."""
        images, right = self.counts.sum(dim=1), self.counts.diag()
        total = int(images.sum())
        rows = zip(self.classes, images.tolist(), right.tolist(), self.among_five.tolist(), strict=True)
        return {
            "images": total,
            "loss": self.loss,
            "top1": _share(int(right.sum()), total),
            "top5": _share(int(self.among_five.sum()), total),
            "classes": [
                {"class": name, "images": n, "top1": _share(first, n), "top5": _share(five, n)}
                for name, n, first, five in rows
            ],
            "confusion": self.counts.tolist(),
        }

    def draw(self, path: Path) -> None:
        """Write a picture, in the form that the file's name ends in.

        Raises:
            NotDrawn: matplotlib is missing.
            ValueError: matplotlib does not know the form.
        """
        with style():
            size = min(24.0, max(4.0, 0.25 * len(self.classes)))
            figure = blank(size + 1, size, "Shares of each class (row) that are taken for a class (column)")
            axes = figure.subplots()
            shares = self.counts / self.counts.sum(dim=1, keepdim=True).clamp(min=1)
            figure.colorbar(axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1), shrink=0.6)
            axes.grid(False)
            axes.set_xlabel("taken for")
            axes.set_ylabel("is")
            if len(self.classes) <= 100:
                axes.set_xticks(range(len(self.classes)), self.classes, rotation=90)
                axes.set_yticks(range(len(self.classes)), self.classes)
            figure.savefig(path, dpi=150)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


@torch.no_grad()
def confusion(
    model: nn.Module, classes: Sequence[str], loader: Loader, settings: Settings, damaged: Damaged
) -> Confusion:
    """By the network, in eval mode, on the loader's images."""
    counts = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    among_five = torch.zeros(len(classes), dtype=torch.int64)
    loss = 0.0
    loader.order.begin(0)
    for batch in loader:
        damaged(batch.damaged)
        if not len(batch):
            continue
        guesses, labels = probabilities(model, batch, settings).cpu(), batch.labels.cpu()
        best = guesses.topk(min(5, len(classes)), dim=1).indices
        counts.index_put_((labels, best[:, 0]), torch.ones_like(labels), accumulate=True)
        among_five.index_add_(0, labels, (best == labels.view(-1, 1)).any(dim=1).long())
        loss += F.nll_loss(guesses.clamp(min=1e-30).log(), labels, reduction="sum").item()
    return Confusion(classes, counts, among_five, loss / int(counts.sum()) if counts.any() else math.nan)
