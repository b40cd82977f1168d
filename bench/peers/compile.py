"""torch.compile with inductor, and inductor with the weights frozen into the code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.peer import Peer, bound


class Compile(Peer):
    """channels_last is the faster layout here and the default; the contiguous one shows by how much."""

    trains = True

    def __init__(self, torch_layout: str) -> None:
        self.default = torch_layout == "channels_last"
        self.name = "torch.compile" if self.default else "torch.compile contiguous"
        self._layout = torch.channels_last if self.default else torch.contiguous_format

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        compiled = torch.compile(model.to(memory_format=self._layout), dynamic=False)
        return bound(compiled, example.to(memory_format=self._layout))


class CompileFrozen(Peer):
    name = "torch.compile frozen"

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        from torch._inductor import config

        example = example.to(memory_format=torch.channels_last)
        compiled = torch.compile(model.to(memory_format=torch.channels_last), dynamic=False)
        with torch.no_grad(), config.patch(freezing=True):  # read when the first call compiles
            compiled(example)

        def call() -> Tensor:
            with torch.no_grad():  # inference_mode would compile anew, without freezing
                return compiled(example)

        return call
