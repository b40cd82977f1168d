"""torch as it is, in both layouts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.peer import Peer, bound


class Eager(Peer):
    name = "torch"
    trains = True

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        return bound(model, example)


class EagerChannelsLast(Peer):
    name = "torch channels_last"
    trains = True

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        return bound(model.to(memory_format=torch.channels_last), example.to(memory_format=torch.channels_last))
