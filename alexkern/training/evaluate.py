"""Top-1 and top-5 on the validation images, from the centre crop or the paper's ten crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern.data import Batch, Loader
from alexkern.functional import augment
from alexkern.training.settings import PRECISIONS, Settings
from alexkern.training.world import World

Damaged = Callable[[Sequence[tuple[str, str]]], None]  # takes the paths and reasons of a batch
Between = Callable[[], object]  # called after each batch
TEN_CROPS = tuple(
    (crop, flip) for flip in (0.0, 1.0) for crop in ("center", "top_left", "top_right", "bottom_left", "bottom_right")
)


@dataclass(frozen=True)
class Score:
    """The mean cross entropy, and the shares of images whose class is the first guess, or one of five."""

    loss: float = math.nan
    top1: float = math.nan
    top5: float = math.nan


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Loader, settings: Settings, world: World, damaged: Damaged, between: Between = int
) -> Score:
    """The model's score on the loader's images, over all processes. The model is left in the mode it was in."""
    training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)
    loader.order.begin(0)
    try:
        for batch in loader:
            damaged(batch.damaged)
            if len(batch):
                sums += _sums(probabilities(model, batch, settings), batch.labels)
            between()
    finally:
        model.train(training)
    loss, top1, top5, count = world.sum(sums.tolist())
    return Score(loss / count, top1 / count, top5 / count) if count else Score()


def probabilities(model: nn.Module, batch: Batch, settings: Settings) -> Tensor:
    """(N, classes), float32: the mean over the crops, which is how [Krizhevsky 2012, section 4.1] joins them."""
    crops = TEN_CROPS if settings.ten_crops else TEN_CROPS[:1]
    dtype = PRECISIONS[settings.precision]
    seed = torch.zeros(2, dtype=torch.int64, device=batch.images.device)  # nothing is left to chance
    total: Tensor | float = 0.0
    for crop, flip in crops:
        images = augment(
            batch.images, sizes=batch.sizes, crop=crop, flip=flip, seed=seed, dtype=dtype or torch.float32,
            **settings.preparation,
        )  # fmt: skip
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            logits = model(images)
        total = total + logits.float().softmax(dim=1)
    assert isinstance(total, Tensor)
    return total / len(crops)


def _sums(guesses: Tensor, labels: Tensor) -> Tensor:
    """(loss, right at first, right among five, images), float64."""
    loss = F.nll_loss(guesses.clamp(min=1e-30).log(), labels, reduction="sum")
    best = guesses.topk(min(5, guesses.shape[1]), dim=1).indices == labels.view(-1, 1)
    return torch.stack((loss, best[:, 0].sum(), best.sum(), torch.tensor(len(labels), device=loss.device))).double()
