"""One step: augment, forward, loss, backward, clip, optimiser, and the sums that the epoch's row is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern.data import Batch
from alexkern.functional import augment
from alexkern.graph import Graphed
from alexkern.training.settings import PRECISIONS, Settings
from alexkern.training.world import World, average_gradients_of

STREAM = 0x616C6578  # added to the run's seed: augmentation's own key among Philox's streams
NEVER = 2**62


class Step:
    """Trains `model` in place, batch after batch.

    sums: float64 (loss, right answers, images) of the epoch so far, on the device. first_bad: the first step whose loss
    was not finite. Reading either stalls a GPU, so nobody does in between.
    """

    def __init__(self, model: nn.Module, settings: Settings, world: World, graphed: bool = False) -> None:
        self.model, self.settings, self.world, self.graphed = model, settings, world, graphed
        self.parallel = average_gradients_of(model, world)
        self.optimizer = build_optimizer(model, settings)
        device = world.device.type
        self.scaler = torch.amp.GradScaler(device, enabled=settings.precision == "fp16")
        self.sums = torch.zeros(3, dtype=torch.float64, device=world.device)
        self.first_bad = torch.full((), NEVER, dtype=torch.int64, device=world.device)
        self.captured: Graphed | None = None

    def __call__(self, batch: Batch, number: int, first_image: int, rate: float) -> None:
        """Step `number` of the run; its images are numbered from `first_image` on over the whole run."""
        images = self.pictures(batch, first_image)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.graphed and len(batch) == self.settings.batch_size:
            if self.captured is None:
                self.captured = Graphed(self.new_gradients, (images, batch.labels), "the training step")
            loss, right = self.captured.replay(images, batch.labels)
        elif self.captured is not None:  # the graph goes on writing gradients where they lie now
            self.optimizer.zero_grad(set_to_none=False)
            loss, right = self.gradients(images, batch.labels)
        else:
            loss, right = self.new_gradients(images, batch.labels)
        self.first_bad = torch.where(torch.isfinite(loss), self.first_bad, self.first_bad.clamp(max=number))
        if self.world.device.type == "cpu" and self.bad_step() is not None:
            return  # reading costs nothing here, and the weights stay what they were
        self.update()
        self.sums += torch.stack((loss.double() * len(batch), right.double(), loss.new_tensor(len(batch)).double()))

    def pictures(self, batch: Batch, first_image: int) -> Tensor:
        """The batch, augmented: image i of the run is augmented alike however many processes share the run."""
        numbers = (self.settings.seed + STREAM, 16 * first_image)
        seed = torch.tensor(numbers, dtype=torch.int64, device=batch.images.device)
        dtype = PRECISIONS[self.settings.precision] or torch.float32
        return augment(batch.images, sizes=batch.sizes, seed=seed, dtype=dtype, **self.settings.augmentation)

    def new_gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `gradients`, where none are left from before."""
        self.optimizer.zero_grad(set_to_none=True)
        return self.gradients(images, labels)

    def gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Add to the parameters' gradients; the mean loss and the number of right answers."""
        dtype = PRECISIONS[self.settings.precision]
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            logits = self.parallel(images)
        # A batch of nothing but damaged images has a loss of 0, and gradients for the other processes to wait for.
        smoothing = self.settings.label_smoothing
        total = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing, reduction="sum")
        loss = total / max(1, len(labels))
        self.scaler.scale(loss).backward()
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    def update(self) -> None:
        """Clip, and let the optimiser step."""
        if self.settings.clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def bad_step(self) -> int | None:
        """The first step whose loss was not finite, if there was one."""
        first = int(self.first_bad.item())
        return None if first == NEVER else first


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """SGD with momentum and weight decay, or AdamW, each in its fused form: one pass over all parameters."""
    parameters, rate, decay = model.parameters(), settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(parameters, rate, momentum=settings.momentum, weight_decay=decay, fused=True)
