"""torch as it is, in both layouts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.peer import Peer, bound


class Eager(Peer):
    trains = True

    def __init__(self, name: str, layout: torch.memory_format) -> None:
        self.name, self._layout = name, layout

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        return bound(model.to(memory_format=self._layout), example.to(memory_format=self._layout))


LAYOUTS = {"torch": torch.contiguous_format, "torch channels_last": torch.channels_last}
EAGER = tuple(Eager(*named) for named in LAYOUTS.items())
