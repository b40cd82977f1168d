"""`--dry-run`: one batch through everything that a run does with one, and what it takes; nothing is written."""

from __future__ import annotations

import resource
from typing import Any

import torch
from torch import Tensor, nn

from alexkern.training.evaluate import probabilities
from alexkern.training.trainer import Trainer


def rehearse(trainer: Trainer) -> list[str]:
    """Train on the first batch and look at the first of validation; lines with their shapes, the loss and the memory.

    Raises:
        RunFailed: as in a run.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    hook = trainer.model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    lines = []
    with trainer.explained():
        trainer.training.order.begin(0)
        batch = next(iter(trainer.training))
        trainer.damage.add(batch.damaged)
        trainer.step(batch, 1, 0, trainer.schedule.rate(0))
        trainer.agree()
        loss = trainer.step.sums[0].item() / max(1, len(batch))
        lines.append(f"a batch of training: {_shapes(batch.images, *seen[-1])}; loss {loss:.4f}")
        trainer.validation.order.begin(0)
        batch = next(iter(trainer.validation))
        trainer.damage.add(batch.damaged)
        trainer.model.eval()
        with torch.no_grad():
            probabilities(trainer.model, batch, trainer.settings)
        lines.append(f"a batch of validation: {_shapes(batch.images, *seen[-1])}")
    hook.remove()
    return [*lines, _memory(trainer.model, trainer.step.optimizer, trainer.world.device)]


def _shapes(pixels: Tensor, images: Tensor, logits: Tensor) -> str:
    steps = (("pixels", pixels), ("images", images), ("logits", logits))
    return ", ".join(f"{name} {tuple(it.shape)} {str(it.dtype).removeprefix('torch.')}" for name, it in steps)


def _memory(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> str:
    parameters = list(model.parameters())
    state: list[Any] = [value for kept in optimizer.state.values() for value in kept.values()]
    lasting = [*parameters, *(parameter.grad for parameter in parameters), *state]
    size = sum(tensor.nbytes for tensor in lasting if isinstance(tensor, Tensor))
    if device.type == "cuda":
        peak, of = torch.cuda.max_memory_allocated(device), "on the GPU"
    else:
        peak, of = (
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "of this process, torch's code included",
        )
    count = sum(parameter.numel() for parameter in parameters)
    return (
        f"memory: {count:,} parameters, with gradients and optimizer {size / 2**20:.1f} MiB; "
        f"at most {peak / 2**20:.0f} MiB {of}"
    )
