"""torch.compile: inductor by default, with all that it can tune, with CUDA graphs, and with the weights frozen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.peer import Peer, bound


class Compile(Peer):
    """channels_last is the faster layout here and the default; the contiguous one shows by how much."""

    trains = True
    cost = 1
    prepare_s = 10.0

    def __init__(self, name: str, *, mode: str = "default", layout: torch.memory_format = torch.channels_last) -> None:
        self.name = name
        self._mode = mode
        self._layout = layout

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        compiled = torch.compile(model.to(memory_format=self._layout), dynamic=False, mode=self._mode)
        return bound(compiled, example.to(memory_format=self._layout))


class CompileContiguous(Compile):
    defaults = ()

    def __init__(self) -> None:
        super().__init__("torch.compile contiguous", layout=torch.contiguous_format)


class CompileMaxAutotune(Compile):
    """Tries templates against libraries at every layer. On a CPU it gains next to nothing and takes minutes."""

    defaults = ("cuda",)
    cost = 2
    prepare_s = 60.0

    def __init__(self) -> None:
        super().__init__("torch.compile max-autotune", mode="max-autotune-no-cudagraphs")


class CompileCudaGraphs(Compile):
    """The default's kernels, replayed by CUDA graphs that torch manages."""

    devices = "cuda"

    def __init__(self) -> None:
        super().__init__("torch.compile CUDA graphs", mode="reduce-overhead")

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        forward = super().prepare(model, example)

        def call() -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()  # the result before may be overwritten
            return forward()

        return call


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
