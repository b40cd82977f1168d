"""torchvision's own AlexNet, where the network compared is that one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.peer import Peer, bound


class Torchvision(Peer):
    name = "torchvision"
    trains = True
    models = ("alexnet",)
    packages = ("torchvision",)

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        import torchvision

        dropout = next(module.p for module in model.modules() if isinstance(module, nn.Dropout))
        with torch.device("meta"):  # draws no weights
            theirs = torchvision.models.alexnet(dropout=dropout).train(model.training)
        # The parameters are those of `model`, which is what a training step updates.
        for name, parameter in model.named_parameters():
            module, _, leaf = name.rpartition(".")
            setattr(theirs.get_submodule(module), leaf, parameter)
        theirs.to(memory_format=torch.channels_last)
        return bound(theirs, example.to(memory_format=torch.channels_last))
