"""torch.compile: inductor by default, with all that it can tune, with CUDA graphs, and with the weights frozen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.peer import Peer, bound

CUDA_GRAPHS = "reduce-overhead"  # the default's kernels, replayed by CUDA graphs that torch manages


class Compile(Peer):
    """channels_last is the faster layout here and the default; the contiguous one shows by how much."""

    trains = True
    cost = 1
    prepare_s = 10.0

    def __init__(
        self, name: str, *, mode: str = "default", layout: torch.memory_format = torch.channels_last,
        backend: str = "inductor", **settings: object,
    ) -> None:  # fmt: skip
        self.name, self._mode, self._layout, self._backend = name, mode, layout, backend
        self.__dict__.update(settings)  # Peer's

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        settings = {"mode": self._mode, "backend": self._backend}
        compiled = torch.compile(model.to(memory_format=self._layout), dynamic=False, **settings)
        forward = bound(compiled, example.to(memory_format=self._layout))

        def call() -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()  # the result before may be overwritten
            return forward()

        return call if self._mode == CUDA_GRAPHS else forward


class CompileFrozen(Peer):
    name = "torch.compile frozen"
    cost = 1
    prepare_s = 10.0

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
