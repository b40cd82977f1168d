"""alexkern in the comparison of whole networks: the model as built, and its inference snapshot."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import alexkern
from alexkern.bench.peers.peer import Peer, bound


class Alexkern(Peer):
    name = "alexkern"
    trains = True

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        model.to(memory_format=torch.channels_last)
        return bound(model, example.to(memory_format=torch.channels_last))


class Frozen(Peer):
    name = "alexkern frozen"

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        example = example.to(memory_format=torch.channels_last)
        return bound(alexkern.freeze(model.to(memory_format=torch.channels_last), example), example)


CONTENDERS: tuple[Peer, ...] = (Alexkern(), Frozen()) if hasattr(alexkern, "freeze") else (Alexkern(),)
